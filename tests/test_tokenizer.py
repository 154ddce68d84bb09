"""Which tokenizers of SentencePiece are taken: those whose ids come out as its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece

from flanlite.errors import FlanliteError
from flanlite.prompt.tokenizer import Tokenizer


def trained(folder: Path, *user_defined: str) -> sentencepiece.SentencePieceProcessor:
    """A small model in the folder, made as Llama-2's was."""
    words = (f"the {first}{second} of {second}{third}" for first in "abcde" for second in "klmno" for third in "rstuv")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=320,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=list(user_defined), minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_models_own_ids_come_out(tmp_path):
    reference = trained(tmp_path)
    text = "the ak of  mr [INST] b"
    assert Tokenizer.load(tmp_path).encode(text) == reference.encode(text)


def test_a_model_whose_user_defined_pieces_stand_for_themselves_is_not_taken(tmp_path):
    trained(tmp_path, "[INST]")
    with pytest.raises(FlanliteError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
