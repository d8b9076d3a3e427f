"""The models that stages start from; those that must be made first, by a stage of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokencredit.canonical import file_sha256
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.models.adapters.adapter import Adapter
from tokencredit.models.loading.gguf import convert_gguf, find_packaged_gguf
from tokencredit.models.loading.model import ModelSource, Pretrained, torch_dtype
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.scratch import write_scratch_model
from tokencredit.models.loading.shipped import shipped_split
from tokencredit.models.loading.source import adapter_at, identity_of, must_be_made, place_of
from tokencredit.stages.context import Context
from tokencredit.stages.stage import Stage


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model of the configuration, resolved."""

    context: Context
    source: Pretrained

    def parents(self) -> Mapping[str, Stage]:
        """The stage that must make the model first, if one must."""
        return {"base": Prepare(self.context, self.source)} if must_be_made(self.source) else {}

    def identity(self) -> object:
        """What the model contains, whatever it is called: checksums, or the commit on the hub."""
        if must_be_made(self.source):
            return "stage"
        if self.source.source is ModelSource.package:
            check_split(self.context)
        return identity_of(self.source, self.key)

    @property
    def key(self) -> str:
        """Where the configuration holds it."""
        return self.context.config.model.key_of(self.source)

    def adapter(self) -> Adapter | None:
        """The adapter that it is, on a base of its own; None for other models."""
        return adapter_at(self.source, self.key)

    def place(self) -> Place:
        """Where it can be loaded from; stages before it must have run."""
        if must_be_made(self.source):
            return Place(self.context.store.get(Prepare(self.context, self.source)).path)
        return place_of(self.source, self.key)


def base_of(context: Context, source: Pretrained) -> Base:
    """The resolved form of a configured model."""
    return Base(context, source)


def check_split(context: Context) -> None:
    """Raise if texts that the shipped model was trained on would now count as held out."""
    dataset = context.config.dataset
    now, trained = context.corpus.fingerprints["sft"], shipped_split()
    if dataset.name == "imdb" and dataset.source is Source.package and now != trained:
        raise UserError(
            f"dataset.splits: the model of package tokencredit was trained on the SFT split "
            f"{trained} of imdb, but this configuration makes another one ({now}), so texts held "
            "out now have been seen; use the default dataset.splits, or another model"
        )


class Prepare(Stage):
    """A plain Hugging Face folder, converted or freshly initialised."""

    name: ClassVar[str] = "base_model"
    version: ClassVar[int] = 1

    def __init__(self, context: Context, source: Pretrained) -> None:
        """The stage that makes `source` loadable."""
        Stage.__init__(self, context)
        self.source = source

    def inputs(self) -> Mapping[str, object]:
        """The file that is converted, or the sizes and the text that the model is made from."""
        config = self.context.config
        if self.source.source is ModelSource.scratch:
            return {
                "architecture": config.model.architecture,
                "context": config.model.context,
                "data": self.context.corpus.fingerprints["sft"],
                "stage_seed": config.stage_seed,
            }
        return {"gguf_sha256": file_sha256(self._gguf()), "dtype": config.model.dtype}

    def run(self, out: Path) -> Mapping[str, object]:
        """Write config, weights, and tokenizer to `out`."""
        config = self.context.config
        if self.source.source is ModelSource.scratch:
            texts = (record.text for record in self.context.corpus.parts["sft"])
            return {"parameters": write_scratch_model(config.model, texts, config.stage_seed, out)}
        key = f"{config.model.key_of(self.source)}.path"
        convert_gguf(self._gguf(), out, torch_dtype(config.model.dtype), key)
        return {}

    def _gguf(self) -> Path:
        if self.source.source is ModelSource.path:
            assert self.source.path is not None
            return Path(self.source.path).expanduser()
        return find_packaged_gguf()
