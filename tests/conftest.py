"""Fixtures of all tests. Helpers that take arguments live in builders.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
sys.path.insert(0, str(Path(__file__).parent))

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

settings.register_profile(
    "tests",
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers, so that a misspelt one is an error under --strict-markers."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: other numbers of threads change the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with an end token and a pad token of its own."""
    import builders

    return builders.train_tokenizer()
