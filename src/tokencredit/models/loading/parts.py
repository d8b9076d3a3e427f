"""Language models of which each process reads its part alone: no process ever holds all of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    def part(self, shape: tuple[int, ...], dtype: torch.dtype, read: Read) -> torch.nn.Parameter:
        """A tensor of that shape, of which this process reads its part alone."""


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
    with quiet(entirely=True), torch.random.fork_rng(devices=[]), _without_weights():
        model: PreTrainedModel = Part.causal.auto.from_config(config, dtype=kind)
    named = {name: tuple(own.shape) for name, own in model.named_parameters()}
    if any(headers.shapes.get(name) != shape for name, shape in named.items()):
        return load_causal(where, dtype, context)
    _fill(model, headers.files, kind, shards)
    model.config.name_or_path = model.name_or_path = str(where)
    model.generation_config = SpokenModel.at(where).generation_config
    check_context(model.config, context)
    check_causal(model)
    return model.eval()


@contextmanager
def _without_weights() -> Iterator[None]:
    """While the context lasts, weights of modules that are made are on no device; buffers are."""
    inner = torch.nn.Module.register_parameter

    def register(module: torch.nn.Module, name: str, own: torch.nn.Parameter | None) -> None:
        if own is not None and not own.is_meta:  # a tied one is what it is tied to
            own = torch.nn.Parameter(own.to("meta"), own.requires_grad)
        inner(module, name, own)

    torch.nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = inner  # type: ignore[method-assign]


def _fill(
    model: PreTrainedModel, files: tuple[Path, ...], dtype: torch.dtype, shards: Shards
) -> None:
    """Read each process's part of every tensor, the largest first."""
    from safetensors import safe_open

    where: dict[str, Path] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            where |= dict.fromkeys(file.keys(), path)
    made: dict[int, torch.nn.Parameter] = {}
    for name, empty in sorted(model.named_parameters(), key=lambda item: -item[1].numel()):
        # Opened for each anew: pages of a file that stays open would count as this process's own.
        with safe_open(where[name], "pt") as file:
            read = _reading(file.get_slice(name), tuple(empty.shape), dtype)
            made[id(empty)] = shards.part(tuple(empty.shape), dtype, read)
    for module in model.modules():
        for leaf, own in list(module.named_parameters(recurse=False)):
            setattr(module, leaf, made[id(own)])


class Rows(Protocol):
    """A tensor in a file, of which some rows can be read."""

    def __getitem__(self, rows: slice, /) -> torch.Tensor:
        """These rows."""


def _reading(kept: Rows, shape: tuple[int, ...], dtype: torch.dtype) -> Read:
    """What reads a tensor of a file as a row of numbers."""
    across = max(1, torch.Size(shape[1:]).numel())

    def read(start: int, stop: int) -> torch.Tensor:
        first = start // across
        rows = kept[first : -(-stop // across)]
        part = rows.reshape(-1)[start - first * across : stop - first * across]
        if not bool(part.sum(dtype=torch.float64).isfinite()):
            raise UserError("a tensor of the policy is not finite; make its stage again")
        return part.to(dtype)

    return read
