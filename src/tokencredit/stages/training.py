"""What the stages that borrow a trainer have in common: settings, progress, figures."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokencredit.algorithms.optimizer import Course
from tokencredit.errors import UserError, require
from tokencredit.finite import first_not_finite
from tokencredit.stages.watching import LossCurve


@dataclass(slots=True, kw_only=True)
class Training:
    """Settings of one supervised stage, in the terms of transformers' TrainingArguments."""

    learning_rate: float | None = None
    """Peak learning rate of AdamW; null: the model's (model.rates)."""
    batch_size: int = 16
    """Sequences of one optimizer step."""
    micro_batch_size: int | None = None
    """Sequences of one forward pass; null: the whole batch at once."""
    epochs: float = 1.0
    """Passes over the data."""
    max_tokens: int | None = None
    """Stop after about this many training tokens, if that is less than `epochs`."""
    max_length: int = 256
    """Longest sequence, in tokens."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    warmup_fraction: float = 0.03
    """Share of the steps in which the learning rate rises from 0; where these are all steps of a
    short stage it begins above 0, or one step would learn nothing."""
    schedule: Course = Course.cosine
    """Course of the learning rate: constant, linear, or cosine (both to 0)."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    bf16: bool = False
    """Compute in bfloat16 (autocast); the weights keep their type."""

    def check(self, key: str) -> None:
        """Raise for values out of range; `key` is the section's name on the command line."""
        rate = self.learning_rate
        require(rate is None or rate > 0, f"{key}.learning_rate", rate, "must be null or > 0")
        require(self.batch_size >= 1, f"{key}.batch_size", self.batch_size, "must be >= 1")
        require(self.epochs > 0, f"{key}.epochs", self.epochs, "must be > 0")
        require(self.max_length >= 8, f"{key}.max_length", self.max_length, "must be >= 8 tokens")
        require(self.max_grad_norm > 0, f"{key}.max_grad_norm", self.max_grad_norm, "must be > 0")
        require(self.weight_decay >= 0, f"{key}.weight_decay", self.weight_decay, "must be >= 0")
        require(
            self.max_tokens is None or self.max_tokens >= self.max_length,
            f"{key}.max_tokens",
            self.max_tokens,
            f"must be null or at least {key}.max_length = {self.max_length}",
        )
        require(
            0 <= self.warmup_fraction < 1,
            f"{key}.warmup_fraction",
            self.warmup_fraction,
            "must lie in [0, 1)",
        )
        micro = self.micro_batch_size
        require(
            micro is None or (micro >= 1 and self.batch_size % micro == 0),
            f"{key}.micro_batch_size",
            micro,
            f"must divide {key}.batch_size = {self.batch_size}",
        )


def seed_generators(seed: int) -> None:
    """Start all global generators at `seed`: fresh heads and adapters are drawn before a borrowed
    trainer sets them itself."""
    from transformers import set_seed

    set_seed(seed % 2**31)


def trainer_settings(
    training: Training, out: Path, seed: int, on_cpu: bool, steps: int
) -> dict[str, Any]:
    """Arguments for TrainingArguments and TRL's configs; what they default to silently is set."""
    micro = training.micro_batch_size or training.batch_size
    return {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.batch_size // micro,
        "max_steps": steps,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "warmup_steps": warmup_steps(training, steps),
        "lr_scheduler_type": training.schedule.value,
        "max_grad_norm": training.max_grad_norm,
        "seed": seed % 2**31,
        "data_seed": seed % 2**31,
        "bf16": training.bf16,
        "fp16": False,
        "use_cpu": on_cpu,
        "activation_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def step_count(training: Training, sequences: int, tokens_per_sequence: float) -> int:
    """Optimizer steps of a stage: its epochs, cut at `max_tokens`."""
    per_epoch = sequences / training.batch_size
    steps = per_epoch * training.epochs
    if training.max_tokens is not None:
        steps = min(steps, training.max_tokens / (training.batch_size * tokens_per_sequence))
    return max(1, math.floor(steps))


def warmup_steps(training: Training, steps: int) -> int:
    """Of so many steps, those in which the learning rate rises."""
    return math.ceil(training.warmup_fraction * steps)


def may_only_warm_up(training: Training, sequences: int, longest: float) -> bool:
    """Whether the warm-up can take all steps of a stage.

    It has at least so many sequences, of at most `longest` tokens each; more steps only make the
    warm-up's share smaller.
    """
    fewest = step_count(training, sequences, longest)
    return training.schedule is not Course.constant and warmup_steps(training, fewest) >= fewest


def train(trainer: Any, stage: str) -> dict[str, object]:
    """Run a borrowed trainer without its chatter; its mean `loss`, and the `curve` of it.

    Raises UserError where loss or weights are not finite afterwards, or no weight has moved.
    """
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # prints raw dictionaries
    _rise_from_above_zero(trainer)
    before, curve = _bits(trainer.model), LossCurve(trainer)
    loss = float(trainer.train().metrics["train_loss"])
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # made, and left empty
    if not math.isfinite(loss):
        raise UserError(f"{stage}: the training loss is {loss}; lower {stage}.learning_rate")
    tensor = first_not_finite(trainer.model.named_parameters())
    if tensor is not None:
        raise UserError(
            f"{stage}: the tensor {tensor} is not finite after training; lower "
            f"{stage}.learning_rate"
        )
    if _bits(trainer.model) == before:
        raise UserError(
            f"{stage}: no weight has moved in {trainer.args.max_steps} step(s); raise "
            f"{stage}.learning_rate (steps that are small beside a weight are lost where "
            f"model.dtype=bfloat16), raise {stage}.max_tokens or {stage}.epochs, or look for texts "
            "of which nothing is learnt"
        )
    return {"loss": loss, "curve": curve.points()}


def _rise_from_above_zero(trainer: Any) -> None:
    """Where the warm-up takes all steps, step k of W has (k + 1) / (W + 1) of the learning rate.

    transformers gives it k / W: then the only step of a stage of one step learns nothing.
    """
    args = trainer.args
    warmup, steps = args.warmup_steps, args.max_steps
    if args.lr_scheduler_type == Course.constant.value or warmup < steps:
        return
    from torch.optim.lr_scheduler import LambdaLR

    trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(trainer.optimizer, lambda step: (step + 1) / (warmup + 1))


def _bits(model: torch.nn.Module) -> dict[str, int]:
    """The sum of the bit patterns of each tensor that is trained: other weights, another sum."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(tensor.detach().view(whole[tensor.element_size()]).sum(dtype=torch.int64))
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }
