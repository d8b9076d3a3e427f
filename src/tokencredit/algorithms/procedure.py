"""What `algorithm=` may name: a policy algorithm with rollouts, or supervision without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokencredit.fields import Settings


@dataclass(slots=True, kw_only=True)
class Procedure(Settings):
    """How the policy is trained after, or instead of, supervised fine-tuning."""

    section: ClassVar[str] = "algorithm"
    ends_with: ClassVar[str] = "sft"
    """The name of the stage that a run is for."""
    rolls_out: ClassVar[bool] = False
    """Whether the policy learns from responses of its own."""
    uses_values: ClassVar[bool] = False
    """Whether there is a value function to train."""

    def reads_full(self) -> bool:
        """Whether rollouts must hold the KL over the whole vocabulary."""
        return False

    def fill_rate(self, learning_rate: float | None) -> None:
        """Set a learning rate that is null to the model's."""

    def fit_to(self, steps: int) -> None:
        """Fill in what depends on the length of the run, and raise for a run that is too long."""


@dataclass(slots=True, kw_only=True)
class SupervisedOnly(Procedure):
    """Stop after supervised fine-tuning: no reward model, no rollouts."""


@dataclass(slots=True, kw_only=True)
class PreferenceOnly(Procedure):
    """Stop after direct preference optimisation: no rollouts."""

    ends_with: ClassVar[str] = "dpo"


@dataclass(slots=True, kw_only=True)
class JudgeOnly(Procedure):
    """Stop after the stage that the judge brings along: no policy is trained."""

    ends_with: ClassVar[str] = "judge"
