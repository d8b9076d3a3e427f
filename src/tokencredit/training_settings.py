"""Settings of one supervised training, which every stage that borrows a trainer shares."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import ClassVar

from tokencredit.algorithms.optimizer import Schedule
from tokencredit.errors import require
from tokencredit.fields import Settings, added, key_of, number


@dataclass(slots=True, kw_only=True)
class Training(Settings):
    """Settings of one supervised stage, in the terms of transformers' TrainingArguments."""

    learning_rate: float | None = number(None, above=0, null="")
    """Peak learning rate of AdamW; null: the model's (model.rates)."""
    batch_size: int = number(16, at_least=1)
    """Sequences of one optimizer step."""
    micro_batch_size: int | None = None
    """Sequences of one forward pass; null: the whole batch at once."""
    epochs: float = number(1.0, above=0)
    """Passes over the data."""
    max_tokens: int | None = None
    """Stop after about this many training tokens, if that is less than `epochs`."""
    max_length: int = number(256, at_least=8, note="tokens")
    """Longest sequence, in tokens."""
    weight_decay: float = number(0.0, at_least=0)
    """Decoupled weight decay."""
    warmup_fraction: float = number(0.03, at_least=0, below=1)
    """Share of the steps in which the learning rate rises from 0; where these are all steps of a
    short stage it begins above 0, or one step would learn nothing."""
    schedule: Schedule = Schedule.cosine
    """Course of the learning rate: constant, linear, or cosine (both to 0)."""
    max_grad_norm: float = number(1.0, above=0)
    """Global gradient norm is clipped to this."""
    bf16: bool = False
    """Compute in bfloat16 (autocast); the weights keep their type."""
    max_steps: int | None = added(number(None, at_least=1, null="no limit"))
    """Stop after so many optimizer steps, if that is less than `epochs` and `max_tokens`."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Settings.__post_init__(self)
        require(
            self.max_tokens is None or self.max_tokens >= self.max_length,
            key_of(self, "max_tokens"),
            self.max_tokens,
            f"must be null or at least {key_of(self, 'max_length')} = {self.max_length}",
        )
        micro = self.micro_batch_size
        require(
            micro is None or (micro >= 1 and self.batch_size % micro == 0),
            key_of(self, "micro_batch_size"),
            micro,
            f"must divide {key_of(self, 'batch_size')} = {self.batch_size}",
        )


def trainings_of(component: object) -> list[Training]:
    """The settings of supervised training among the fields of a component."""
    assert is_dataclass(component)
    found = (getattr(component, item.name) for item in fields(component))
    return [part for part in found if isinstance(part, Training)]


class Start(str, Enum):
    """What the model of a judge's own stage starts from."""

    sft = "sft"
    """The SFT model."""
    base = "base"
    """What the SFT model was made from (model.policy)."""


@dataclass(slots=True, kw_only=True)
class JudgeTraining(Training):
    """Settings of the stage that a judge brings along, as the judge's field `training`."""

    section: ClassVar[str] = "judge.training.{0} (or scorer.training.{0})"
