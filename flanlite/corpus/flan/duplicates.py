"""Rows that were there before: the same but for case and blanks, or nearly the same by MinHash (Broder, 1997).

A row has two sides, what is asked and what is said to it, and two rows are alike where both sides are: not questions on
one page that have different answers, nor one answer to different questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flanlite.corpus.flan.shingles import constants, run_hashes, word_hashes
from flanlite.corpus.raw.reading import Said

Signature = NDArray[np.uint32]

DUPLICATE = "a duplicate of another row"
NEAR_DUPLICATE = "a near duplicate of another row"
BEGINNING = "the beginning of a longer row"

SHINGLE_WORDS = 3
BANDS, BAND_ROWS = 16, 8
"""Rows that share nine tenths of their shingles share one of the bands 9,999 times in 10,000; half, 1 in 16."""
SIMILARITY = 0.8
"""Sides are alike from this share of common shingles on, as the Jaccard index counts it; under it bands miss many."""
MOST_COMPARED = 16
"""A row is compared with so many others of each band at most, the latest: rows of one template share bands by the
thousand, and all pairs of them would take hours."""

_ROWS = BANDS * BAND_ROWS
_FACTORS = constants(0, _ROWS)[:, None] | np.uint64(1)
_SUMMANDS = constants(_ROWS, _ROWS)[:, None]
_BAND_WEIGHTS = constants(2 * _ROWS, _ROWS).reshape(BANDS, BAND_ROWS)
_BLOCK = 64
"""So many shingles at once that what is made of them stays in a core's cache."""


class Marks(NamedTuple):
    """What a row is known by: fingerprints of its beginnings, the last of the whole row, and its sides' signatures.

    `tools` are the names of those on offer; `said` is of the replies that are trained.
    """

    beginnings: list[bytes]
    tools: frozenset[str]
    asked: Signature
    said: Signature


def marks_of(said: Sequence[Said], tools: Iterable[str] = ()) -> Marks:
    """The marks of a row in which this is said, with tools of these names on offer."""
    asked = "\n".join(each.asked for each in said)
    taught = "\n".join(each.reply for each in said if each.trained)
    return Marks(fingerprints(said), frozenset(tools), signature(asked), signature(taught))


def reasons_to_drop(rows: Sequence[Marks]) -> Iterator[str]:
    """For each row in order why it adds nothing to the others, or "" where it is to be kept.

    A longer row that begins with it has to offer its tools, too: a refusal beside other tools is another one. Of rows
    that say the same, or nearly, the first is kept, whatever tools are on offer.
    """
    longer = _beginnings(rows)
    seen: set[bytes] = set()
    near = NearDuplicates()
    for row in rows:
        whole = row.beginnings[-1]
        if any(row.tools <= tools for tools in longer[whole]):
            yield BEGINNING
        elif whole in seen:
            yield DUPLICATE
        else:
            seen.add(whole)
            yield NEAR_DUPLICATE if near.add(row.asked, row.said) else ""


def _beginnings(rows: Sequence[Marks]) -> Mapping[bytes, set[frozenset[str]]]:
    """For each whole row the tools that are on offer in those that go on where it ends."""
    found: dict[bytes, set[frozenset[str]]] = {row.beginnings[-1]: set() for row in rows}
    for row in rows:
        for beginning in row.beginnings[:-1]:
            if beginning in found:
                found[beginning].add(row.tools)
    return found


def fingerprints(said: Iterable[Said]) -> list[bytes]:
    """16 bytes for each beginning of a row up to a reply, the last for the whole of it.

    Two rows share one only where they begin with the same, but for case and blanks, and with the same trained.
    """
    found: list[bytes] = []
    digest = blake2b(digest_size=16)
    for each in said:
        for text in (each.asked, each.reply, str(each.trained)):
            plain = " ".join(text.casefold().split())
            digest.update(plain.encode("utf-8", "surrogatepass") + b"\n")
        found.append(digest.digest())
    return found


def signature(text: str) -> Signature:
    """128 numbers; the share of places at which two texts' are equal tells how many shingles the texts share.

    A shingle is a run of SHINGLE_WORDS words; a shorter text is one shingle, and all texts without words are alike.
    """
    words = word_hashes(text)
    shingles = run_hashes(words, min(SHINGLE_WORDS, max(len(words), 1)))
    lowest = np.full(_ROWS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), _BLOCK):
        permuted = _FACTORS * shingles[start : start + _BLOCK]
        permuted += _SUMMANDS
        np.minimum(lowest, permuted.min(axis=1), out=lowest)
    # The low halves: the high bits of the lowest of many numbers are all 0.
    return lowest.astype(np.uint32)


class NearDuplicates:
    """The rows so far that are no duplicates, by the signatures of their two sides."""

    def __init__(self) -> None:
        self._kept: list[Signature] = []
        # Chains: a band's latest row, and for each row the one before it in each of its bands.
        self._latest: dict[int, int] = {}
        self._before: list[tuple[int | None, ...]] = []

    def add(self, asked: Signature, said: Signature) -> bool:
        """Whether both sides are like those of one row so far; if not, remember this row."""
        both = np.stack((asked, said))
        bands = _bands(asked, said)
        if near := sorted(set(self._sharing(bands))):
            similarities = (np.stack([self._kept[position] for position in near]) == both).mean(axis=2)
            if (similarities.min(axis=1) >= SIMILARITY).any():
                return True
        self._before.append(tuple(map(self._latest.get, bands)))
        self._latest.update(dict.fromkeys(bands, len(self._kept)))
        self._kept.append(both)
        return False

    def _sharing(self, bands: list[int]) -> Iterator[int]:
        """The positions of the latest rows that have one of the bands."""
        for number, band in enumerate(bands):
            yield from islice(self._chain(number, band), MOST_COMPARED)

    def _chain(self, number: int, band: int) -> Iterator[int]:
        position = self._latest.get(band)
        while position is not None:
            yield position
            position = self._before[position][number]


def _bands(asked: Signature, said: Signature) -> list[int]:
    """A number for each run of BAND_ROWS places, which are of the one side and of the other in turn."""
    places = said.astype(np.uint64)
    places[::2] = asked[::2]
    bands: list[int] = (places.reshape(BANDS, BAND_ROWS) * _BAND_WEIGHTS).sum(axis=1).tolist()
    return bands
