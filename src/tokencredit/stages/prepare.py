"""A base model that must be made before it can be trained: from a GGUF file, or from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tokencredit.canonical import file_sha256
from tokencredit.models.model import ModelSource, Pretrained, torch_dtype
from tokencredit.stages.stage import Stage

if TYPE_CHECKING:
    from tokencredit.context import Context


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
            from tokencredit.models.scratch import write_scratch_model

            texts = (record.text for record in self.context.corpus.parts["sft"])
            return {"parameters": write_scratch_model(config.model, texts, config.stage_seed, out)}
        from tokencredit.models.gguf import convert_gguf

        key = f"{config.model.key_of(self.source)}.path"
        convert_gguf(self._gguf(), out, torch_dtype(config.model.dtype), key)
        return {}

    def _gguf(self) -> Path:
        if self.source.source is ModelSource.path:
            assert self.source.path is not None
            return Path(self.source.path).expanduser()
        from tokencredit.models.gguf import find_packaged_gguf

        return find_packaged_gguf()
