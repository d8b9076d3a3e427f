"""The only file that knows accelerate and DeepSpeed: processes, gradients, optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import accelerate
import torch

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.optimizer import ClipNorm
from tokencredit.errors import UserError, require
from tokencredit.hardware import Hardware, Sharding
from tokencredit.rollout import PolicyOutput, Rollout

if TYPE_CHECKING:
    from tokencredit.models.policy import PolicyWithValue

WEIGHTS = "trained.safetensors"
T = TypeVar("T")


class World:
    """The processes of a run, and how they agree. One process is a world too."""

    def __init__(self, hardware: Hardware, max_grad_norm: float | None = None) -> None:
        """Join the processes that were started together."""
        self.hardware = hardware
        if hardware.sharding is Sharding.none:
            self.accelerator = accelerate.Accelerator(cpu=hardware.on_cpu())
        else:
            if hardware.on_cpu():
                _spare_compiling()
            # With a cpu flag, accelerate would run plain DDP without a word.
            plugin = accelerate.utils.DeepSpeedPlugin(
                hf_ds_config=deepspeed_settings(hardware, max_grad_norm)
            )
            backend = accelerate.utils.InitProcessGroupKwargs(
                backend="gloo" if hardware.on_cpu() else "nccl"
            )
            self.accelerator = accelerate.Accelerator(
                deepspeed_plugin=plugin, kwargs_handlers=[backend]
            )
            kind = self.accelerator.distributed_type
            if kind != accelerate.utils.DistributedType.DEEPSPEED:
                raise RuntimeError(f"DeepSpeed was asked for, but accelerate chose {kind}")
        found = self.accelerator.num_processes
        if found != hardware.processes:
            raise RuntimeError(f"{hardware.processes} processes were asked for, {found} are here")

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def size(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process's batches must lie."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed holds the optimizer."""
        return self.hardware.sharding is not Sharding.none

    def wait(self) -> None:
        """Return once every process has come here."""
        self.accelerator.wait_for_everyone()

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        accelerate.utils.broadcast_object_list(values)
        return values[0]

    def gather(self, values: list[T]) -> list[T]:
        """The values of all processes, in order of rank, in every process."""
        return list(accelerate.utils.gather_object(values)) if self.size > 1 else values

    def sums(self, values: dict[str, torch.Tensor | float]) -> dict[str, float]:
        """Each value summed over all processes, which must have the same names in this order."""
        column = torch.stack(
            [torch.as_tensor(v, dtype=torch.float64).to(self.device) for v in values.values()]
        )
        if self.size > 1:
            column = self.accelerator.reduce(column, reduction="sum")
        return dict(zip(values, column.tolist(), strict=True))


def compute_deterministically() -> None:
    """Kernels of this process that give the same bits every time, as far as torch has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that nothing wrote; filling all of it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Its backward pass sums in any order; flash attention and the plain products do not.
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def _spare_compiling() -> None:
    """Keep DeepSpeed from compiling a collective that only its inference engine calls."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_settings(hardware: Hardware, max_grad_norm: float | None) -> dict[str, Any]:
    """DeepSpeed's configuration; micro-batches are counted by `update`, not by DeepSpeed."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm or 0.0,
        # The default bucket is 2 GB, and is allocated anew for each backward pass.
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": not hardware.on_cpu(),
            "reduce_bucket_size": 2**25,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


class Engine:
    """Owns the trained module and its optimizer, in one process or in several."""

    def __init__(self, policy: PolicyWithValue, algorithm: Algorithm, world: World) -> None:
        """Parameter groups follow `algorithm.optimizers()`; vectors are never decayed."""
        self.world = world
        self.accelerator = world.accelerator
        groups = policy.parameter_groups()
        self.settings = {n: own for n, own in algorithm.optimizers().items() if n in groups}
        self.clip_norm = self.settings["policy"].clip_norm
        self.blamed = ""
        """The first parameter whose gradient was not finite."""
        require(
            not (world.sharded and self.clip_norm is ClipNorm.per_group),
            "algorithm.optimizer.clip_norm",
            self.clip_norm.value,
            "DeepSpeed clips by the norm over all groups; use joint, or hardware.sharding=none",
        )
        optimizer = torch.optim.AdamW(
            list(self._groups(policy)), fused=world.hardware.on_cpu() or None
        )
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)

    def _groups(self, policy: PolicyWithValue) -> Iterator[dict[str, Any]]:
        for name, parameters in policy.parameter_groups().items():
            numbers = self.settings[name]
            for decayed in (True, False):
                chosen = [p for p in parameters if (p.ndim >= 2) is decayed]
                if chosen:
                    yield {
                        "name": name,
                        "params": chosen,
                        "lr": numbers.rate_at(0),
                        "betas": (numbers.beta1, numbers.beta2),
                        "eps": numbers.eps,
                        "weight_decay": numbers.weight_decay if decayed else 0.0,
                    }

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""
        return self.world.device

    def module(self) -> PolicyWithValue:
        """The trained module without wrappers."""
        module: PolicyWithValue = self.accelerator.unwrap_model(self.policy)
        return module

    def forward(self, rollout: Rollout) -> PolicyOutput:
        """One forward pass with gradient."""
        output: PolicyOutput = self.policy(rollout)
        return output

    def set_rates(self, step: int) -> dict[str, float]:
        """Set the learning rates of RL step `step`; they by group name."""
        rates = {name: numbers.rate_at(step) for name, numbers in self.settings.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        return rates

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Around forward and backward: gradients of earlier micro-batches wait for the last."""
        if self.world.sharded:
            self.policy.set_gradient_accumulation_boundary(last)
            yield
        elif last:
            yield
        else:
            with self.accelerator.no_sync(self.policy):
                yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of this process's part of a minibatch's loss."""
        # Gradients are averaged over processes, but their losses are parts of one sum.
        scaled = loss * self.world.size
        if self.world.sharded:
            self.policy.backward(scaled)
        else:
            scaled.backward()

    def discard(self) -> None:
        """Forget the gradients: the minibatch is left out."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.world.sharded:  # as DeepSpeed itself does after an overflow
            self.policy.optimizer.averaged_gradients = {}

    def step(self, only: str | None = None) -> float:
        """Clip, move the weights, forget the gradients; the gradient norm before clipping.

        `only` names the parameter group that moves, with unsharded optimizer state: the others'
        weights and moments stay as they are.
        """
        if only is not None:
            assert not self.world.sharded
            for group in self.optimizer.param_groups:
                for parameter in group["params"] if group["name"] != only else ():
                    parameter.grad = None
        if self.world.sharded:
            self.policy.step()
            return float(self.policy.get_global_grad_norm() or 0.0)
        norm = self._clip()
        if math.isfinite(norm):
            self.optimizer.step()
        else:
            self.blamed = self._blame()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> float:
        limit = self.settings["policy"].max_grad_norm
        limit = math.inf if limit is None else limit
        named: dict[str, list[torch.nn.Parameter]] = {}
        for group in self.optimizer.param_groups:
            label = group["name"] if self.clip_norm is ClipNorm.per_group else "all"
            named.setdefault(label, []).extend(group["params"])
        norms = []
        for parameters in named.values():
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients))
            if norms[-1] > limit:  # multiplying by one would read and write them all for nothing
                torch.nn.utils.clip_grads_with_norm_(parameters, limit, norms[-1])
        return float(torch.stack(norms).square().sum().sqrt())

    def _blame(self) -> str:
        """The name of the first parameter whose gradient is not finite."""
        named = self.module().named_parameters()
        bad = (n for n, p in named if p.grad is not None and not p.grad.isfinite().all())
        return next(bad, "")

    def save(self, folder: Path) -> None:
        """Write trained weights, and this process's part of the optimizer's state, to `folder`."""
        if self.world.is_main:
            from safetensors.torch import save_file

            save_file(self.trained(), folder / WEIGHTS)
        if self.world.sharded:
            inner = self.policy.optimizer
            masters = [part.detach().clone() for part in inner.single_partition_of_fp32_groups]
            state = {"optimizer": inner.optimizer.state_dict(), "masters": masters}
            torch.save(state, self._shard(folder))
        elif self.world.is_main:
            torch.save({"optimizer": self.optimizer.state_dict()}, self._shard(folder))

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; a missing or additional tensor is an error."""
        from safetensors.torch import load_file

        trained, saved = self.trained(), load_file(folder / WEIGHTS)
        if {n: t.shape for n, t in trained.items()} != {n: t.shape for n, t in saved.items()}:
            raise UserError(
                f"{folder}: holds other weights than this model trains; use another run_dir"
            )
        _copy(trained.values(), (saved[name] for name in trained))
        state: dict[str, Any] = torch.load(self._shard(folder), weights_only=True)
        if self.world.sharded:
            inner = self.policy.optimizer
            inner.optimizer.load_state_dict(state["optimizer"])
            _copy((p.data for p in inner.single_partition_of_fp32_groups), state["masters"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])

    def _shard(self, folder: Path) -> Path:
        """Where this process's optimizer state lies; unsharded, all processes share one file."""
        return folder / f"optimizer-{self.world.rank if self.world.sharded else 0}.pt"

    def trained(self) -> dict[str, torch.Tensor]:
        """Every tensor that training changes, tied ones once."""
        named = self.module().named_parameters()
        return {name: parameter.data for name, parameter in named if parameter.requires_grad}


def _copy(targets: Iterable[torch.Tensor], sources: Iterable[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
