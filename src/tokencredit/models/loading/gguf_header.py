"""What a GGUF file says before its data: configuration, tokenizer, names and sizes of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.gguf_reader import ReaderField, ReaderTensor

from tokencredit.errors import UserError, require
from tokencredit.models.loading.fit import Faults, Part, first_line, quiet, skeleton
from tokencredit.models.loading.place import Place, Shape
from tokencredit.models.loading.trunk import NO_SCORE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

COMPUTED: Final = "rope_"
"""How the names of tensors begin that hold no weights; transformers computes them."""


class Header(GGUFReader):
    """The key-value part of a GGUF file, and what it says of tensors, whose data is not read."""

    shapes: dict[str, Shape]
    """Of each tensor by its name in GGUF, the longest stride first."""
    end: int
    """Bytes that the whole file has at least."""

    def __init__(self, path: Path, key: str = "model.policy.path") -> None:
        """`key` named the file. Raises `UserError` for what is no GGUF file, or ends too early."""
        self.path, self.key = path, key
        require(path.is_file(), key, str(path), "there is no such file")
        try:
            GGUFReader.__init__(self, path)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError) as error:
            raise self._incomplete(first_line(error)) from error

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        """Read the fields and the tensors' places, and none of their data."""
        self.shapes, self.end = {}, start_offs
        for field in fields:
            _, name, _, dims, kind, offset = field.parts
            tensor_type, count = GGMLQuantizationType(kind[0]), math.prod(map(int, dims))
            block, size = GGML_QUANT_SIZES[tensor_type]
            place, length = start_offs + int(offset[0]), count * size // block
            known = str(bytes(name), encoding="utf-8")
            self.shapes[known] = tuple(map(int, reversed(dims)))
            self.end = max(self.end, place + length)
            data = np.empty(0, np.uint8)
            self.tensors.append(
                ReaderTensor(known, tensor_type, dims, count, length, place, data, field)
            )

    def check_whole(self) -> None:
        """Raise if the file ends before its last tensor does."""
        if self.path.stat().st_size < self.end:
            raise self._incomplete("it is cut off before its end")

    def facts(self) -> dict[str, Any]:
        """The key-value part without the long arrays (vocabulary, merges)."""
        fields = self.fields.items()
        return {name: field.contents() for name, field in fields if len(field.data) == 1}

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration that transformers makes of it."""
        from transformers import AutoConfig

        with self._read():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name
            )
        return config

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that transformers makes of it, with an end token."""
        from transformers import AutoTokenizer

        with self._read():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.key} = {str(self.path)!r}: its tokenizer has no end-of-sequence token (a "
                "response must be able to end); take another conversion of the model"
            )
        return tokenizer

    def model(self, part: Part, labels: int | None = None) -> PreTrainedModel:
        """The model without weights, once its tensors and special ids are known to fit."""
        place = Place(self.path, key=self.key)
        if part is Part.classifier:
            raise UserError(f"{place}: {NO_SCORE}")
        causal = skeleton(Part.causal, self.config, place)
        self._check_tensors(causal)
        check_against_metadata(self.facts(), causal, self.tokenizer)
        if part is Part.causal:
            return causal
        config = type(self.config).from_dict(self.config.to_dict() | {"num_labels": labels})
        return skeleton(part, config, place)

    def _check_tensors(self, model: PreTrainedModel) -> None:
        """Raise unless the tensors are those of `model`, by transformers' own table of names."""
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )

        kind = TENSOR_PROCESSORS.get(str(self.facts()["general.architecture"]), TensorProcessor)
        named = get_gguf_hf_weights_map(model, kind(config=model.config.to_dict()))
        wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
        found = {named[name]: shape for name, shape in self.shapes.items() if name in named}
        # Experts have names of their own, joined or split when they are loaded.
        own = "perform_fallback_tensor_mapping"
        plain = getattr(kind, own) is getattr(TensorProcessor, own)
        strange = [n for n in self.shapes if n not in named and not n.startswith(COMPUTED)]
        faults = Faults(
            missing=tuple(sorted((set(named.values()) & wanted.keys()) - found.keys())),
            unexpected=tuple(sorted(strange)) if plain else (),
            misshaped={  # some are transposed when they are loaded
                name: (found[name], wanted[name])
                for name in sorted(found.keys() & wanted.keys())
                if math.prod(found[name]) != math.prod(wanted[name])
            },
        )
        if faults.count():
            raise UserError(
                f"{self.key} = {str(self.path)!r}: the tensors are not those of "
                f"{type(model).__name__}: {faults}; take another conversion of the model, or its "
                "Hugging Face folder"
            )

    @contextmanager
    def _read(self) -> Iterator[None]:
        """Let transformers read this header, not open the file once more: that takes seconds for a
        large vocabulary, and fails where the data is not there."""
        try:
            with patch("gguf.GGUFReader", lambda *_: self), quiet(entirely=True):
                yield
        except Exception as error:
            raise UserError(
                f"{self.key} = {str(self.path)!r}: transformers cannot read it "
                f"({first_line(error)}); take a conversion of another model, or its Hugging Face "
                "folder"
            ) from error

    def _incomplete(self, reason: str) -> UserError:
        return UserError(
            f"{self.key} = {str(self.path)!r}: this is no complete GGUF file ({reason}); download "
            "it again"
        )


def check_against_metadata(
    facts: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise `UserError` unless context and special ids agree with the metadata of the file.

    A special id that the metadata leaves out is not checked.
    """
    context = facts.get(f"{facts.get('general.architecture')}.context_length")
    config = model.config
    compared = [("context", context, config.max_position_embeddings)]
    for name, key in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):
        stated = facts.get(f"tokenizer.ggml.{key}_token_id")
        compared.append((f"{name} id of the model", stated, getattr(config, f"{name}_token_id")))
        compared.append(
            (f"{name} id of the tokenizer", stated, getattr(tokenizer, f"{name}_token_id"))
        )
    for name, stated, used in compared:
        if stated is not None and stated != used:
            raise UserError(
                f"model: the GGUF file says {stated} for the {name}, transformers reads {used}; "
                "the file cannot be used, take another conversion of the model"
            )
