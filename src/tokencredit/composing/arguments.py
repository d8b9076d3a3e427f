"""What the command line of `tokencredit train` asks for besides the configuration."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field

from tokencredit.store.artifacts import Plan

MAX_FAILURES = "hydra.sweeper.max_failure_rate="


@dataclass(slots=True)
class Request:
    """Plug-ins, overrides, and whether to plan; and what planning a sweep has found so far."""

    plugins: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    """As they were typed."""
    plan_only: bool = False
    plans: list[Plan] = field(default_factory=list)
    """Filled in while a sweep is planned."""
    mistakes: int = 0
    """Cells that could not even be planned."""
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def counts_failures(self) -> bool:
        """Whether Optuna is told which share of failed cells ends the sweep."""
        return any(text.startswith(MAX_FAILURES) for text in self.overrides)
