"""How responses are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tokencredit.errors import require


class LogprobMask(str, Enum):
    """Under which distribution log-probabilities are computed."""

    sampling = "sampling"
    """The one that was sampled from: end token masked, logits divided by the temperature."""
    full = "full"
    """The model's own, whatever was sampled from. Ratios and KL are then biased."""


@dataclass(slots=True, kw_only=True)
class Sampling:
    """Lengths, temperature, and chunks of a rollout."""

    min_new_tokens: int = 8
    """Each response's length limit is drawn from range(min_new_tokens, max_new_tokens)."""
    max_new_tokens: int = 16
    """Upper end of that range, exclusive."""
    eos_masked_before: int | None = None
    """The end token is impossible before this many response tokens; null: min_new_tokens."""
    temperature: float = 1.0
    """Logits are divided by this."""
    logprob_mask: LogprobMask = LogprobMask.sampling
    """sampling, or full."""
    chunk: int = 64
    """Responses generated together."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            self.min_new_tokens >= 1, "rollout.min_new_tokens", self.min_new_tokens, "must be >= 1"
        )
        require(
            self.max_new_tokens > self.min_new_tokens,
            "rollout.max_new_tokens",
            self.max_new_tokens,
            f"must exceed rollout.min_new_tokens = {self.min_new_tokens} (the range is half-open)",
        )
        require(
            self.eos_masked_before is None or self.eos_masked_before >= 0,
            "rollout.eos_masked_before",
            self.eos_masked_before,
            "must be null (min_new_tokens) or >= 0",
        )
        require(self.temperature > 0, "rollout.temperature", self.temperature, "must be > 0")
        require(self.chunk >= 1, "rollout.chunk", self.chunk, "must be >= 1")

    def eos_from(self) -> int:
        """The first response position at which the end token is possible."""
        return self.min_new_tokens if self.eos_masked_before is None else self.eos_masked_before
