"""Fixtures of all tests. Helpers that take arguments live in builders.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "GOMP_SPINCOUNT", "20000"
)  # of stages' processes, which may be forks of these
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
if os.environ.get("TOKENCREDIT_DATA"):  # may be relative; tests start programs in other folders
    os.environ["TOKENCREDIT_DATA"] = str(Path(os.environ["TOKENCREDIT_DATA"]).absolute())

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from transformers import PreTrainedTokenizerFast

import shapes

install_import_hook(shapes.HELD, "shapes.checked")  # before anything imports what it holds

settings.register_profile(
    "tests",
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: other numbers of threads change the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_command_line() -> Iterator[None]:
    """The plug-ins that a test's commands name, and their classes, are not those of the next test."""
    from tokencredit.config import COMPONENTS
    from tokencredit.data.dataset import FORMATS
    from tokencredit.user_code.plugins import NAMED

    kept: list[list[Any]] = [NAMED, FORMATS, *COMPONENTS.values()]
    before = [list(each) for each in kept]
    yield
    for each, known in zip(kept, before, strict=True):
        each[:] = known


@pytest.fixture
def any_types() -> Iterator[None]:
    """Wrong types and shapes reach the code, as a user's class may hand them."""
    with shapes.unchecked():
        yield


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The packaged SmolLM2-135M-Instruct, converted; who asks for it is of the group "smollm2"."""
    from tokencredit.models.loading.gguf import convert_gguf, find_packaged_gguf

    folder = tmp_path_factory.mktemp("smollm2")
    convert_gguf(find_packaged_gguf(), folder)
    yield folder
    (folder / "model.safetensors").unlink()  # half a gigabyte


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with an end token and a pad token of its own."""
    import builders

    return builders.train_tokenizer()
