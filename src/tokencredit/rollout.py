"""Batches that flow through an RL step.

B responses, P prompt tokens (left-padded), T response tokens (right-padded). Index t belongs to the
action that emitted response token t; the end-of-sequence token is an action. A mask is True where
the token counts. Floats are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tensors that share their first dimension."""

    def __getitem__(self, rows: Tensor) -> Self:
        """The chosen rows, as the same type."""
        return type(self)(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    def __len__(self) -> int:
        """Number of rows."""
        return len(getattr(self, fields(self)[0].name))

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(
            **{item.name: getattr(self, item.name).to(device) for item in fields(self)}
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order."""
        names = [item.name for item in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts(Batch):
    """What the policy is asked to continue."""

    rows: Int[Tensor, "B"]
    """Position of each record in its source; names its random streams."""
    samples: Int[Tensor, "B"]
    """Which of several responses to the same record in this batch; names them too."""
    ids: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]
    min_new: Int[Tensor, "B"]
    """The end token is masked before this many response tokens."""
    max_new: Int[Tensor, "B"]
    """The response is cut after this many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Batch):
    """What the policy said, and what policy, reference, and value function thought of it."""

    rows: Int[Tensor, "B"]
    prompt_ids: Int[Tensor, "B P"]
    prompt_mask: Bool[Tensor, "B P"]
    response_ids: Int[Tensor, "B T"]
    response_mask: Bool[Tensor, "B T"]
    """True up to and including the end-of-sequence token."""
    min_new: Int[Tensor, "B"]
    finished: Bool[Tensor, "B"]
    """False where the response was cut off by its length limit."""
    logp: Float[Tensor, "B T"]
    """log π_old(a_t | s_t) under the distribution that was sampled from."""
    ref_logp: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]

    @property
    def lengths(self) -> Int[Tensor, "B"]:
        """Number of response tokens, the end token included."""
        return self.response_mask.sum(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement(Batch):
    """What a judge and a scorer know of each response."""

    scores: Float[Tensor, "B"]
    """The scorer's score of the whole response."""
    evidence: Float[Tensor, "B T"]
    """Something about each token; its meaning is the judge's, zero where masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets(Batch):
    """What the policy and the value function are pulled towards."""

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOutput(Batch):
    """One forward pass of the trained module over the response tokens, with gradient."""

    logp: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
