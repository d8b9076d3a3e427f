"""What `algorithm=` may name: a policy algorithm with rollouts, or a supervised procedure without."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Procedure(ABC):
    """How the policy is trained after, or instead of, supervised fine-tuning."""


@dataclass(slots=True, kw_only=True)
class SupervisedOnly(Procedure):
    """Stop after supervised fine-tuning: no reward model, no rollouts."""
