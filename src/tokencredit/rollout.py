"""Batches that flow through an RL step.

B responses, P prompt tokens (left-padded), T response tokens (right-padded). Index t belongs to the
action that emitted response token t; the end-of-sequence token is an action. A mask is True where
the token counts. Floats are float32. An optional field that is None stays None in every selection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

import torch
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Tensors that share their first dimension."""

    def __getitem__(self, rows: torch.Tensor) -> Self:
        """The chosen rows, as the same type."""
        return self._each(lambda value: value[rows])

    def __len__(self) -> int:
        """Number of rows."""
        return len(getattr(self, fields(self)[0].name))

    def to(self, device: torch.device | str) -> Self:
        """Move the batch to another device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Any], Any]) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(**{n: None if v is None else change(v) for n, v in values.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order; prompts are padded left, responses right, to fit."""
        columns = {item.name: [getattr(part, item.name) for part in parts] for item in fields(cls)}
        return cls(**{name: _joined(name, column) for name, column in columns.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """For each token, the ids that top-k and top-p left possible: ragged, the ids stored once.

    Selecting rows selects positions and shares the ids.
    """

    ids: Int[torch.Tensor, "N"]
    """int32, all kept ids of all tokens."""
    starts: Int[torch.Tensor, "*S"]
    """Where a token's ids begin; (B, T), or one row of the tokens that a pass reads."""
    counts: Int[torch.Tensor, "*S"]
    """How many ids a token has; 0 where nothing was left out (or the slot is masked)."""

    def __getitem__(self, rows: torch.Tensor) -> Self:
        """The chosen rows."""
        return type(self)(ids=self.ids, starts=self.starts[rows], counts=self.counts[rows])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.starts)

    def cut(self, length: int) -> Self:
        """The first `length` tokens of each row."""
        starts, counts = self.starts[:, :length], self.counts[:, :length]
        return type(self)(ids=self.ids, starts=starts, counts=counts)

    def to(self, device: torch.device | str) -> Self:
        """These numbers on another device."""
        moved = (part.to(device) for part in (self.ids, self.starts, self.counts))
        ids, starts, counts = moved
        return type(self)(ids=ids, starts=starts, counts=counts)

    @property
    def bytes(self) -> int:
        """Size of the stored ids and of their index."""
        return sum(p.numel() * p.element_size() for p in (self.ids, self.starts, self.counts))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts; shorter responses are padded right with counts of 0."""
        longest = max(part.starts.shape[1] for part in parts)
        offsets = [0, *torch.tensor([len(p.ids) for p in parts]).cumsum(0).tolist()]
        shifted = [part.starts + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(
            ids=torch.cat([part.ids for part in parts]),
            starts=torch.cat([_padded(start, longest) for start in shifted]),
            counts=torch.cat([_padded(part.counts, longest) for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Notes:
    """Numbers about each response, by name, whose batch means are to be logged."""

    columns: dict[str, Float[torch.Tensor, "B"]]

    def __getitem__(self, rows: torch.Tensor) -> Self:
        """The chosen rows."""
        return type(self)({name: column[rows] for name, column in self.columns.items()})

    def to(self, device: torch.device | str) -> Self:
        """These numbers on another device."""
        return type(self)({name: column.to(device) for name, column in self.columns.items()})

    def means(self) -> dict[str, float]:
        """The mean of each column."""
        return {name: float(column.double().mean()) for name, column in self.columns.items()}

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, which have the same names."""
        names = parts[0].columns
        return cls({name: torch.cat([part.columns[name] for part in parts]) for name in names})


LEFT_PADDED: Final = ("ids", "mask", "prompt_ids", "prompt_mask")
"""Fields (B, P); every other field of two dimensions is (B, T) and padded right."""


def _joined(name: str, column: Sequence[Any]) -> Any:
    if any(value is None for value in column):
        return None
    if not isinstance(column[0], torch.Tensor):
        return type(column[0]).concatenate(column)
    if column[0].dim() == 1:
        return torch.cat(list(column))
    longest = max(value.shape[1] for value in column)
    return torch.cat([_padded(value, longest, left=name in LEFT_PADDED) for value in column])


def padded(
    rows: Sequence[Sequence[int]], pad: int, *, left: bool = False, width: int = 0
) -> tuple[Int[torch.Tensor, "B L"], Bool[torch.Tensor, "B L"]]:
    """Rows of ids as a batch, filled up with `pad` to the longest, or to `width` if that is more,
    and where the rows' own ids are.
    """
    width = max(width, *map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[number, place], mask[number, place] = torch.tensor(row, dtype=torch.long), True
    return ids, mask


def _padded(x: torch.Tensor, length: int, *, left: bool = False) -> torch.Tensor:
    """`x` with columns of zeros, so that it has `length` columns."""
    missing = length - x.shape[1]
    if missing == 0:
        return x
    return torch.nn.functional.pad(x, (missing, 0) if left else (0, missing))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts(Batch):
    """What the policy is asked to continue."""

    rows: Int[torch.Tensor, "B"]
    """Position of each record in its source; names its random streams."""
    samples: Int[torch.Tensor, "B"]
    """Which of several responses to the same record in this batch; names them too."""
    groups: Int[torch.Tensor, "B"]
    """Responses with the same number answer the same prompt, for baselines of a group."""
    ids: Int[torch.Tensor, "B P"]
    mask: Bool[torch.Tensor, "B P"]
    min_new: Int[torch.Tensor, "B"]
    """The end token is masked before this many response tokens."""
    max_new: Int[torch.Tensor, "B"]
    """The response is cut after this many tokens."""

    @classmethod
    def padded(
        cls,
        prompts: Sequence[Sequence[int]],
        pad: int,
        *,
        rows: Sequence[int] | None = None,
        min_new: Sequence[int] | None = None,
        max_new: Sequence[int] | None = None,
    ) -> Self:
        """Prompts, each once and a group of its own; `rows` number them, without it their places.

        Without limits, `min_new` and `max_new` are 0: nothing is to be generated.
        """
        count = len(prompts)
        ids, mask = padded(prompts, pad, left=True)
        none = [0] * count
        return cls(
            rows=torch.tensor(range(count) if rows is None else rows),
            samples=torch.zeros(count, dtype=torch.long),
            groups=torch.arange(count),
            ids=ids,
            mask=mask,
            min_new=torch.tensor(none if min_new is None else min_new),
            max_new=torch.tensor(none if max_new is None else max_new),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Batch):
    """What the policy said, and what policy, reference, and value function thought of it."""

    rows: Int[torch.Tensor, "B"]
    groups: Int[torch.Tensor, "B"]
    prompt_ids: Int[torch.Tensor, "B P"]
    prompt_mask: Bool[torch.Tensor, "B P"]
    response_ids: Int[torch.Tensor, "B T"]
    response_mask: Bool[torch.Tensor, "B T"]
    """True up to and including the end-of-sequence token."""
    min_new: Int[torch.Tensor, "B"]
    finished: Bool[torch.Tensor, "B"]
    """False where the response was cut off by its length limit."""
    stopped: Bool[torch.Tensor, "B"]
    """True where a stop string ended it: finished, but not by the end token."""
    logp: Float[torch.Tensor, "B T"]
    """log π_old(a_t | s_t) under the distribution that was sampled from."""
    ref_logp: Float[torch.Tensor, "B T"]
    values: Float[torch.Tensor, "B T"]
    full_kl: Float[torch.Tensor, "B T"] | None = None
    """Σ_v π (log π − log π_ref) over the whole vocabulary, where the estimator asks for it."""
    kept: Kept | None = None
    """The ids that could be sampled, where top-k or top-p left some out."""
    entropy: Float[torch.Tensor, "B T"] | None = None
    """Of the distribution that each token was sampled from, in nats, where a scheme reads it."""

    @classmethod
    def blank(
        cls,
        prompts: Prompts,
        ids: Int[torch.Tensor, "B T"],
        mask: Bool[torch.Tensor, "B T"],
        *,
        finished: Bool[torch.Tensor, "B"],
        stopped: Bool[torch.Tensor, "B"],
        kept: Kept | None = None,
    ) -> Self:
        """Responses to the prompts; log-probabilities and values are zero."""
        zeros = torch.zeros(ids.shape, device=ids.device)
        return cls(
            rows=prompts.rows,
            groups=prompts.groups,
            prompt_ids=prompts.ids,
            prompt_mask=prompts.mask,
            response_ids=ids,
            response_mask=mask,
            min_new=prompts.min_new,
            finished=finished,
            stopped=stopped,
            logp=zeros,
            ref_logp=zeros,
            values=zeros,
            kept=kept,
        )

    @property
    def lengths(self) -> Int[torch.Tensor, "B"]:
        """Number of response tokens, the end token included."""
        return self.response_mask.sum(dim=1)

    @property
    def total_lengths(self) -> Int[torch.Tensor, "B"]:
        """Number of prompt and response tokens."""
        return self.prompt_mask.sum(dim=1) + self.lengths

    def trimmed(self) -> Self:
        """These rows without the columns of padding that none of them needs."""
        prompt = int(self.prompt_mask.sum(dim=1).max())
        response = int(self.lengths.max())
        cut = {
            item.name: value[:, -prompt:] if item.name in LEFT_PADDED else value[:, :response]
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), torch.Tensor) and value.dim() == 2
        }
        kept = None if self.kept is None else self.kept.cut(response)
        return replace(self, **cut, kept=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement(Batch):
    """What a judge and a scorer know of each response."""

    scores: Float[torch.Tensor, "B"]
    """The scorer's score of the whole response."""
    evidence: Float[torch.Tensor, "B T"]
    """Something about each token; its meaning is the judge's, zero where masked."""
    notes: Notes | None = None
    """What else the judge wants logged of each response, as `judge/<name>`."""
    ends: Bool[torch.Tensor, "B T"] | None = None
    """True on each token that ends a sentence, where the judge was asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets(Batch):
    """What the policy and the value function are pulled towards."""

    advantages: Float[torch.Tensor, "B T"]
    returns: Float[torch.Tensor, "B T"]

    def cut(self, length: int) -> Self:
        """The first `length` tokens of each row."""
        return self._each(lambda value: value[:, :length])


@dataclass(frozen=True, kw_only=True)  # without slots: ZeRO-3 looks for tensors in its `vars`
class PolicyOutput(Batch):
    """One forward pass of the trained module over the response tokens, with gradient."""

    logp: Float[torch.Tensor, "B T"]
    values: Float[torch.Tensor, "B T"] | None
    """None where there is no value function."""
    entropy: Float[torch.Tensor, "B T"]
    full_kl: Float[torch.Tensor, "B T"] | None = None
    """As `Rollout.full_kl`, where it was asked for."""
