"""What measuring changes in its process is put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def contained() -> Iterator[None]:
    """A measuring process sets determinism for itself; here it is that of all tests."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before, warn_only=warns)
    torch.utils.deterministic.fill_uninitialized_memory = fills
