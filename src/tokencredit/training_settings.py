"""Settings of one supervised training, which every stage that borrows a trainer shares."""

from __future__ import annotations

from dataclasses import dataclass

from tokencredit.algorithms.optimizer import Schedule
from tokencredit.errors import require


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
    schedule: Schedule = Schedule.cosine
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
