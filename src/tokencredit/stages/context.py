"""What the stages of one run share: the configuration, the records, the store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokencredit.canonical import digest
from tokencredit.config import Config
from tokencredit.data.files import stamp
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.data.remembered import recalled, remember
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus
from tokencredit.data.token_ids import TokenIds
from tokencredit.stages.lengths import fill_lengths
from tokencredit.store.artifacts import Store


class Context:
    """The configuration, and what is read once for it."""

    def __init__(self, config: Config) -> None:
        """The context of one composed configuration."""
        self.config = config
        self.store = Store(Path(config.store).expanduser())
        self._columns: tuple[tuple[str, ...], dict[str, list[Any]]] | None = None
        fill_lengths(config, lambda: self.corpus)

    @cached_property
    def corpus(self) -> Corpus:
        """The records, read when the first is asked for; the cells of a sweep share them."""
        dataset = self.config.dataset
        written = stamp(dataset.path) if dataset.source is Source.path else ()
        key = (digest(dataset), type(dataset.reader()), written)
        if key not in _READ:
            _READ.clear()
            kept = recalled(dataset, self.store.root)
            _READ[key] = kept or dataset.read(self.config.run.function_seconds)
        return _READ[key]

    def remember(self) -> None:
        """Keep in the store what was asked about the records, for the commands that follow."""
        remember(self.config.dataset, self.corpus, self.store.root)

    def prompts(self, records: Sequence[Record], ids: TokenIds) -> PromptStream:
        """The prompts of these records for the rollouts of a run."""
        config = self.config
        return PromptStream(
            records, ids, config.dataset.prompt, config.rollout, config.model.context
        )

    def columns(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The values of some columns of the data; `Record.row` is a value's place in them."""
        if self._columns is None or self._columns[0] != tuple(names):
            self._columns = (tuple(names), self.config.dataset.columns(names))
        return self._columns[1]

    def columns_digest(self, names: Sequence[str]) -> str:
        """A hash of the values of these columns, of the records that prompts are taken from."""

        def find() -> str:
            values, parts = self.columns(names), self.corpus.parts
            rows = [record.row for split in ("rl", "eval") for record in parts[split]]
            return digest({name: [repr(values[name][row]) for row in rows] for name in names})

        return self.corpus.ask(f"hash of the columns {sorted(names)}", find)


_READ: dict[tuple[object, ...], Corpus] = {}
"""The records that this process has read last."""
