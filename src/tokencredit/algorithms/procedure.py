"""What `algorithm=` may name: a policy algorithm with rollouts, or supervision without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokencredit.fields import Settings


@dataclass(slots=True, kw_only=True)
class Procedure(Settings):
    """How the policy is trained after, or instead of, supervised fine-tuning."""

    section: ClassVar[str] = "algorithm"


@dataclass(slots=True, kw_only=True)
class SupervisedOnly(Procedure):
    """Stop after supervised fine-tuning: no reward model, no rollouts."""


@dataclass(slots=True, kw_only=True)
class PreferenceOnly(Procedure):
    """Stop after direct preference optimisation: no rollouts."""
