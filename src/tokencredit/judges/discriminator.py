"""A discriminator that has learnt from edits which tokens are good: the evidence of TLCR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.discriminator import Discriminator, open_discriminator
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.scheme import Evidence
from tokencredit.rewards.tlcr import end_tokens
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.training_settings import JudgeTraining, Start


@dataclass(slots=True, kw_only=True)
class DiscriminatorJudge(Judge):
    """How sure a model is that a reviser would put a token in rather than take it out (Yoon et al.
    2024, TLCR).

    The evidence of a token is log D − log(1 − D), D the model's probability that it is a good one,
    read where it has seen the token and nothing behind it; that of an end token, which it has not
    learnt to judge, is 0. Its score of a response is the sum of 2 D − 1 over its tokens.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    causal: ClassVar[bool] = True

    init: Start = Start.sft
    """sft, as in the authors' script, or base, as in the paper."""
    training: JudgeTraining = field(
        default_factory=lambda: JudgeTraining(
            epochs=2.0, batch_size=32, weight_decay=0.1, warmup_fraction=0.0
        )
    )

    def artifacts(self) -> Mapping[str, str | type]:
        """The model that its own stage trains."""
        return {"discriminator": "discriminator"}

    def critic_from(self) -> str | None:
        """A value function may start from the discriminator."""
        return "discriminator"

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The discriminator behind a callable."""
        folder = given.folder("discriminator")
        return judging(open_discriminator(folder, actors.tokenizer, given.model, given.device))


def judging(model: Discriminator) -> OpenJudge:
    """The judge that reads this discriminator."""

    def judge(rollout: Rollout) -> Judgement:
        judged = rollout.response_mask & ~end_tokens(rollout)
        evidence = keep(model.log_odds(rollout), judged)
        scores = masked_sum(torch.tanh(evidence / 2), judged)  # 2 D − 1 = tanh of half the log-odds
        notes = Notes({"token_reward": scores})
        return Judgement(scores=scores, evidence=evidence, notes=notes)

    return judge
