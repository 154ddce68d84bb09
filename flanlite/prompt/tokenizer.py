"""One tokenizer for every stage, without transformers or torch: text segments to ids, ids to text.

SentencePiece BPE models (`tokenizer.model`, as Llama-2's) are preferred where a folder has both files: they are the
reference, and their blanks and merge order are easy to lose in a conversion. They are encoded word by word through a
cache, which is exact: no piece of such a vocabulary holds a blank behind another character, so no merge ever crosses
into the next word. Everything else goes through the `tokenizers` library as a whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from flanlite.errors import FlanliteError
from flanlite.prompt.segments import Segment

BLANK = "\u2581"
"""SentencePiece's sign for a blank."""

SOLO_CANDIDATES = "\n0123456789\u0d46\u0d3f"
"""Characters that are worth a word border of their own where no longer piece of the vocabulary holds them."""

CACHED_WORDS = 200_000
"""Words kept per process, some 40 MB; the cache starts anew when full."""

PROBE = 'Hé,  two   blanks\t\n\n  ﬁ Å \u0d46 𝕏 {"a": [1, 23]}  end '
"""A text on which a vocabulary of another kind, or with a normalizer of its own, shows itself."""


class Tokenizer:
    """Text to ids and back, with the special tokens and the chat template that belong to it."""

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any], *, by_word: bool = False) -> None:
        self.backend = backend
        self.config = config
        self.bos_token = config.get("bos_token") or ""
        self.eos_token = config.get("eos_token") or ""
        self.chat_template: str | None = config.get("chat_template")
        self._by_word = by_word
        # Such a tokenizer cannot encode the middle of a text alone; its blanks are token borders anyway.
        self._prefixes_blank = backend.encode("x", add_special_tokens=False).tokens[0].startswith(BLANK)
        self._words: dict[str, list[int]] = {}
        self._word: re.Pattern[str] | None = None
        if by_word:
            self._solo = _solo_characters(backend.get_vocab())
            self._word = re.compile(f"{BLANK}*[^{BLANK}{self._solo}]+|{BLANK}+|[{self._solo}]")
            self._bare = tokenizers.Tokenizer.from_str(backend.to_str())
            self._bare.normalizer = None
            self._bare.encode_special_tokens = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its cache, for worker processes."""
        return partial(Tokenizer, by_word=self._by_word), (self.backend, self.config)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a model folder's tokenizer. Raises FlanliteError where it has none that can be read."""
        config = _read_config(folder)
        try:
            state = _read_json(folder / "tokenizer.json")
            model = folder / "tokenizer.model"
            reference = _sentencepiece_state(model) if model.is_file() else None
            # A pad token added behind the vocabulary, as in some copies of Llama-2, has no row in the embedding.
            added = _added_tokens(state) - {"<pad>", "[PAD]", config.get("pad_token")} if state else set()
            if reference and added <= reference["model"]["vocab"].keys():
                return cls(tokenizers.Tokenizer.from_str(json.dumps(reference)), config, by_word=True)
            if state is None:
                raise FlanliteError(
                    f"{folder} has no tokenizer.json, and no tokenizer.model of SentencePiece's BPE kind.",
                    "Name a folder with a whole model in it.",
                )
            return cls(tokenizers.Tokenizer.from_str(json.dumps(_with_whole_offsets(state))), config)
        except (ValueError, RuntimeError) as error:
            raise FlanliteError(f"The tokenizer in {folder} cannot be read: {error}.") from error

    def find_id(self, token: str) -> int | None:
        """The id of one piece, or None where the vocabulary lacks it."""
        found: int | None = self.backend.token_to_id(token)
        return found

    def id_of(self, token: str) -> int:
        """The id of a special token. Raises FlanliteError where the vocabulary lacks it."""
        found = self.find_id(token) if token else None
        if found is None:
            raise FlanliteError(
                f"The tokenizer has no token {token!r}, which the template needs.", "Choose another template."
            )
        return found

    @property
    def pad_id(self) -> int:
        """The padding id: the pad token, else `<unk>` (Llama-2's custom), else EOS."""
        names = (self.config.get("pad_token"), self.config.get("unk_token"), self.eos_token)
        return next(found for name in names if name and (found := self.find_id(name)) is not None)

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The control tokens' texts."""
        added = self.backend.get_added_tokens_decoder().values()
        return tuple(token.content for token in added if token.special)

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the ids."""
        tokens = (self.bos_token, self.eos_token, self.config.get("pad_token"), self.config.get("unk_token"))
        return hashlib.sha256(f"{self.backend.to_str()}{tokens}".encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """The ids of one plain text; control tokens' names in it are text like any other."""
        return self.encode_segments([Segment(text)])[0]

    def encode_segments(self, segments: Iterable[Segment]) -> tuple[list[int], list[int]]:
        """Ids of rendered segments, and for each segment how many ids there are up to its end.

        Stretches of text between special segments are encoded as one text each. A token that crosses from one
        segment into the next counts for the one that is not trained.
        """
        ids: list[int] = []
        ends: list[int] = []
        stretch: list[Segment] = []
        for segment in segments:
            if segment.special:
                self._encode_stretch(stretch, ids, ends)
                stretch = []
                ids.append(self.id_of(segment.text))
                ends.append(len(ids))
            else:
                stretch.append(segment)
        self._encode_stretch(stretch, ids, ends)
        return ids, ends

    def encode_with_specials(self, segments: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """As `encode_segments`, but the control tokens' names in the text are control tokens.

        This is what `apply_chat_template` of transformers does with a rendered template, except that the text is cut
        where an assistant's turn begins: there the prompt ends in a chat, so no token may reach across.
        """
        ids: list[int] = []
        ends: list[int] = []
        self.backend.encode_special_tokens = False
        start = 0
        for index, (before, segment) in enumerate(pairwise(segments), 1):
            if segment.role == "assistant" and before.role != "assistant" and not self._prefixes_blank:
                self._encode_with_offsets(segments[start:index], ids, ends)
                start = index
        self._encode_with_offsets(segments[start:], ids, ends)
        return ids, ends

    def decode(self, ids: Sequence[int], *, with_specials: bool = False) -> str:
        """The text of ids; control tokens are left out unless asked for."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=not with_specials)
        return text

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja as transformers reads them."""
        self.backend.encode_special_tokens = False
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=False), encoding="utf-8")
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        # The generic class takes tokenizer.json as it is; LlamaTokenizer would rebuild it in its own way.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8"
        )
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")

    def _encode_stretch(self, stretch: Sequence[Segment], ids: list[int], ends: list[int]) -> None:
        if not stretch:
            return
        if self._word is not None and any(segment.text for segment in stretch):
            texts = [segment.text.replace(" ", BLANK) for segment in stretch]
            if self._are_word_borders(texts):
                self._encode_words([BLANK + texts[0], *texts[1:]], ids, ends)
                return
        self.backend.encode_special_tokens = True
        self._encode_with_offsets(stretch, ids, ends)

    def _are_word_borders(self, texts: Sequence[str]) -> bool:
        filled = [text for text in texts if text]
        return all(
            (after[0] == BLANK and before[-1] != BLANK) or before[-1] in self._solo or after[0] in self._solo
            for before, after in pairwise(filled)
        )

    def _encode_words(self, texts: Iterable[str], ids: list[int], ends: list[int]) -> None:
        words, find = self._words, self._word.findall  # type: ignore[union-attr]
        for text in texts:
            for word in find(text):
                known = words.get(word)
                ids += known if known is not None else self._encode_word(word)
            ends.append(len(ids))

    def _encode_word(self, word: str) -> list[int]:
        if len(self._words) >= CACHED_WORDS:
            self._words.clear()
        ids: list[int] = self._bare.encode(word, add_special_tokens=False).ids
        self._words[word] = ids
        return ids

    def _encode_with_offsets(self, segments: Sequence[Segment], ids: list[int], ends: list[int]) -> None:
        if not segments:
            return
        encoding = self.backend.encode("".join(segment.text for segment in segments), add_special_tokens=False)
        starts, stops = zip(*encoding.offsets, strict=True) if encoding.offsets else ((), ())
        border, before, end = 0, len(ids), 0
        ids += encoding.ids
        for index, segment in enumerate(segments):
            border += len(segment.text)
            floor, end = end, bisect_left(starts, border) if index + 1 < len(segments) else len(starts)
            while segment.trained and end > floor and _is_masked_behind(segments[index + 1 :], stops[end - 1] - border):
                end -= 1
            ends.append(before + end)


def _is_masked_behind(following: Sequence[Segment], reach: int) -> bool:
    """Whether a token that reaches so many characters into the following segments reaches into an untrained one."""
    for segment in following:
        if reach <= 0:
            return False
        if segment.text and not segment.trained:
            return True
        reach -= len(segment.text)
    return False


def _sentencepiece_state(model_file: Path) -> dict[str, Any] | None:
    """tokenizer.json's content for a SentencePiece BPE model, or None where it would not give the model's own ids.

    Merges are ordered by the score of what they make, which is how SentencePiece picks them; transformers 5.17 orders
    runs of blanks first, and so gives other ids wherever two blanks stand before a word.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    controls = [index for index in range(len(pieces)) if model.is_control(index) or model.is_unknown(index)]
    plain = [piece for index, piece in enumerate(pieces) if index not in controls and not model.is_byte(index)]
    if any(BLANK in piece.lstrip(BLANK) for piece in plain):
        return None
    merges = [
        (-model.get_score(vocab[piece]), vocab[piece[:cut]], vocab[piece[cut:]])
        for piece in plain
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    state = {
        "version": "1.0",
        "added_tokens": [_special_token(index, pieces[index]) for index in controls],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": BLANK},
                {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": BLANK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": pieces[model.unk_id()],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [[pieces[left], pieces[right]] for _, left, right in sorted(merges)],
        },
    }
    # With every piece in the text: one that its user defined stands for itself, whatever merges there are.
    probe = PROBE + "\n".join(piece for piece in plain if len(piece) > 1).replace(BLANK, " ")
    return state if tokenizers.Tokenizer.from_str(json.dumps(state)).encode(probe).ids == model.encode(probe) else None


def _special_token(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True, **flags}


def _added_tokens(state: dict[str, Any]) -> set[str]:
    return {token["content"] for token in state.get("added_tokens", ())}


def _solo_characters(vocab: Iterable[str]) -> str:
    longer = {character for piece in vocab if len(piece) > 1 and piece[:3] != "<0x" for character in piece}
    return "".join(character for character in SOLO_CANDIDATES if character not in longer)


def _with_whole_offsets(state: Any) -> Any:
    """tokenizer.json's content with offsets that cover a token's blank too: labels are found by offsets."""
    if isinstance(state, dict):
        return {key: False if key == "trim_offsets" else _with_whole_offsets(value) for key, value in state.items()}
    return [_with_whole_offsets(value) for value in state] if isinstance(state, list) else state


def _read_json(file: Path) -> dict[str, Any] | None:
    content: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return content


def _read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with plain special tokens, and the folder's chat template wherever it keeps it."""
    config = _read_json(folder / "tokenizer_config.json") or {}
    named = _read_json(folder / "special_tokens_map.json") or {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(key) or named.get(key)
        config[key] = token["content"] if isinstance(token, dict) else token
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    file = folder / "chat_template.jinja"
    config["chat_template"] = file.read_text(encoding="utf-8") if file.is_file() else template
    return config
