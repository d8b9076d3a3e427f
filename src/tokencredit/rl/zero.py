"""What DeepSpeed's ZeRO-1, 2, and 3 divide, and where it lies in each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tokencredit.hardware import FrozenModels, Hardware, Sharding
from tokencredit.rl.slices import Kept, Slice, slice_of, state_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

Named = Sequence[tuple[str, torch.nn.Parameter]]


class Zero:
    """A module under DeepSpeed, in this process.

    What is read here of DeepSpeed has no public form: its own checkpoints are pickles, and its
    accessors of optimizer state want DeepSpeed's own Adam in some stages.
    """

    def __init__(self, wrapped: torch.nn.Module, hardware: Hardware, rank: int) -> None:
        """`wrapped` is DeepSpeed's engine."""
        self.wrapped: Any = wrapped
        self.divided: Any = self.wrapped.optimizer
        self.rank = rank
        self.shards_weights = hardware.sharding is Sharding.zero3
        self._inside = False
        if self.shards_weights:
            self._share_masters()

    def _share_masters(self) -> None:
        """Let the optimizer move shards that are float32 already, not copies of them.

        DeepSpeed means to, but compares a device with its name, which torch finds unequal.
        """
        pairs = zip(
            self.divided.fp16_partitioned_groups_flat,
            self.divided.fp32_partitioned_groups_flat,
            strict=True,
        )
        for shards, masters in pairs:
            if shards is not None and (shards.dtype, shards.device) == (
                masters.dtype,
                masters.device,
            ):
                masters.data = shards.data

    def slices(self, named: Named) -> list[Slice]:
        """The parts of the trained tensors that the optimizer moves in this process."""
        find = self._shard if self.shards_weights else self._partition
        return [found for found in (find(*each) for each in named) if found is not None]

    def _partition(self, name: str, parameter: torch.nn.Parameter) -> Slice | None:
        """ZeRO-1 and 2: every process has its part of all tensors in a row, group by group."""
        place: Any = vars(parameter)["_hp_mapping"]
        if place is None:
            return None
        flat = self.divided.single_partition_of_fp32_groups[place.param_group_index]
        where = place.hp_fragment_address
        part = slice(where.start, where.start + where.numel)
        state = state_of(self.divided.optimizer, flat)
        start = int(place.lp_fragment_address.start)
        return slice_of(name, tuple(parameter.shape), start, (flat.data, part), state)

    def _shard(self, name: str, parameter: torch.nn.Parameter) -> Slice | None:
        """ZeRO-3: every process has its part of each tensor, the last one's filled up."""
        sharded: Any = parameter
        group, offset, size = self.divided.grad_position[self.divided.get_param_id(parameter)]
        start = self.rank * size
        count = min(size, int(sharded.ds_numel) - start)
        if count <= 0:
            return None
        flat = self.divided.fp32_partitioned_groups_flat[group]
        state = state_of(self.divided.optimizer, flat)
        place = flat.data, slice(offset, offset + count)
        return slice_of(name, tuple(sharded.ds_shape), start, place, state)

    def refill(self, named: Named, kept: Kept) -> None:
        """Give the model's own tensors, of which the optimizer has copies, what is kept."""
        if not self.shards_weights:
            for name, parameter in named:
                parameter.data.copy_(kept.whole(name))
            return
        shards: dict[str, Any] = dict(named)
        for each in self.slices(named):
            shard = shards[each.name].ds_tensor
            shard.data[: each.master.numel()].copy_(each.master)
        small = self.divided.persistent_parameters
        if small:  # they are whole in every process
            small[0].partition(small)
            small[0].all_gather(small)

    def before_slices(self) -> tuple[Optimizer, list[torch.Tensor]]:
        """The optimizer, and its weights as ZeRO-2 has them, for checkpoints from before slices."""
        parts = getattr(self.divided, "single_partition_of_fp32_groups", ())
        return self.divided.optimizer, [part.data for part in parts]

    def discard(self) -> None:
        """Forget the gradients that were reduced, as DeepSpeed itself does after an overflow."""
        self.divided.averaged_gradients = {}
        self.divided.zero_grad()

    @contextmanager
    def whole(self) -> Iterator[bool]:
        """All weights in every process while the context lasts, gathered once, and none of
        DeepSpeed's hooks, so that processes need not make the same passes; no gradient is taken.
        What it gives says whether they were gathered for it.
        """
        if not self.shards_weights or self._inside:
            yield False
            return
        from trl.models.utils import add_hooks, remove_hooks

        self._inside = True
        try:
            with gathered(self.wrapped.module):
                remove_hooks(self.wrapped)
                try:
                    yield True
                finally:
                    add_hooks(self.wrapped)
        finally:
            self._inside = False


class Dividing:
    """What gives each process its part of weights under ZeRO-3 before any has all of them."""

    def __init__(self, rank: int) -> None:
        """Of process `rank`."""
        self.rank = rank

    def part(
        self, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[int, int], torch.Tensor]
    ) -> torch.nn.Parameter:
        """A tensor of which this process has its part alone: the numbers that `read` finds from one
        place of the whole, as a row of numbers, to another."""
        parameter = torch.nn.Parameter(torch.empty(shape, dtype=dtype))
        divide(torch.nn.ParameterList([parameter]), Hardware())
        shard, count = vars(parameter)["ds_tensor"], vars(parameter)["ds_numel"]
        start = self.rank * shard.numel()
        stop = min(start + shard.numel(), count)
        if start < stop:
            shard.data[: stop - start].copy_(read(start, stop))
        return parameter


def whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The whole tensor's shape, also of one of which there is a shard."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def divide(module: torch.nn.Module, hardware: Hardware) -> None:
    """Leave of each weight of a frozen module this process's part, as ZeRO-3 does; called by every
    process. With `hardware.offload_frozen` the parts lie in the CPU's memory."""
    import deepspeed

    beside = {"device": "cpu", "pin_memory": not hardware.on_cpu()}
    offload = {"offload_param": beside} if hardware.offload_frozen else {}
    deepspeed.zero.Init(
        module,
        mem_efficient_linear=False,  # it would exchange torch's own function for all models
        config_dict_or_path={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3, **offload},
        },
    )


def gathered(module: torch.nn.Module) -> AbstractContextManager[None]:
    """All weights of a divided module in this process while the context lasts; they may not change.
    Entered and left by every process."""
    import deepspeed

    found: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        list(module.parameters())
    )
    return found


class Wrapped(Protocol):
    """DeepSpeed's engine, as far as it is taken off."""

    module: torch.nn.Module
    """What is in it."""

    def destroy(self) -> None:
        """Let go of it."""


def take_off(wrapped: Wrapped, *, keep: bool) -> None:
    """Take DeepSpeed off the module in its engine `wrapped`; called by every process.

    Where `keep`, the module is a plain one again with all of its weights, which are brought
    together tensor by tensor; elsewhere its shards are lost.
    """
    import deepspeed

    module = wrapped.module
    whole: dict[int, torch.nn.Parameter] = {}
    for parameter in module.parameters():
        if hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                data = parameter.data.clone() if keep else parameter.data.new_empty(0)
            whole[id(parameter)] = torch.nn.Parameter(data, parameter.requires_grad)
    wrapped.destroy()
    for part in module.modules() if whole else ():
        own = vars(part)
        own.pop("_original_parameters", None)
        own["_parameters"] = {
            name: None if each is None else whole.get(id(each), each)
            for name, each in own["_parameters"].items()
        }


class Frozen:
    """The frozen models of a run, each once: whole or in shards between their uses, on their device
    or beside it.

    Reference and judges make passes in rollouts and evaluations alone, and not every process makes
    equally many. So they are brought together as a whole for as long as one of these lasts, and
    need no hooks in between; what a judge hooks into is as it is in one process.
    """

    def __init__(
        self, models: Sequence[torch.nn.Module], hardware: Hardware, device: torch.device
    ) -> None:
        """`models` are whole, on their device, and are put away; called by every process."""
        self.models = list({id(model): model for model in models}.values())
        self.sharded = hardware.frozen is FrozenModels.sharded
        self.away = hardware.offload_frozen
        self.device, self._inside = device, False
        for model in self.models:
            if self.sharded:
                divide(model, hardware)
            elif self.away:
                model.to("cpu")

    @contextmanager
    def whole(self) -> Iterator[bool]:
        """All of them in this process and on its device while the context lasts; what it gives says
        whether they were brought there for it."""
        moved = (self.sharded or self.away) and bool(self.models) and not self._inside
        if not moved:
            yield False
            return
        self._inside = True
        try:
            with ExitStack() as together:
                for model in self.models:
                    if self.sharded:
                        together.enter_context(gathered(model))
                    else:
                        together.callback(model.to, "cpu")
                        model.to(self.device)
                yield True
        finally:
            self._inside = False
