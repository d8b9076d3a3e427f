"""The only file that knows accelerate: devices, gradients, optimizer steps, and their state."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokencredit.algorithms.algorithm import Algorithm, Loss
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.errors import UserError
from tokencredit.models.policy import PolicyWithValue
from tokencredit.rollout import Rollout, Targets
from tokencredit.streams import permutation, stream_key

WEIGHTS, OPTIMIZER = "trained.safetensors", "optimizer.pt"


@dataclass(slots=True)
class Totals:
    """Running means over the minibatches of a step."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    steps: int = 0
    grad_norm: float = 0.0
    ratio_max_dev: float | None = None

    def add(self, loss: Loss, tokens: int) -> None:
        """Count one minibatch."""
        self.tokens += tokens
        for name, value in loss.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def metrics(self) -> dict[str, float]:
        """Token means, and counts of optimizer steps taken and skipped."""
        means = {name: value / max(1, self.tokens) for name, value in self.sums.items()}
        return {
            **means,
            "ppo/ratio_max_dev": self.ratio_max_dev or 0.0,
            "ppo/skipped": float(self.skipped),
            "optimizer/steps": float(self.steps),
            "optimizer/grad_norm": self.grad_norm / max(1, self.steps),
        }


class Engine:
    """Owns the trained module and its optimizer."""

    def __init__(
        self, policy: PolicyWithValue, settings: Optimizer, *, on_cpu: bool, seed: int
    ) -> None:
        """`seed` names the shuffling of minibatches."""
        self.accelerator = Accelerator(cpu=on_cpu)
        self.settings = settings
        self.seed = seed
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": [p for p in trained if p.ndim >= 2],
                    "weight_decay": settings.weight_decay,
                },
                {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.rate_at(0),
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)

    @property
    def device(self) -> torch.device:
        """Where batches must lie."""
        device: torch.device = self.accelerator.device
        return device

    def module(self) -> PolicyWithValue:
        """The trained module without wrappers."""
        module: PolicyWithValue = self.accelerator.unwrap_model(self.policy)
        return module

    def update(
        self, algorithm: Algorithm, rollout: Rollout, targets: Targets, step: int
    ) -> dict[str, float]:
        """`epochs` × `minibatches` optimizer steps on one rollout; their metrics."""
        rate = self.settings.rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals = Totals()
        for epoch in range(algorithm.epochs):
            order = torch.from_numpy(
                permutation(stream_key(self.seed, "minibatch", step, epoch), len(rollout))
            ).to(self.device)
            for rows in order.tensor_split(algorithm.minibatches):
                self._minibatch(algorithm, rollout[rows], targets[rows], totals, step)
        return {**totals.metrics(), "optimizer/learning_rate": rate}

    def _minibatch(
        self, algorithm: Algorithm, rollout: Rollout, targets: Targets, totals: Totals, step: int
    ) -> None:
        output = self.policy(rollout)
        loss = algorithm.loss(output, rollout, targets)
        tokens = int(rollout.response_mask.sum())
        if totals.ratio_max_dev is None:
            deviation = torch.expm1(output.logp.detach() - rollout.logp).abs()
            totals.ratio_max_dev = float(deviation[rollout.response_mask].max())
        if algorithm.skips(loss, tokens):
            totals.skipped += 1
            return
        totals.add(loss, tokens)
        size = float(loss.total.detach())
        if not math.isfinite(size):
            raise UserError(
                f"step {step}: the loss is {size}; the last checkpoint is kept. Lower "
                "algorithm.optimizer.learning_rate or set algorithm.reward_clip"
            )
        self.accelerator.backward(loss.total / tokens)
        totals.grad_norm += self._clip(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        totals.steps += 1

    def _clip(self, step: int) -> float:
        limit = self.settings.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(
            self.policy.parameters(), math.inf if limit is None else limit
        )
        value = float(norm)
        if not math.isfinite(value):
            raise UserError(
                f"step {step}: the gradient norm is {value}; the last checkpoint is kept. Lower "
                "algorithm.optimizer.learning_rate or set algorithm.reward_clip"
            )
        return value

    def save(self, folder: Path) -> None:
        """Write trained weights and optimizer state to `folder`."""
        save_file(self._trained(), folder / WEIGHTS)
        torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote; a missing or additional tensor is an error."""
        trained, saved = self._trained(), load_file(folder / WEIGHTS)
        if {n: t.shape for n, t in trained.items()} != {n: t.shape for n, t in saved.items()}:
            raise UserError(
                f"{folder}: holds other weights than this model trains; use another run_dir"
            )
        for name, tensor in trained.items():
            tensor.copy_(saved[name])
        state: dict[str, Any] = torch.load(folder / OPTIMIZER, weights_only=True)
        self.optimizer.load_state_dict(state)

    def _trained(self) -> dict[str, Tensor]:
        """Every tensor that training changes, tied ones once."""
        named = self.module().named_parameters()
        return {name: parameter.data for name, parameter in named if parameter.requires_grad}
