"""What every reward scheme promises of its token rewards, and a batch that holds it to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, Final, Self

import torch
from jaxtyping import Bool, Float

from tokencredit.errors import UserError
from tokencredit.ops import keep, last_token
from tokencredit.rewards.advantage_schemes import AdvantageScheme
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

ROUNDING: Final = 1e-5
"""By how much of what is paid in all a sum may miss the score."""
LENGTHS: Final = (1, 3, 6, 4, 2)
"""Tokens of the made-up responses."""
SHAPE: Final = "returns float32 of shape (B, T)"
MASKED: Final = "pays nothing where masked"
FINITE: Final = "pays finite rewards, for one token too"
GRADIENT: Final = "needs no gradient"
SUM: Final = "sums to the score"
DECLARED: Final = "reads evidence of tokens only if it declares it"
MEASURED: Final = "measures finite numbers by name"
REMEDIES: Final = {
    SHAPE: "return one float32 reward a token, of the shape of rollout.response_mask",
    MASKED: "pass the rewards through tokencredit.ops.keep(rewards, rollout.response_mask)",
    FINITE: "look for a division by 0 (a response of one token, evidence of zeros) or an overflow",
    GRADIENT: "detach the rewards from what they are computed of",
    SUM: "make the rewards of a response add up to judgement.scores, or set sum_preserving = False",
    DECLARED: "declare it: evidence: ClassVar[Evidence] = Evidence.nonnegative or Evidence.signed",
    MEASURED: 'return a dict of names and numbers from measure, such as {"credit/mine": 0.5}',
    "does not depend on padding": "mask what stands behind a response before sums, means, and ends",
    "ignores NaN in masked slots": "use tokencredit.ops.keep: a product with 0 keeps a NaN",
    "follows a permutation of the batch": "let a response's rewards depend on that response alone",
    "leaves its inputs untouched": "change no tensor in place; clone it first",
}
"""By promise: what to do where it is broken."""


class Undeclared(UserError):
    """A scheme has read what it does not declare to read."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ScoresAlone(Judgement):
    """A judgement for a scheme that declares no evidence: whoever reads it finds an error."""

    def __getattribute__(self, name: str) -> Any:
        """Every field but the evidence."""
        if name == "evidence":
            raise Undeclared(f"reads judgement.evidence; {REMEDIES[DECLARED]}")
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scores={self.scores!r})"

    def _each(self, change: Callable[[Any], Any]) -> Self:
        values = {item.name: object.__getattribute__(self, item.name) for item in fields(self)}
        parts: dict[str, Any] = {n: None if v is None else change(v) for n, v in values.items()}
        return type(self)(**parts)


def example(
    extra: int = 0, evidence: Evidence = Evidence.none, fill: float = 0.0
) -> tuple[Rollout, Judgement]:
    """Five responses of 1 to 6 tokens with `extra` columns of padding that holds `fill`."""
    generator = torch.Generator().manual_seed(0)
    rows, width = len(LENGTHS), max(LENGTHS)
    mask = torch.arange(width + extra) < torch.tensor(LENGTHS)[:, None]
    noise = torch.randn((4, rows, width), generator=generator)
    padded = torch.cat([noise, torch.full((4, rows, extra), fill)], dim=2)
    padded = torch.where(mask, padded, fill)
    weights = padded[3].abs() if evidence is Evidence.nonnegative else padded[3]
    rollout = Rollout(
        rows=torch.arange(rows),
        prompt_ids=torch.ones((rows, 2), dtype=torch.long),
        prompt_mask=torch.ones((rows, 2), dtype=torch.bool),
        response_ids=torch.full((rows, width + extra), 5),
        response_mask=mask,
        min_new=torch.zeros(rows, dtype=torch.long),
        finished=torch.tensor([True, False, True, True, False]),
        stopped=torch.zeros(5, dtype=torch.bool),
        groups=torch.arange(5),
        logp=padded[0],
        ref_logp=padded[1],
        values=padded[2],
    )
    ends = torch.arange(width + extra) % 2 == 0
    judgement = Judgement(
        scores=torch.tensor([1.5, -2.0, 0.3, 0.0, 4.0]),
        evidence=weights,
        ends=ends.expand(mask.shape) & (mask | bool(fill)),
    )
    return rollout, judgement


def looks_ahead(scheme: RewardScheme) -> tuple[bool, bool]:
    """Of the rewards before the last token of a response: whether they depend on evidence, and
    whether on that of later tokens or on the score. Found out on the made-up responses."""
    rollout, told = example(evidence=scheme.evidence)
    mask = rollout.response_mask
    places, early = torch.arange(mask.shape[1]), mask & ~last_token(mask)

    def moved(others: torch.Tensor, scores: torch.Tensor, seen: torch.Tensor) -> bool:
        """Whether rewards that are `seen` differ with `others`' evidence and those scores."""
        evidence = torch.where(others, 0.5 * told.evidence + 0.7, told.evidence)
        paid = scheme.token_rewards(rollout, replace(told, evidence=evidence, scores=scores))
        return not torch.equal(keep(paid, seen), keep(before, seen))

    before = scheme.token_rewards(rollout, told)
    later = (
        moved(mask & (places > t), -0.5 * told.scores + 1, early & (places <= t)) for t in places
    )
    return moved(mask, told.scores, early), any(later)


def as_declared(scheme: RewardScheme | AdvantageScheme, judgement: Judgement) -> Judgement:
    """The judgement without evidence for a scheme that does not declare to read it."""
    if scheme.evidence is not Evidence.none:
        return judgement
    values: dict[str, Any] = {
        item.name: getattr(judgement, item.name) for item in fields(judgement)
    }
    return ScoresAlone(**values)


def broken(
    scheme: RewardScheme, rollout: Rollout, judgement: Judgement, rewards: Any
) -> dict[str, str]:
    """The promises that these rewards of a batch break, each with what was found."""
    mask = rollout.response_mask
    problems = flaws(rewards, mask, "a reward")
    shaped = isinstance(rewards, torch.Tensor) and rewards.shape == mask.shape
    if scheme.preserves_sum() and shaped and FINITE not in problems:
        problems |= _sums(rewards.detach().to(mask.device), mask, judgement.scores)
    return problems


def flaws(rewards: object, mask: Bool[torch.Tensor, "B T"], what: str) -> dict[str, str]:
    """The promises of shape, masked slots, numbers, and gradient that one number a token breaks,
    each with what was found; `what` it is, for the message."""
    if not isinstance(rewards, torch.Tensor) or rewards.shape != mask.shape:
        found = (
            tuple(rewards.shape) if isinstance(rewards, torch.Tensor) else type(rewards).__name__
        )
        return {SHAPE: f"found {found} for {tuple(mask.shape)}"}
    problems: dict[str, str] = {}
    if not rewards.dtype.is_floating_point:
        problems[SHAPE] = f"found {rewards.dtype}"
    if rewards.requires_grad:
        problems[GRADIENT] = "found a gradient"
    paid = rewards.detach().to(mask.device)
    outside = ((paid != 0) & ~mask).any(dim=1)
    if outside.any():
        problems[MASKED] = f"found {what} behind the end of response {_first(outside)}"
    bad = (~paid.isfinite() & mask).any(dim=1)
    if bad.any():
        problems[FINITE] = f"found {_worst(paid[bad], mask[bad])} in response {_first(bad)}"
    return problems


def _sums(
    paid: Float[torch.Tensor, "B T"], mask: torch.Tensor, scores: Float[torch.Tensor, "B"]
) -> dict[str, str]:
    kept = keep(paid, mask).double()
    total, size = kept.sum(dim=1), kept.abs().sum(dim=1)
    wrong = (total - scores).abs() > ROUNDING * (1 + size + scores.abs())
    if not wrong.any():
        return {}
    row = _first(wrong)
    return {
        SUM: f"found {float(total[row]):g} for the score {float(scores[row]):g}, response {row}"
    }


def unmeasured(found: Any) -> str:
    """What is wrong with what `measure` has returned; empty if it is numbers by name."""
    if not isinstance(found, dict):
        return f"found {type(found).__name__}"
    for name, value in found.items():
        single = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        if not isinstance(name, str) or not isinstance(single, Real):
            return f"found {type(single).__name__} for {name!r}"
        if not math.isfinite(single):
            return f"found {single} for {name!r}"
    return ""


def vanishing(rewards: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor) -> list[str]:
    """What of a step teaches nothing: all rewards, all advantages."""
    found = []
    if not bool(keep(rewards, mask).any()):
        found.append(
            "every token's reward is 0, so the policy learns nothing from its scores; look at the "
            "reward function or model, and at the numbers of the reward scheme"
        )
    if float(keep(advantages, mask).abs().max()) <= torch.finfo(torch.float32).eps:
        found.append(
            "every advantage is 0, so the policy learns nothing; it would if responses that are "
            "compared had different rewards: look at the scores, rollout.temperature, and "
            "algorithm.samples_per_prompt"
        )
    return found


def _first(rows: torch.Tensor) -> int:
    return int(rows.nonzero()[0])


def _worst(paid: torch.Tensor, mask: torch.Tensor) -> float:
    return float(paid[0][~paid[0].isfinite() & mask[0]][0])
