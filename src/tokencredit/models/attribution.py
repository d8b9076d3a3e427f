"""What each response token added to the reward model's score: attributions with a sign.

A response is compared with a baseline: the same prompt, and the same filler in place of every
response token. Only what differs can have a part in the difference of the two scores, so the prompt
has none, and the parts of the response tokens should sum to that difference (completeness).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.models.passes.sequences import PART_TOKENS, compact, parts, score_position
from tokencredit.models.scorer import Scorer
from tokencredit.ops import keep, without_gradient
from tokencredit.rollout import Rollout


class Method(str, Enum):
    """How the difference of two scores is dealt to tokens."""

    integrated_gradients = "integrated_gradients"
    """The mean gradient on the way from the baseline (Sundararajan et al. 2017)."""
    gradient_x_input = "gradient_x_input"
    """The gradient at the response, times what differs from the baseline."""


class Baseline(str, Enum):
    """What stands in place of a response token in the text that a response is compared with."""

    mean = "mean"
    """The mean embedding of the vocabulary."""
    pad = "pad"
    """The embedding of the pad id."""
    zero = "zero"
    """Zeros."""


@dataclass(frozen=True, slots=True)
class Attributions:
    """What the tokens of each response added."""

    evidence: Float[torch.Tensor, "B T"]
    """One number a response token, zero where masked."""
    baseline_scores: Float[torch.Tensor, "B"]
    """The score of each baseline."""

    def gaps(self, scores: Float[torch.Tensor, "B"]) -> Float[torch.Tensor, "B"]:
        """|Σ_t a_t − Δ| / max(|Δ|, Σ_t |a_t| / 100), Δ = score − baseline's score.

        The second bound keeps rounding out where parts of both signs cancel.
        """
        difference = scores - self.baseline_scores
        size = torch.maximum(difference.abs(), self.evidence.abs().sum(dim=1) / 100)
        missing = (self.evidence.sum(dim=1) - difference).abs()
        return missing / size.clamp(min=torch.finfo(size.dtype).tiny)


@dataclass(slots=True)
class Attributor:
    """Attributes the scores of one reward model."""

    scorer: Scorer
    method: Method = Method.integrated_gradients
    baseline: Baseline = Baseline.mean
    steps: int = 32
    """Points on the way at which integrated gradients are taken."""
    pass_tokens: int = PART_TOKENS
    """Tokens of one pass, forward and backward: what bounds the memory."""
    _filler: torch.Tensor | None = None

    def attribute(self, rollout: Rollout) -> Attributions:
        """Attributions of all response tokens; weights and their gradients stay as they are."""
        ids, _, start, last = compact(rollout, self.scorer.pad_id)
        read = score_position(rollout, last, self.scorer.score_at)
        evidence = torch.zeros(rollout.response_mask.shape, device=ids.device)
        scores = torch.zeros(len(ids), device=ids.device)
        slots = torch.arange(evidence.shape[1], device=ids.device)
        for rows, width in parts(last + 1, self.pass_tokens):
            places = torch.arange(width, device=ids.device)
            spoken = (places >= start[rows, None]) & (places <= last[rows, None])
            found, scores[rows] = self._part(ids[rows, :width], spoken, read[rows])
            columns = (start[rows, None] + slots).clamp(max=width - 1)
            evidence[rows] = found.gather(1, columns)
        return Attributions(keep(evidence, rollout.response_mask), scores)

    @without_gradient
    def _part(
        self,
        ids: Int[torch.Tensor, "B S"],
        spoken: Bool[torch.Tensor, "B S"],
        last: Int[torch.Tensor, "B"],
    ) -> tuple[Float[torch.Tensor, "B S"], Float[torch.Tensor, "B"]]:
        embedded = self.scorer.embed(ids)
        base = torch.where(spoken[..., None], self._filler_of(ids.device), embedded)
        scores = self.scorer.score_embedded(base, last)
        with torch.enable_grad():
            found = self._explain()(embedded - base, base, last)
        return found.detach().sum(dim=-1), scores

    def _moved(
        self,
        difference: Float[torch.Tensor, "B S d"],
        base: Float[torch.Tensor, "B S d"],
        last: Int[torch.Tensor, "B"],
    ) -> Float[torch.Tensor, "B"]:
        """The scores of baselines that are moved by `difference`, read at `last`."""
        return self.scorer.score_embedded(base + difference, last)

    def _explain(self) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """The method, as a function of differences, baselines, and where scores are read."""
        from captum.attr import InputXGradient, IntegratedGradients

        if self.method is Method.integrated_gradients:
            return self._integrated(IntegratedGradients(self._moved))
        plain = InputXGradient(self._moved)

        def explain(
            difference: torch.Tensor, base: torch.Tensor, last: torch.Tensor
        ) -> torch.Tensor:
            own = difference.requires_grad_()
            found: torch.Tensor = plain.attribute(own, additional_forward_args=(base, last))
            return found

        return explain

    def _integrated(
        self, method: Any
    ) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        def explain(
            difference: torch.Tensor, base: torch.Tensor, last: torch.Tensor
        ) -> torch.Tensor:
            rows, width = difference.shape[:2]
            found: torch.Tensor = method.attribute(
                difference,
                additional_forward_args=(base, last),
                n_steps=self.steps,
                internal_batch_size=max(rows, self.pass_tokens // width),
            )
            return found

        return explain

    def _filler_of(self, device: torch.device) -> Float[torch.Tensor, "d"]:
        if self._filler is None:
            self._filler = filler(self.scorer, self.baseline, device)
        return self._filler


def filler(scorer: Scorer, baseline: Baseline, device: torch.device) -> Float[torch.Tensor, "d"]:
    """The embedding that stands in place of each response token."""
    pad = scorer.embed(torch.tensor(scorer.pad_id, device=device))
    if baseline is Baseline.pad:
        return pad
    if baseline is Baseline.zero:
        return torch.zeros_like(pad)
    ids = torch.arange(scorer.vocabulary(), device=device)
    sums = [scorer.embed(part).double().sum(dim=0) for part in ids.split(PART_TOKENS)]
    return (torch.stack(sums).sum(dim=0) / len(ids)).to(pad.dtype)
