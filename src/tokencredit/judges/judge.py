"""The base of all judges: what one says of responses, and what it needs for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tokencredit.fields import Settings
from tokencredit.judges.given import Given, Live
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OpenJudge = Callable[[Rollout], Judgement]
Seen = Mapping[str, Callable[[], "PreTrainedModel | None"]]
"""Models of a run before any work, without their weights; None for one that is not to be seen."""


@dataclass(slots=True, kw_only=True)
class Judge(Settings, ABC):
    """Says something about the tokens of a response, or only about the whole of it."""

    section: ClassVar[str] = "judge"
    evidence: ClassVar[Evidence] = Evidence.none
    """What the numbers of its class mean, unless `gives` says otherwise."""
    causal: ClassVar[bool] = False
    """Whether the evidence of a token depends on prompt and response up to that token alone."""
    gives_scores: ClassVar[bool] = True
    reads_score: ClassVar[bool] = False
    """Whether its evidence is of its own score, so that no other score can be paid by it."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the artifacts that it reads; two judges that need the reward model alone share a
    pass."""

    def gives(self) -> Evidence:
        """What the numbers of this judge mean; schemes that need another kind are refused."""
        return self.evidence

    def gives_ends(self) -> bool:
        """Whether its judgements say where sentences end."""
        return False

    def reads_reference(self) -> bool:
        """Whether it reads `Rollout.ref_logp`, which responses of other models than the policy lack
        unless they are scored."""
        return False

    def columns(self, there: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """The columns of the data that it reads besides prompt and response, of those `there`."""
        del there
        return ()

    def check(self) -> None:
        """Raise for what can be known to be wrong before any work is done."""
        return

    def check_models(self, models: Seen) -> None:
        """Raise for a model that it cannot read; `models` by role (policy, reward_model)."""
        return

    def identity(self) -> object:
        """What of the judge can change its verdict; itself, unless it names files."""
        return self

    def artifacts(self) -> Mapping[str, str | type]:
        """The artifacts that it reads: by role, the name of the stage that makes it, or the class
        of a stage of one's own. Those of `needs`, unless a judge's settings decide."""
        return {name: name for name in self.needs}

    def critic_from(self) -> str | None:
        """The role of its own trained model that a value function may start from
        (model.value.init=judge); None where it has none."""
        return None

    def check_reward_models(self, *, trained: bool) -> None:
        """Raise for reward models that cannot be made; `trained`: the run trains them."""
        return

    def scoring(self) -> object:
        """What decides its scores: judges of one answer share a pass. None: that is its own."""
        return self.needs if self.needs == ("reward_model",) else None

    def passes(self) -> Mapping[str, float]:
        """How often a judgement reads prompt and response, by role of the model that reads them.

        The roles are those of `artifacts`, and "policy". A backward pass counts as two. Only for
        `compute/flops`: what is not declared counts nothing. Once each artifact, unless a judge
        says otherwise.
        """
        return dict.fromkeys(self.artifacts(), 1.0)

    @abstractmethod
    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The live judge.

        `given` holds the artifacts that it has asked for, `actors` the tokenizer that responses are
        written in and the live policy, which may be read without gradient at the time of a call.
        """
