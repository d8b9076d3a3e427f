"""What an iteration has to do: how many tokens of what length, through models of what size."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Final, Self

from tokencredit.errors import require

PHASES: Final = ("generation", "scoring", "optimisation")
"""Of an iteration, disjoint, in order."""
HEAD_WIDTH: Final = 64
"""Numbers of a query or key of one attention head."""
CONTEXT: Final = 1024
"""Positions a model has at least."""
THREADS: Final = 2
"""CPU threads unless said otherwise, where there are as many cores."""
SHORTEST_PROMPT: Final = 8
"""With varied lengths, the longest prompt is so many times as long as the shortest may be."""
SHORTEST_RESPONSE: Final = 32
"""With varied lengths, the longest response is so many times as long as the shortest may be."""


class Architecture(str, Enum):
    """Family of the models."""

    gpt2 = "gpt2"
    llama = "llama"


class Reward(str, Enum):
    """How rewards come about; the two differ in judge and scheme alone."""

    sparse = "sparse"
    """The reward model's score on the last token."""
    abc = "abc"
    """The score spread by the reward model's attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Policy, reference, and reward model: random weights, all of this size."""

    architecture: Architecture = Architecture.gpt2
    layers: int = 4
    width: int = 256
    vocabulary: int = 8192

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range."""
        object.__setattr__(self, "architecture", Architecture(self.architecture))
        require(self.layers >= 1, "--layers", self.layers, "must be >= 1")
        require(
            self.width in {16, 32} or (self.width >= 1 and self.width % HEAD_WIDTH == 0),
            "--width",
            self.width,
            f"must be a multiple of {HEAD_WIDTH}, the width of a head (or 16 or 32)",
        )
        require(self.vocabulary >= 8, "--vocabulary", self.vocabulary, "must be >= 8 ids")

    @property
    def heads(self) -> int:
        """Attention heads."""
        return max(1, self.width // HEAD_WIDTH)

    @property
    def inner(self) -> int:
        """Width between the two halves of a feed-forward layer (Llama's has three matrices)."""
        if self.architecture is Architecture.gpt2:
            return 4 * self.width
        return 16 * math.ceil(self.width / 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One PPO iteration; the two tuples have an entry for each row, in the same order."""

    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[int, ...]
    """Response tokens, exactly: the end token is impossible, and the limit cuts."""
    size: Size = field(default_factory=Size)
    reward: Reward = Reward.sparse
    epochs: int = 4
    minibatch: int = 16
    """Rows of one optimizer step, or a few less so that all steps have as many."""
    micro_batch: int | None = None
    """Rows of one pass; None: the whole minibatch."""
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range."""
        object.__setattr__(self, "reward", Reward(self.reward))
        for name in ("prompt_lengths", "response_lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(self.rows >= 1, "--rows", self.rows, "must be >= 1 prompt")
        require(
            len(self.response_lengths) == self.rows,
            "response_lengths",
            len(self.response_lengths),
            f"must be one for each of {self.rows} prompts",
        )
        require(min(self.prompt_lengths) >= 1, "--prompt-tokens", min(self.prompt_lengths), "< 1")
        require(min(self.response_lengths) >= 1, "--new-tokens", min(self.response_lengths), "< 1")
        require(self.epochs >= 1, "--epochs", self.epochs, "must be >= 1")
        require(self.minibatch >= 1, "--minibatch", self.minibatch, "must be >= 1 row")
        require(
            self.micro_batch is None or self.micro_batch >= 1,
            "--micro-batch",
            self.micro_batch,
            "must be >= 1 row",
        )
        require(self.threads >= 1, "--threads", self.threads, "must be >= 1")

    @property
    def rows(self) -> int:
        """Number of prompts, one response each."""
        return len(self.prompt_lengths)

    @property
    def minibatches(self) -> int:
        """Optimizer steps of one epoch."""
        return math.ceil(self.rows / self.minibatch)

    @property
    def response_tokens(self) -> int:
        """Response tokens of an iteration."""
        return sum(self.response_lengths)

    def lengths(self, row: int) -> int:
        """Tokens of a row, prompt and response."""
        return self.prompt_lengths[row] + self.response_lengths[row]

    @property
    def context(self) -> int:
        """Positions the models have."""
        return max(CONTEXT, *map(self.lengths, range(self.rows)))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """What `plain` was made from."""
        return cls(**{**plain, "size": Size(**plain["size"])})

    def text(self) -> str:
        """In words, over two lines."""
        size = self.size
        models = (
            size.architecture.value,
            _count(size.layers, "layer"),
            f"width {size.width}",
            f"vocabulary {size.vocabulary}",
            "float32",
            _count(self.threads, "thread"),
        )
        rows = (
            f"{_count(self.rows, 'prompt')} of {_range(self.prompt_lengths)} tokens",
            f"responses of {_range(self.response_lengths)}",
            f"{_count(self.epochs, 'epoch')} of {_count(self.minibatches, 'minibatch', 'es')}",
            f"{self.reward.value} reward",
        )
        parts = "" if self.micro_batch is None else f", micro-batches of {self.micro_batch}"
        return f"{', '.join(models)}\n{', '.join(rows)}{parts}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _range(lengths: tuple[int, ...]) -> str:
    low, high = min(lengths), max(lengths)
    return str(high) if low == high else f"{low} to {high}"


def drawn_lengths(rows: int, longest: int, shortest_part: int, seed: int) -> tuple[int, ...]:
    """Uniform integers from longest / shortest_part, rounded down, to longest; at least 1."""
    low = max(1, longest // shortest_part)
    numbers = random.Random(seed)  # noqa: S311 - no secret
    return tuple(low + int(numbers.random() * (longest - low + 1)) for _ in range(rows))


def lengths_of(
    rows: int, prompt_tokens: int, new_tokens: int, seed: int, *, vary: bool
) -> dict[str, tuple[int, ...]]:
    """The two tuples of `Work`: all equal, or drawn once from `seed`, up to these lengths."""
    for name, count in (
        ("--rows", rows),
        ("--prompt-tokens", prompt_tokens),
        ("--new-tokens", new_tokens),
    ):
        require(count >= 1, name, count, "must be >= 1")
    if not vary:
        return {"prompt_lengths": (prompt_tokens,) * rows, "response_lengths": (new_tokens,) * rows}
    return {
        "prompt_lengths": drawn_lengths(rows, prompt_tokens, SHORTEST_PROMPT, 2 * seed),
        "response_lengths": drawn_lengths(rows, new_tokens, SHORTEST_RESPONSE, 2 * seed + 1),
    }


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """`THREADS`, or as many as there are cores."""
    return min(THREADS, cores())
