"""Effects of tokens on the preference: advantages in the game that two answers play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

from tokencredit.errors import require
from tokencredit.fields import added, number
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.advantage import open_advantages
from tokencredit.models.passes.games import PiContext, Ties
from tokencredit.ops import masked_sum
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.training_settings import JudgeTraining

if TYPE_CHECKING:
    from tokencredit.models.advantage_model import AdvantageModel
    from tokencredit.models.policy import PolicyWithValue


@dataclass(slots=True, kw_only=True)
class AdvantageJudge(Judge):
    """Â of each response token as of the first answer in a game of two (Estimating Effects of
    Tokens in Preference Learning, Eq. 10): what the token does for being preferred to an answer of
    the SFT model, under which the advantages are centred.

    Defaults are those of its Table 1, whose learning rate is that of model=llama3_1_8b: here it is
    the model's. The end token is an action like the others. The score of a response is the sum of
    its tokens, the expected reward of 1 or −1 against the SFT model.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    causal: ClassVar[bool] = True

    rank: int = number(16, at_least=1)
    """Of the head, at most the width of the model, with which it can be any linear map to ids."""
    centred: bool = True
    """Whether what the SFT model expects is taken off; if not, sums still say who wins, but single
    numbers are no advantages: an ablation."""
    lora_rank: int = number(32, at_least=1)
    """Of the adapters on all linear layers, which are scaled by lora_alpha / sqrt(lora_rank)."""
    lora_alpha: int = number(32, at_least=1)
    """Scale numerator of the adapters."""
    pi_context: PiContext = PiContext.independent
    """independent, as in the game, or concat, which a single pass of the policy would give."""
    ties: Ties = Ties.zero
    """zero, or drop: what pairs of margin 0 (dataset.margin_column) are."""
    separator: str = "Please give another answer."
    """What a user says between two answers; in texts, what stands between them by itself."""
    effects: int = added(number(500, at_least=0))
    """Held-out pairs of the data, at most, of whose tokens the stage writes the advantages, each
    with place and class of word, to advantages.csv; none of sampled pairs, which are in no data."""
    training: JudgeTraining = field(
        default_factory=lambda: JudgeTraining(
            epochs=2.0, batch_size=64, max_length=512, warmup_fraction=0.1
        )
    )

    def __post_init__(self) -> None:
        """Check the numbers and the separator."""
        Judge.__post_init__(self)
        require(
            bool(self.separator.strip()),
            "judge.separator",
            self.separator,
            "is empty, so the second answer would continue the first one; say something",
        )

    def artifacts(self) -> Mapping[str, str | type]:
        """Adapters and head of its own stage, and the model that they are put on."""
        return {"advantage": "advantage", "sft": "sft"}

    def passes(self) -> Mapping[str, float]:
        """One of the SFT model as it is, the frozen policy, one under its adapters, and one of the
        policy that is being trained."""
        return {"sft": 2.0, "policy": 1.0}

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The advantage model behind a callable."""
        folders = given.folder("advantage"), given.folder("sft")
        model = open_advantages(*folders, actors.tokenizer, given.model, given.device)
        return self.judging(model, cast("PolicyWithValue", actors.policy))

    def judging(self, model: AdvantageModel, policy: PolicyWithValue) -> OpenJudge:
        """The judge that reads this model, and how far this policy has moved from its own."""

        def judge(rollout: Rollout) -> Judgement:
            evidence, drift = model.own(rollout, policy.choosing)
            mask = rollout.response_mask
            scores, drift_of = masked_sum(evidence, mask), masked_sum(drift, mask)
            notes = Notes({"advantage": scores, "centring_drift": drift_of / mask.sum(dim=1)})
            return Judgement(scores=scores, evidence=evidence, notes=notes)

        return judge
