"""Hindsight: how much likelier the outcome of a response makes each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from tokencredit.console import say_once
from tokencredit.errors import require
from tokencredit.fields import number
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.hindsight import MUCH, HindsightModel, open_hindsight
from tokencredit.models.scorer import Scorer, open_scorer
from tokencredit.ops import masked_mean
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.training_settings import JudgeTraining


@dataclass(slots=True, kw_only=True)
class HindsightJudge(Judge):
    """How much likelier the response's outcome makes each token, log h − log π (signed).

    c_t = log h(y_t | y_<t, x, outcome) − log π(y_t | y_<t, x), where the outcome is the bin of the
    score between quantiles of the SFT model's scores (Harutyunyan et al. 2019, return-conditional
    form). The score of a response is the reward model's.

    π is the frozen SFT model, and h the same model under adapters, trained on its responses with
    the outcome told in words before the prompt. By Bayes' rule h / π = p(outcome | s, a) /
    p(outcome | s) under the model that the responses were drawn from; that the policy drifts away
    from it is not corrected.

    Hindsight credit is exact where the score is a function of the outcome, and h is positive
    wherever π is. A reward model's score is a function of the whole response, so towards the end h
    is 0 for tokens that lead to other outcomes alone, and their share of the credit is lost:
    `judge/lost_mass` says how much of π stands there.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    reads_score: ClassVar[bool] = True

    outcomes: int = number(4, at_least=2)
    """Bins of the score, of equally many training responses each."""
    phrase: str = "Outcome"
    """What stands before the prompt, with the number of the outcome: `Outcome 3 of 4.`"""
    lora_rank: int = number(16, at_least=1)
    """Of the adapters on all linear layers, which are scaled by lora_alpha / sqrt(lora_rank)."""
    lora_alpha: int = number(32, at_least=1)
    """Scale numerator of the adapters."""
    training: JudgeTraining = field(
        default_factory=lambda: JudgeTraining(learning_rate=2e-4, epochs=2.0, batch_size=32)
    )

    def __post_init__(self) -> None:
        """Check the numbers and the phrase."""
        Judge.__post_init__(self)
        require(
            bool(self.phrase.strip()),
            "judge.phrase",
            self.phrase,
            "is empty, so a number alone would begin the prompt; say what it is a number of",
        )

    def told(self) -> tuple[str, ...]:
        """What the model is told of each outcome, the worst first."""
        return tuple(f"{self.phrase} {n + 1} of {self.outcomes}.\n" for n in range(self.outcomes))

    def about(self) -> dict[str, object]:
        """The settings that are kept with the model, and must be the same when it is read."""
        return {"outcomes": self.outcomes, "phrase": self.phrase}

    def artifacts(self) -> Mapping[str, str | type]:
        """Adapters of its own stage, the model that they are put on, and what scores."""
        return {"hindsight": "hindsight", "sft": "sft", "reward_model": "reward_model"}

    def scoring(self) -> object:
        """As the reward model by itself."""
        return ("reward_model",)

    def passes(self) -> Mapping[str, float]:
        """One of the SFT model as it is, one under its adapters, and one of the reward model."""
        return {"sft": 2.0, "reward_model": 1.0}

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The hindsight model and the reward model behind a callable.

        Raises `UserError` where one of them has another vocabulary than the policy.
        """
        places = given.folder("hindsight"), given.folder("sft")
        tokenizer, model, device = actors.tokenizer, given.model, given.device
        hindsight = open_hindsight(*places, tokenizer, model, device, self.about())
        reward = given.folder("reward_model")
        return Reading(hindsight, open_scorer(reward, tokenizer, model, given.score_at, device))


@dataclass(frozen=True, slots=True)
class Reading:
    """A hindsight model and the reward model that says the outcomes, as an open judge."""

    model: HindsightModel
    scorer: Scorer

    def __call__(self, rollout: Rollout) -> Judgement:
        """c_t of all tokens, given the outcome that the score is; it is said once where much of π
        stands on tokens that h makes impossible."""
        scores = self.scorer.score(rollout)
        outcomes = self.model.outcomes(scores)
        found = self.model(rollout, outcomes)
        if masked_mean(found.lost, rollout.response_mask) > MUCH:
            say_once(
                f"judge=hindsight: more than {MUCH:.0%} of π stands on tokens that the outcome "
                "makes impossible (judge/lost_mass); credit for not saying them is lost, use fewer "
                "outcomes (judge.outcomes)"
            )
        lost = found.lost.sum(dim=1) / rollout.lengths
        notes = Notes({"outcome": outcomes.float(), "lost_mass": lost})
        return Judgement(scores=scores, evidence=found.evidence, notes=notes)
