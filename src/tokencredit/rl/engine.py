"""The trained module under its optimizer: gradients and steps, in one process or in several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.optimizer import ClipNorm
from tokencredit.errors import UserError, require
from tokencredit.rl import before_slices
from tokencredit.rl.slices import Kept, Slice, of_optimizer, restore, write
from tokencredit.rl.world import World
from tokencredit.rl.zero import Frozen, Zero, whole_shape
from tokencredit.rollout import PolicyOutput, Rollout
from tokencredit.store.finite import first_not_finite

if TYPE_CHECKING:
    from tokencredit.models.policy import PolicyWithValue


class Engine:
    """Owns the trained module and its optimizer, in one process or in several."""

    def __init__(
        self,
        policy: PolicyWithValue,
        algorithm: Algorithm,
        world: World,
        frozen: Sequence[torch.nn.Module] = (),
    ) -> None:
        """Parameter groups follow `algorithm.optimizers()`; vectors are never decayed. `frozen` are
        the models beside the policy, which `whole` brings together with it."""
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
        if world.sharded:  # DeepSpeed lays what is trained end to end, in one format
            policy.value_head.to(groups["policy"][0].dtype)
        optimizer = torch.optim.AdamW(
            list(self._groups(policy)), fused=world.hardware.on_cpu() or None
        )
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)
        world.load_whole()
        hardware = world.hardware
        self.zero = Zero(self.policy, hardware, world.rank) if world.sharded else None
        self.frozen = Frozen(frozen, hardware, world.device)

    def _groups(self, policy: PolicyWithValue) -> Iterator[dict[str, Any]]:
        for name, parameters in policy.parameter_groups().items():
            numbers = self.settings[name]
            for decayed in (True, False):
                chosen = [p for p in parameters if (len(whole_shape(p)) >= 2) is decayed]
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
        if self.zero is not None:
            self.zero.discard()

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

    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Every tensor that training changes, by name, tied ones once."""
        return [(n, p) for n, p in self.module().named_parameters() if p.requires_grad]

    def slices(self) -> list[Slice]:
        """What this process's optimizer moves: all that is trained, or its part of it."""
        if self.zero is not None:
            return self.zero.slices(self.trained())
        return of_optimizer(self.trained(), self.optimizer)

    def first_not_finite(self) -> str | None:
        """The name of the first trained tensor that holds NaN or an infinity, in any process."""
        found = first_not_finite((each.name, each.master) for each in self.slices())
        return next(filter(None, self.world.gather([found])), None)

    @contextmanager
    def whole(self) -> Iterator[bool]:
        """All weights, of frozen models too, in this process while the context lasts, for passes
        without gradient; what it gives says whether they were brought together for it."""
        live = nullcontext(enter_result=False) if self.zero is None else self.zero.whole()
        with self.frozen.whole() as first, live as second:
            yield first or second

    def save(self, folder: Path) -> None:
        """Write this process's slices of weights and optimizer to `folder`; undivided, all
        processes have the same, and the main one writes."""
        if self.world.sharded or self.world.is_main:
            write(self.slices(), folder, self.world.rank)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, in whatever processes; a missing or additional tensor is an
        error. Checkpoints of before there were slices are read too."""
        before, kept = before_slices.shapes(folder), Kept(folder)
        saved = kept.shapes if before is None else before
        if {name: whole_shape(parameter) for name, parameter in self.trained()} != saved:
            raise UserError(
                f"{folder}: holds other weights than this model trains; use another run_dir"
            )
        if before is not None:
            own, masters = self.optimizer, list[torch.Tensor]()
            if self.zero is not None:
                own, masters = self.zero.before_slices()
            before_slices.load(folder, self.trained(), own, masters, self.world.rank)
            return
        restore(self.slices(), kept)
        if self.zero is not None:
            self.zero.refill(self.trained(), kept)
