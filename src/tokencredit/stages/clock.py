"""How long each phase of a step takes."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from tokencredit.rollout import Rollout


@dataclass(slots=True)
class Clock:
    """Seconds of each phase of a step."""

    started: float = field(default_factory=time.perf_counter)
    phases: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        """The phase that began at the last mark ends now."""
        elapsed = time.perf_counter() - self.started - sum(self.phases.values())
        self.phases[f"time/{phase}_seconds"] = elapsed

    def timings(self, rollout: Rollout) -> dict[str, float]:
        """The phases, and response tokens a second over the whole step."""
        total = max(sum(self.phases.values()), 1e-9)
        rate = float(rollout.response_mask.sum()) / total
        assert math.isfinite(rate)
        return {**self.phases, "throughput/tokens_per_second": rate}
