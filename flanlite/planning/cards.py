"""The cards that a plan can be made for: memory, arithmetic, bandwidth and compute capability.

Where the numbers come from: NVIDIA's architecture whitepapers (Turing, GA102, Ada, RTX Blackwell) for GeForce, whose
tensor cores add in 32 bits at half the rate of adding in 16, and the data sheets of the T4, V100, A10, L4, L40S, A100,
H100, H200 and of the RTX A series, which have no such brake. Where a sheet gives only the rate with sparsity, half of
it stands here; the RTX 3050 6GB and 4090 D go by their cores and clock. All are limits on paper; no card has been
measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from flanlite.errors import FlanliteError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """A card by name: bytes of memory, dense 16-bit TFLOP/s with 32-bit sums, GB/s, and NVIDIA's compute capability.

    Of one that is not `is_known` the arithmetic and the bandwidth are guesses.
    """

    name: str
    memory_bytes: int
    tflops: float
    gb_per_s: float
    capability: tuple[int, int]
    is_known: bool = True


def _cards(capability: tuple[int, int], *rows: tuple[str, float, float, float]) -> tuple[Card, ...]:
    return tuple(Card(name, round(gib * GIB), tflops, rate, capability) for name, gib, tflops, rate in rows)


CARDS = (
    *_cards(
        (7, 5),
        ("RTX 2060", 6, 25.8, 336),
        ("RTX 2060 Super", 8, 28.7, 448),
        ("RTX 2070", 8, 29.9, 448),
        ("RTX 2070 Super", 8, 36.3, 448),
        ("RTX 2080", 8, 40.3, 448),
        ("RTX 2080 Super", 8, 44.6, 496),
        ("RTX 2080 Ti", 11, 53.8, 616),
        ("T4", 14.6, 65, 320),
    ),
    *_cards(
        (8, 6),
        ("RTX 3050", 8, 18.2, 224),
        ("RTX 3050 6GB", 6, 13.5, 168),
        ("RTX 3060", 12, 25.5, 360),
        ("RTX 3060 8GB", 8, 25.5, 240),
        ("RTX 3060 Ti", 8, 32.4, 448),
        ("RTX 3070", 8, 40.6, 448),
        ("RTX 3070 Ti", 8, 43.5, 608),
        ("RTX 3080", 10, 59.5, 760),
        ("RTX 3080 12GB", 12, 61.3, 912),
        ("RTX 3080 Ti", 12, 68.2, 912),
        ("RTX 3090", 24, 71, 936),
        ("RTX 3090 Ti", 24, 80, 1008),
        ("RTX A4000", 16, 76.7, 448),
        ("RTX A4500", 20, 94.6, 640),
        ("RTX A5000", 24, 111.1, 768),
        ("RTX A6000", 47.5, 154.8, 768),
        ("A10", 22, 125, 600),
    ),
    *_cards(
        (8, 9),
        ("RTX 4060", 8, 30.2, 272),
        ("RTX 4060 Ti", 8, 44.1, 288),
        ("RTX 4060 Ti 16GB", 16, 44.1, 288),
        ("RTX 4070", 12, 58.3, 504),
        ("RTX 4070 Super", 12, 70.9, 504),
        ("RTX 4070 Ti", 12, 80.2, 504),
        ("RTX 4070 Ti Super", 16, 88.2, 672),
        ("RTX 4080", 16, 97.5, 717),
        ("RTX 4080 Super", 16, 104.4, 736),
        ("RTX 4090", 24, 165.2, 1008),
        ("RTX 4090 D", 24, 147.1, 1008),
        ("L4", 22, 121, 300),
        ("L40S", 44.4, 362, 864),
    ),
    *_cards(
        (12, 0),
        ("RTX 5060", 8, 38.4, 448),
        ("RTX 5060 Ti", 8, 47.4, 448),
        ("RTX 5060 Ti 16GB", 16, 47.4, 448),
        ("RTX 5070", 12, 61.7, 672),
        ("RTX 5070 Ti", 16, 87.9, 896),
        ("RTX 5080", 16, 112.6, 960),
        ("RTX 5090", 31.8, 209.5, 1792),
    ),
    *_cards((7, 0), ("V100", 16, 125, 900), ("V100 32GB", 32, 125, 900)),
    *_cards((8, 0), ("A100", 39.4, 312, 1555), ("A100 80GB", 79.2, 312, 1935)),
    *_cards((9, 0), ("H100 PCIe", 79.2, 756, 2000), ("H100", 79.2, 989, 3350), ("H200", 139.8, 989, 4800)),
)
"""Desktop and data-centre cards. GiB as the driver tells them, which with error correction is less than on the box."""

PARTS_AND_KIN = frozenset({"d", "grid", "laptop", "max", "mig", "mobile", "nvl"})
"""Words in the names of cards that are slower, or only a part, of what they are named after."""

BOX_SHARE = 0.9
"""A driver tells at least so much of the memory that the box promises."""

DESKTOP_SHARE, DESKTOP_BYTES = 0.04, GIB
"""Of the memory of a card that is only named, what its driver and a desktop are taken to hold; at most so many bytes,
since a larger card has no more screens."""

UNKNOWN = Card("a card", 0, 40.0, 400.0, (8, 0), is_known=False)
"""What is assumed of a card that is not in the table."""


def find_card(name: str) -> Card:
    """The card of that name, however it is spelt: rtx-4090, RTX 4090, 4090, RTX 3080 10GB, a100-40gb.

    Raises FlanliteError naming the nearest.
    """
    by_key = {_key(card.name): card for card in CARDS}
    if _key(name) in by_key:
        return by_key[_key(name)]
    model, gib = _model_and_gib(name)
    for card in CARDS:
        if _key(_model(card)) == _key(model) and BOX_SHARE * gib <= card.memory_bytes / GIB <= gib:
            return card
    nearest = [option(by_key[near]) for near in get_close_matches(_key(model), by_key, n=3, cutoff=0.5)]
    guess = f"{'The nearest by name' if nearest else 'Known'}: {', '.join(nearest or map(option, CARDS))}. "
    raise FlanliteError(
        f"There is no card {name!r} in the table.", f"{guess}For any other card, give its memory: --vram {gib or 12}."
    )


def free_bytes_of(memory_bytes: int) -> int:
    """What a tune may have of a card with so much memory, of which nothing else is known."""
    return memory_bytes - min(round(DESKTOP_SHARE * memory_bytes), DESKTOP_BYTES)


def card_like(name: str, memory_bytes: int, capability: tuple[int, int]) -> Card:
    """The card that its driver calls `name`, with its own memory; the speed of one not in the table is a guess."""
    return replace(card_meant(name, memory_bytes), name=name, memory_bytes=memory_bytes, capability=capability)


def card_meant(name: str, memory_bytes: int) -> Card:
    """The card of the table that a driver calls `name`, with the nearest memory; UNKNOWN where there is none."""
    said = _words(name)
    kin = PARTS_AND_KIN & set(said.split())
    fitting = [card for card in CARDS if f" {_model(card)} " in f" {said} " and kin <= set(_model(card).split())]
    return max(fitting, key=lambda card: (len(_model(card)), -abs(card.memory_bytes - memory_bytes)), default=UNKNOWN)


def option(card: Card) -> str:
    """A card's name as the command line takes it."""
    return card.name.lower().replace(" ", "-")


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def _model(card: Card) -> str:
    """The words of its name without the size of its memory, which drivers tell by other means."""
    return _model_and_gib(card.name)[0]


def _model_and_gib(name: str) -> tuple[str, int]:
    """The words of a card's name without the size of its memory, and that size; 0 where it is not said."""
    words = _words(name)
    size = re.search(r"(?:^| )(\d+) ?gi?b$", words)
    return (words[: size.start()], int(size[1])) if size else (words, 0)


def _key(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|rtx|[^a-z0-9]", "", name.lower())
