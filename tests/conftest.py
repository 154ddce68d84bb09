"""What several test files need of the public data that lies beside the repository, where it does."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from flanlite.prompt.tokenizer import Tokenizer

# A busy machine is no failure of a property.
hypothesis.settings.register_profile("flanlite", deadline=None)
hypothesis.settings.load_profile("flanlite")

# Public data that is not part of the repository; tests that need it skip where it is absent.
SHARED_DATA = Path(os.environ.get("FLANLITE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
LLAMA2_FOLDER = SHARED_DATA / "llama2-tokenizer"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the public data beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def llama2_folder() -> Path:
    if not LLAMA2_FOLDER.is_dir():
        pytest.skip("needs Llama-2's tokenizer.model")
    return LLAMA2_FOLDER


@pytest.fixture(scope="session")
def llama2_tokenizer(llama2_folder: Path) -> Tokenizer:
    return Tokenizer.load(llama2_folder)


@pytest.fixture(scope="session")
def sentencepiece_model(llama2_folder: Path):
    sentencepiece = pytest.importorskip("sentencepiece")
    return sentencepiece.SentencePieceProcessor(model_file=str(llama2_folder / "tokenizer.model"))
