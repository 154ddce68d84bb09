"""Every test in this folder is marked `gpu`, and skipped where torch sees no card."""

from pathlib import Path

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark by which a test names the scenarios whose outcome it looks at.

    Warnings are told and end nothing: those that only a card's libraries give have not been seen before.
    """
    config.addinivalue_line("markers", "needs(*scenarios): started before the first test, side by side with others")
    if torch.cuda.is_available():
        config.addinivalue_line("filterwarnings", "default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and put last what measures one thing after the other.

    The hook is handed the tests of all folders.
    """
    items.sort(key=lambda item: item.path == Path(__file__).with_name("test_bench_on_card.py"))
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA card"))
