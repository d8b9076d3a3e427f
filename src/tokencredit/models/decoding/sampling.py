"""How responses are sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final

from tokencredit.errors import require
from tokencredit.fields import Settings, number

OPEN: Final = -1
"""A length that is not known before the data are read (lengths.py)."""


class LogprobMask(str, Enum):
    """Under which distribution log-probabilities are computed."""

    sampling = "sampling"
    """The one that was sampled from: end token masked, temperature, top-k, and top-p included."""
    full = "full"
    """The model's own, whatever was sampled from. Ratios and KL are then biased."""


@dataclass(slots=True, kw_only=True)
class Sampling(Settings):
    """Lengths, distribution, ends, and chunks of a rollout."""

    section: ClassVar[str] = "rollout"

    min_new_tokens: int = 8
    """Each response's length limit is drawn from range(min_new_tokens, max_new_tokens). -1: no
    range, the limit is max_new_tokens - 1, and the end token is possible after the first token."""
    max_new_tokens: int = 16
    """Upper end of that range, exclusive. -1: filled in from the lengths of the data's answers.
    For format=text, -1 stands for the defaults of both."""
    eos_masked_before: int | None = number(None, at_least=0, null="min_new_tokens")
    """The end token is impossible before this many response tokens; null: min_new_tokens."""
    stop: list[str] = field(default_factory=list)
    """Strings that end a response: the token that completes one in its text is the last."""
    temperature: float = number(1.0, above=0)
    """Logits are divided by this."""
    top_k: int = number(0, at_least=0, note="(0: off)")
    """Only this many ids of the largest logits are possible; 0: all."""
    top_p: float = number(1.0, above=0, at_most=1, note="(1: off)")
    """Only the smallest set of ids with this probability is possible, after top_k; 1: all."""
    logprob_mask: LogprobMask = LogprobMask.sampling
    """sampling, or full."""
    nucleus_memory_mb: int = number(256, at_least=1)
    """Bound on the ids that top_k or top_p left possible in one step's responses, with sampling."""
    chunk: int = number(64, at_least=1)
    """Responses generated together."""
    score_rows: int = number(16, at_least=1, note="response")
    """Responses scored together, those of similar length; fewer take less memory."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Settings.__post_init__(self)
        low, high = self.min_new_tokens, self.max_new_tokens
        require(low >= 1 or low == OPEN, "rollout.min_new_tokens", low, "must be >= 1 (or -1)")
        require(
            high > max(low, 1) or high == OPEN,
            "rollout.max_new_tokens",
            high,
            f"must exceed rollout.min_new_tokens = {low} (the range is half-open)",
        )
        require(
            all(self.stop),
            "rollout.stop",
            self.stop,
            "must be strings of at least one character",
        )

    @property
    def longest(self) -> int:
        """The most tokens that a response can have; `OPEN` must be filled in."""
        return self.max_new_tokens - 1

    def eos_from(self) -> int:
        """The first response position at which the end token is possible."""
        return self.min_new_tokens if self.eos_masked_before is None else self.eos_masked_before

    @property
    def restricts(self) -> bool:
        """Whether top-k or top-p may leave ids out."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def keeps(self) -> bool:
        """Whether the ids that are left must be stored, for log-probabilities over them."""
        return self.restricts and self.logprob_mask is LogprobMask.sampling

    @property
    def room(self) -> int:
        """Bytes that the kept ids of one step's responses may take."""
        return self.nucleus_memory_mb * 2**20

    def check_kept(self, count: int) -> None:
        """`UserError` if `count` kept ids, of four bytes each, take more than `room`."""
        require(
            4 * count <= self.room,
            "rollout.nucleus_memory_mb",
            self.nucleus_memory_mb,
            f"the ids kept by rollout.top_p = {self.top_p} and rollout.top_k = {self.top_k} need "
            f"{4 * count} bytes, more than {self.room}; raise it to {-(-4 * count // 2**20)}, or "
            "keep fewer: lower rollout.top_p, or set rollout.top_k",
        )

    def mismatch(self) -> str | None:
        """What goes wrong where responses are not sampled from the distribution that is trained."""
        if self.logprob_mask is LogprobMask.sampling:
            return None
        departures = {
            f"rollout.temperature = {self.temperature}": self.temperature != 1,
            f"rollout.top_k = {self.top_k}": self.top_k > 0,
            f"rollout.top_p = {self.top_p}": self.top_p < 1,
            f"the end token masked before token {self.eos_from()} (rollout.eos_masked_before)": (
                self.eos_from() > 0
            ),
        }
        found = [name for name, departs in departures.items() if departs]
        if not found:
            return None
        return (
            f"rollout.logprob_mask = full, but responses come from another distribution: "
            f"{', '.join(found)}. Ratios and KL are those of the model's own distribution, and "
            "biased. An id that sampling leaves out, the masked end token above all, can gain "
            "probability unseen; sampled tokens then get very negative log-probabilities, and the "
            "k1 estimate of KL turns from a penalty into a bonus (mean KL below -1, -300 even). "
            "Use rollout.logprob_mask=sampling, or sample from the model itself."
        )
