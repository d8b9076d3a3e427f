"""The work that every program of the comparison does: sizes, prompts, and response lengths.

Nothing but the standard library, because three environments read it. All numbers are drawn from
`random.Random(seed).random()`, whose sequence Python promises to keep from version to version.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

EOS: Final = 0
"""Ends a response; impossible before the drawn length."""
PAD: Final = 1
"""Never sampled, so that what looks like padding is padding."""
FIRST: Final = 2
"""The first id of a word."""
VOCABULARY: Final = 8192
LAYERS: Final = 4
WIDTH: Final = 256
HEADS: Final = 4
POSITIONS: Final = 1024

MODEL_SEED: Final = 1
PROMPT_SEED: Final = 2
LENGTH_SEED: Final = 3

LEARNING_RATE: Final = 1e-5
EPOCHS: Final = 4
MINIBATCH: Final = 16
"""Rows of a minibatch, each one optimizer step."""
THREADS: Final = 2


@dataclass(frozen=True)
class Setting:
    """One size of PPO iteration; both tuples have an entry for each row, in the same order."""

    name: str
    title: str
    prompt_lengths: tuple[int, ...]
    response_lengths: tuple[int, ...]
    ends: bool
    """Whether the last response token is EOS; otherwise the length limit cuts the response."""

    @property
    def rows(self) -> int:
        """Number of prompts, one response each."""
        return len(self.prompt_lengths)

    @property
    def minibatches(self) -> int:
        """Optimizer steps of one PPO epoch."""
        return self.rows // MINIBATCH

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of an iteration."""
        return EPOCHS * self.minibatches

    @property
    def response_tokens(self) -> int:
        """Response tokens of an iteration, EOS counted."""
        return sum(self.response_lengths)

    @property
    def max_new(self) -> int:
        """The longest response."""
        return max(self.response_lengths)


def uniform_lengths(seed: int, count: int, low: int, high: int) -> tuple[int, ...]:
    """`count` integers from low to high, both included."""
    numbers = random.Random(seed)  # noqa: S311 - no secret
    return tuple(low + int(numbers.random() * (high - low + 1)) for _ in range(count))


def _equal(name: str, rows: int, new: int) -> Setting:
    title = f"{rows} prompts of 8 tokens, exactly {new} new"
    return Setting(name, title, (8,) * rows, (new,) * rows, ends=False)


SETTINGS: Final = {
    setting.name: setting
    for setting in (
        _equal("a", 64, 32),
        _equal("b", 16, 12),
        _equal("c", 64, 128),
        Setting(
            "d",
            "64 prompts of 8 to 64 tokens, responses that end after 4 to 128",
            uniform_lengths(PROMPT_SEED, 64, 8, 64),
            uniform_lengths(LENGTH_SEED, 64, 4, 128),
            ends=True,
        ),
        _equal("abc32", 64, 32),
        _equal("abc512", 16, 512),
    )
}
"""By name: a to d for the peers, abc32 and abc512 for the cost of attention-based credit."""


def prompts(setting: Setting) -> list[list[int]]:
    """The prompts' ids, every prompt another one."""
    numbers = random.Random(PROMPT_SEED)  # noqa: S311 - no secret
    words = VOCABULARY - FIRST
    return [
        [FIRST + int(numbers.random() * words) for _ in range(length)]
        for length in setting.prompt_lengths
    ]


def gpt2() -> dict[str, Any]:
    """Arguments of transformers' `GPT2Config` for policy, reference, reward, and value models."""
    return {
        "vocab_size": VOCABULARY,
        "n_positions": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "summary_first_dropout": 0.0,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
