"""One score for the whole response, from a reward model of the run's own pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tokencredit.fields import added
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.scorer import open_scorer
from tokencredit.rewards.scheme import Evidence
from tokencredit.training_settings import JudgeTraining, Start


class Preference(str, Enum):
    """Which answer is preferred to the rejected one."""

    preferred = "preferred"
    """The chosen answer, in the pairs that the reviser reads."""
    revised = "revised"
    """The rejected answer after its revision."""


@dataclass(slots=True, kw_only=True)
class BradleyTerryJudge(Judge):
    """A reward model by the model of Bradley and Terry (1952), trained on the run's preference
    pairs: the sequence reward of PPO in Yoon et al. 2024, Table 1.

    It has one output, of a linear layer without bias, and its score of a response is read at the
    last token: the end token, unless the length limit cut the response. It reads the pairs of
    reviser.pairs (reviser.limit, reviser.held_out), as the discriminator does, and no label.
    """

    pairs: Preference = Preference.preferred
    """preferred (chosen over rejected), or revised (revised over rejected)."""
    init: Start = Start.sft
    """sft, or base."""
    attention: bool = added(False)
    """Its attention from where the score is read is the evidence, as of judge=attention; otherwise
    it says nothing of single tokens."""
    training: JudgeTraining = field(
        default_factory=lambda: JudgeTraining(
            epochs=2.0, batch_size=32, weight_decay=0.1, warmup_fraction=0.0
        )
    )

    def gives(self) -> Evidence:
        """Shares of the score where its attention is read, else nothing."""
        return Evidence.nonnegative if self.attention else Evidence.none

    def artifacts(self) -> Mapping[str, str | type]:
        """The model that its own stage trains."""
        return {"bradley_terry": "bradley_terry"}

    def critic_from(self) -> str | None:
        """A value function may start from the reward model."""
        return "bradley_terry"

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The reward model behind a callable.

        Raises `UserError` for one whose vocabulary is not the policy's.
        """
        folder, end = given.folder("bradley_terry"), ScoreAt.end
        model = open_scorer(folder, actors.tokenizer, given.model, end, given.device)
        return (AttentionJudge() if self.attention else RewardModelJudge()).judging(model)
