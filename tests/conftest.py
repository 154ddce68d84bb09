"""What several test files need: the real Llama-2 tokenizer where it is, and a small one of another kind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, pre_tokenizers, trainers

from flanlite.prompt.tokenizer import Tokenizer

# Public data that is not part of the repository; tests that need it skip where it is absent.
SHARED_DATA = Path(os.environ.get("FLANLITE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
LLAMA2_FOLDER = SHARED_DATA / "llama2-tokenizer"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the public data beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def llama2_tokenizer() -> Tokenizer:
    if not LLAMA2_FOLDER.is_dir():
        pytest.skip("needs Llama-2's tokenizer.model")
    return Tokenizer.load(LLAMA2_FOLDER)


@pytest.fixture(scope="session")
def sentencepiece_model():
    sentencepiece = pytest.importorskip("sentencepiece")
    if not LLAMA2_FOLDER.is_dir():
        pytest.skip("needs Llama-2's tokenizer.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(LLAMA2_FOLDER / "tokenizer.model"))


SPECIAL_TOKENS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>",
)  # fmt: skip


LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama-3 and Qwen cut text into words, as their tokenizer.json files have it."""


def byte_level_folder(folder: Path, chat_template: str, bos: str | None, eos: str) -> Path:
    """A tokenizer like GPT-2's, Qwen's or Llama-3's: byte-level BPE over the text of this repository's own tests."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": bos, "eos_token": eos, "chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8"
    )
    return folder
