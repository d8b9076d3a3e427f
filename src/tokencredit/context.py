"""What the stages of one run share: the configuration, the records, the store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

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
        """The records, read at first use."""
        return self.config.dataset.read()
