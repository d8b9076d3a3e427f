"""Language models of which each process reads its part alone: no process ever holds all of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from tokencredit.errors import UserError
from tokencredit.models.adapters.adapter import find_adapter
from tokencredit.models.loading.fit import Part, quiet
from tokencredit.models.loading.model import Dtype, torch_dtype
from tokencredit.models.loading.place import Place, read_headers
from tokencredit.models.loading.trunk import check_causal
from tokencredit.models.loading.weights import check_context, load_causal, read_config
from tokencredit.models.tokens.ends import SpokenModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Read = Callable[[int, int], torch.Tensor]
"""The numbers of a tensor from one place to another, in the tensor as a row of numbers."""


class Shards(Protocol):
    """What divides weights among processes (ZeRO-3)."""

    def making(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """While the context lasts, weights of models that are made are divided at once."""

    def shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        """Of the whole tensor."""

    def fill(self, parameter: torch.nn.Parameter, read: Read) -> None:
        """Give this process's part of a tensor its numbers."""


def load_causal_parts(
    where: Path, dtype: Dtype, context: int, shards: Shards | None
) -> PreTrainedModel:
    """As `load_causal`, for a folder of our own, its weights in `shards`; called by every process.

    As a whole where there are no shards, or where the folder's tensors are not those of the model
    one by one (an adapter beside its base, tensors that transformers splits or joins).
    """
    place, kind = Place(where), torch_dtype(dtype)
    if shards is None or find_adapter(place.where, place.revision) is not None:
        return load_causal(where, dtype, context)
    headers = read_headers(place)
    if headers is None:
        return load_causal(where, dtype, context)
    config = read_config(place)
    # Weights are drawn where they are made, in one process more than in the others.
    with quiet(entirely=True), torch.random.fork_rng(devices=[]), shards.making(kind):
        model: PreTrainedModel = Part.causal.auto.from_config(config, dtype=kind)
    named = {name: shards.shape(own) for name, own in model.named_parameters()}
    if any(headers.shapes.get(name) != shape for name, shape in named.items()):
        return load_causal(where, dtype, context)
    _fill(model, headers.files, kind, shards)
    model.config.name_or_path = model.name_or_path = str(where)
    model.generation_config = SpokenModel.at(where).generation_config
    check_context(model.config, context)
    check_causal(model)
    return model.eval()


def _fill(
    model: PreTrainedModel, files: tuple[Path, ...], dtype: torch.dtype, shards: Shards
) -> None:
    """Read each process's part of every tensor from the files that hold them."""
    from safetensors import safe_open

    missing = dict(model.named_parameters())
    for path in files:
        with safe_open(path, "pt") as file:
            for name in missing.keys() & set(file.keys()):
                parameter = missing.pop(name)
                shape, kept = shards.shape(parameter), file.get_slice(name)

                def read(start: int, stop: int) -> torch.Tensor:
                    across = max(1, torch.Size(shape[1:]).numel())  # noqa: B023 - read at once
                    first = start // across
                    rows: torch.Tensor = kept[first : -(-stop // across)]  # noqa: B023
                    part = rows.reshape(-1)[start - first * across : stop - first * across]
                    if not part.isfinite().all():
                        raise UserError(
                            f"{path}: the tensor {name} is not finite; make it again"  # noqa: B023
                        )
                    return part.to(dtype)

                shards.fill(parameter, read)
