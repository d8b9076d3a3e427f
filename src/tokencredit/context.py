"""What the stages of one run share: the configuration, the records, the store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TypeGuard

from tokencredit.canonical import digest
from tokencredit.config import Config
from tokencredit.data.splits import Corpus
from tokencredit.store import Store


class Context:
    """The configuration, and what is read once for it."""

    def __init__(self, config: Config) -> None:
        """The context of one composed configuration."""
        self.config = config
        self.store = Store(Path(config.store).expanduser())

    @cached_property
    def corpus(self) -> Corpus:
        """The records, read at first use; the cells of a sweep share them."""
        dataset = self.config.dataset
        stamp = Path(dataset.path).expanduser().stat().st_mtime_ns if _is_file(dataset.path) else 0
        key = (digest(dataset), stamp)
        if key not in _READ:
            _READ.clear()
            _READ[key] = dataset.read()
        return _READ[key]


_READ: dict[tuple[str, int], Corpus] = {}
"""The records that this process has read last."""


def _is_file(path: str | None) -> TypeGuard[str]:
    return path is not None and Path(path).expanduser().is_file()
