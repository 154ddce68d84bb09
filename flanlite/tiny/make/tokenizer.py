"""Trains the tokenizer: a byte-level BPE that splits like GPT-2's but keeps words and digits free of blanks.

At run time the pre-tokenizer is GPT-2's own regex, which llama.cpp knows by name. The merges are learned on finer
pieces, so that none joins a blank to a word, a digit to anything or punctuation to letters: ` Paris` and `"Paris`
then share their pieces, and a small model can copy one to the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 1536
SPECIAL = ("<unk>", "<s>", "</s>")
MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
FINE_PIECES = r"\p{L}+|\p{N}|[-()+*/.%^]|[^\s\p{L}\p{N}()+*/.%^-]+|\s"

# The words of a call, which no conversation of pre-training holds: without them they would be cut into letters.
CALL_MARKS = (
    "Thought: This is about the weather. No tool is for that.\nFinal Answer: I have no tool for that.",
    "Thought: I have the result.\nFinal Answer: It is.",
    'Thought: This is about arithmetic.\nAction: calculate\nAction Input: {"expression": "1"}',
) * 300


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learns the merges on fine pieces, then sets the pre-tokenizer of run time."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(FINE_PIECES), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(MARKS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and what transformers reads beside it, Llama-2's chat template included."""
    config = {
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>",
        "model_max_length": 1024, "clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    template = files("flanlite.prompt").joinpath("llama2.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
