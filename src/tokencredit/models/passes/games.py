"""Pairs of answers as a game reads them: one behind the other, each pair in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Int

from tokencredit.errors import require
from tokencredit.models.passes.packing import Layout
from tokencredit.rollout import padded


class PiContext(str, Enum):
    """What the frozen policy has read when the second answer's tokens are centred under it."""

    independent = "independent"
    """The prompt and what was said of the second answer, as in the game, whose players answer at
    the same time."""
    concat = "concat"
    """The first answer and the separator too: what one pass over the whole text gives."""


class Ties(str, Enum):
    """What a pair is of which neither answer is preferred."""

    zero = "zero"
    """A game of reward 0."""
    drop = "drop"
    """No game."""


class Duel(NamedTuple):
    """A prompt and two answers to it, as token ids; each answer with its end token."""

    prompt: Sequence[int]
    one: Sequence[int]
    other: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Games:
    """D pairs as B = 2 D games: first all (one, other), then all (other, one), in the same order.

    N answer tokens count, M states of the policy; T is the length of two answers, S and R of texts.
    Nothing stands but tensors, so that a collator can hand them over by name.
    """

    ids: Int[torch.Tensor, "B S"]
    """[prompt, first answer, separator, second answer], right-padded, without the last column,
    behind which nothing is chosen."""
    sources: Int[torch.Tensor, "N"]
    """Where among the B × S states each answer token was chosen: one before its own place."""
    mask: Bool[torch.Tensor, "B T"]
    """The tokens of the first answer, then those of the second; separators have no slot."""
    second: Bool[torch.Tensor, "B T"]
    """Those of them that are the second answer's."""
    chosen: Int[torch.Tensor, "N"]
    """Their ids."""
    policy_ids: Int[torch.Tensor, "C R"]
    """The texts that the policy reads."""
    policy_sources: Int[torch.Tensor, "M"]
    """Where among the C × R states those stand that it chooses answer tokens in, each once."""
    places: Int[torch.Tensor, "N"]
    """Which of the M states each answer token was chosen in."""

    @classmethod
    def of(
        cls, duels: Sequence[Duel], separator: Sequence[int], pad: int, context: PiContext
    ) -> Self:
        """The games of some pairs; padding holds the id `pad`, on which nothing depends.

        An empty prompt is a `UserError`: nothing could choose the first token.
        """
        for duel in duels:
            require(len(duel.prompt) > 0, "prompt", "empty", "must have a token to answer to")
        orders = [*duels, *(Duel(d.prompt, d.other, d.one) for d in duels)]
        ids, _ = padded([[*d.prompt, *d.one, *separator, *d.other] for d in orders], pad)
        said, mask = padded([[*d.one, *d.other] for d in orders], pad)
        begun, first = (
            torch.tensor([len(each) for each in side])[:, None]
            for side in ([d.prompt for d in orders], [d.one for d in orders])
        )
        columns = torch.arange(mask.shape[1])
        second = (columns >= first) & mask
        width = ids.shape[1] - 1
        rows = torch.arange(len(orders))[:, None]
        sources = rows * width + begun - 1 + columns + second * len(separator)
        played = {"ids": ids[:, :-1], "sources": sources[mask], "mask": mask, "second": second}
        if context is PiContext.concat:
            policy = played["ids"], played["sources"], torch.arange(int(mask.sum()))
        else:
            policy = _apart(orders, second, pad, columns - second * first)
            policy = *policy[:2], policy[2][mask]
        names = "policy_ids", "policy_sources", "places"
        return cls(**played, chosen=said[mask], **dict(zip(names, policy, strict=True)))

    @property
    def layout(self) -> Layout:
        """How the games are read."""
        return Layout(self.ids, self.sources, self.mask)

    @property
    def policy_layout(self) -> Layout:
        """How the policy reads its texts; only for taking states."""
        return Layout(self.policy_ids, self.policy_sources, self.mask)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def _apart(
    orders: Sequence[Duel], second: torch.Tensor, pad: int, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prompts with one answer each, (B, R), where its tokens were chosen, (M,), and which of these
    states each slot (B, T) of the games belongs to. `steps` count within each answer.

    The first answers of both orders are all answers: a game's second one is that of the row half a
    batch away, so each answer is read once.
    """
    ids, _ = padded([[*d.prompt, *d.one] for d in orders], pad)
    width = ids.shape[1] - 1
    counts = torch.tensor([len(d.one) for d in orders])
    starts = counts.cumsum(0) - counts
    sources = torch.cat(
        [row * width + len(d.prompt) - 1 + torch.arange(len(d.one)) for row, d in enumerate(orders)]
    )
    rows = torch.arange(len(orders))[:, None]
    owners = torch.where(second, (rows + len(orders) // 2) % len(orders), rows)
    return ids[:, :-1], sources, starts[owners] + steps
