"""What every judge promises: those that ship keep it, and twelve that do not are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from shapes import unchecked
from tokencredit.commands.check_judge import trial_of
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.judges import promises
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.ensemble import EnsembleJudge
from tokencredit.judges.given import Given, Live
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.policy_attention import Average, PolicyAttentionJudge
from tokencredit.judges.promises import REMEDIES, Trial, examine_judge
from tokencredit.judges.retokenised import reward_model
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout
from tokencredit.user_code.plugins import conf_dir
from tokencredit.user_code.promises import require_all

SHIPPED = sorted(path.stem for path in (conf_dir() / "judge").glob("*.yaml"))
FUNCTION = '''\
def score(prompts, responses, offsets):
    """One score a response, and the number of letters of each token."""
    return [len(text) for text in responses], [[b - a for a, b in spans] for spans in offsets]
'''


@dataclass(slots=True, kw_only=True)
class Sound(Judge):
    """A number of each token's id, which keeps every promise."""

    evidence: ClassVar[Evidence] = Evidence.signed

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """Ids as numbers around 0."""
        said = self.saying(given, actors)

        def judge(rollout: Rollout) -> Judgement:
            numbers = keep(rollout.response_ids % 7 - 2.5, rollout.response_mask)
            scores = masked_sum(numbers, rollout.response_mask)
            return Judgement(scores=scores, evidence=said(rollout, numbers))

        return judge

    def saying(self, given: Given, actors: Live) -> Callable[[Rollout, Tensor], Tensor]:
        """What becomes of the numbers."""
        del given, actors
        return self.say

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        """They are as they are."""
        return numbers


class Shape(Sound):
    """Numbers of another format."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return numbers.double()


class Mask(Sound):
    """Something of padding too."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return torch.where(rollout.response_mask, numbers, 0.5)


class Padding(Sound):
    """A share of the widest response, with padding."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return numbers / numbers.shape[1]


class Permutation(Sound):
    """Rows sorted by length, and left there."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return numbers[torch.argsort(rollout.lengths, stable=True)]


class Batch(Sound):
    """What a token has more than the mean of the batch."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return keep(numbers - numbers.sum() / rollout.response_mask.sum(), rollout.response_mask)


class Determinism(Sound):
    """A little noise."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return keep(numbers + 1e-3 * torch.rand(numbers.shape), rollout.response_mask)


class Gradient(Sound):
    """Something of the policy, with its gradient."""

    def saying(self, given: Given, actors: Live) -> Callable[[Rollout, Tensor], Tensor]:
        weight = next(actors.policy.parameters())
        return lambda _, numbers: numbers * (1 + 0 * weight.sum())


class Kind(Sound):
    """Weights below zero."""

    evidence: ClassVar[Evidence] = Evidence.nonnegative


class Needs(Sound):
    """A DPO model that it has not asked for."""

    def saying(self, given: Given, actors: Live) -> Callable[[Rollout, Tensor], Tensor]:
        given.folder("dpo")
        return self.say


class Finite(Sound):
    """The mean of the tokens before, of which the first has none."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        before = (rollout.lengths - 1)[:, None]
        return keep(torch.where(before > 0, numbers, numbers / before), rollout.response_mask)


class Passes(Sound):
    """Reads the reward model twice, and says once."""

    needs: ClassVar[tuple[str, ...]] = ("reward_model",)

    def saying(self, given: Given, actors: Live) -> Callable[[Rollout, Tensor], Tensor]:
        model = reward_model(given, actors)
        return lambda rollout, numbers: numbers + 0 * (model.score(rollout) + model.score(rollout))[:, None]  # fmt: skip


class Causal(Sound):
    """What a token has more than the mean of its response."""

    causal: ClassVar[bool] = True

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        mean = numbers.sum(dim=1, keepdim=True) / rollout.lengths[:, None]
        return keep(numbers - mean, rollout.response_mask)


BROKEN: dict[type[Sound], str] = {
    Shape: promises.SHAPE,
    Mask: promises.MASK,
    Padding: promises.PADDED,
    Permutation: promises.ORDER,
    Batch: promises.ALONE,
    Determinism: promises.SAME,
    Gradient: promises.GRADIENT,
    Kind: promises.KIND,
    Needs: promises.NEEDS,
    Finite: promises.FINITE,
    Passes: promises.PASSES,
    Causal: promises.CAUSAL,
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Models and responses, with a judge that reads all of them."""
    return trial_of("reward_model", [], tmp_path_factory.mktemp("trial"))


def problems(judge: Judge, trial: Trial) -> dict[str, str]:
    """The promises that it breaks."""
    found = examine_judge(replace(trial, judge=judge))
    return {name: problem for name, problem in found.items() if problem}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_judge_is_found_by_its_promise_and_by_no_other(
    kind: type[Sound], trial: Trial
) -> None:
    with unchecked():
        found = problems(kind(), trial)
    assert list(found) == [BROKEN[kind]]
    assert found[BROKEN[kind]].endswith(REMEDIES[BROKEN[kind]])
    with pytest.raises(UserError, match=rf"^{kind.__name__}: broken promises \(1 of \d+\):\n  "):
        require_all(kind.__name__, found | {str(n): "" for n in range(11)})


def test_a_sound_judge_keeps_all_promises(trial: Trial) -> None:
    assert set(BROKEN.values()) == set(REMEDIES) and len(BROKEN) == 12
    assert problems(Sound(), trial) == {}
    assert len(examine_judge(replace(trial, judge=Sound()))) == 11  # it does not say it is causal


class Scored(Sound):
    """Reads what only a scored response has, undeclared."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        return keep(numbers + rollout.ref_logp, rollout.response_mask)


class Changing(Sound):
    """Changes a weight of the policy."""

    def saying(self, given: Given, actors: Live) -> Callable[[Rollout, Tensor], Tensor]:
        weight = next(actors.policy.parameters())

        def say(rollout: Rollout, numbers: Tensor) -> Tensor:
            with torch.no_grad():
                weight[0] += 1e-3
            return numbers

        return say


class Raising(Sound):
    """Raises."""

    def say(self, rollout: Rollout, numbers: Tensor) -> Tensor:
        raise LookupError("not here")


@pytest.mark.parametrize(
    ("kind", "promise", "said"),
    [
        (Scored, promises.NEEDS, "found logp, ref_logp, or values"),
        (Changing, promises.GRADIENT, "of the policy than before"),
        (Raising, promises.SHAPE, "raised LookupError: not here"),
    ],
)
def test_other_ways_to_break_a_promise(
    kind: type[Sound], promise: str, said: str, trial: Trial
) -> None:
    found = problems(kind(), trial)
    assert list(found) == [promise] and said in found[promise]


@pytest.mark.parametrize(
    "judge",
    [
        AttentionJudge(),
        AttributionJudge(steps=2),
        PolicyAttentionJudge(),
        PolicyAttentionJudge(average=Average.last),
        EnsembleJudge(members=1),
    ],
    ids=lambda judge: f"{type(judge).__name__}",
)
def test_judges_that_do_not_say_they_are_causal_look_ahead(
    judge: Judge, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not judge.causal and problems(judge, trial) == {}
    monkeypatch.setattr(type(judge), "causal", True)
    assert list(problems(judge, trial)) == [promises.CAUSAL]


def test_the_implicit_judge_is_causal(trial: Trial) -> None:
    assert [kind for kind in COMPONENTS["judge"] if getattr(kind, "causal", False)] == [
        ImplicitJudge,
        DiscriminatorJudge,  # in a test of its own
        AdvantageJudge,  # likewise
    ]
    found = examine_judge(replace(trial, judge=ImplicitJudge()))
    assert promises.CAUSAL in found and not any(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_judge_that_ships_keeps_its_promises(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    named = {
        "function": [f"judge.function={tmp_path / 'mine.py'}:score"],
        "discriminator": ["dataset=pairs", "reviser.backend=chosen"],
        "bradley_terry": ["dataset=pairs"],
        "bradley_terry_dae": ["dataset=pairs"],
        "advantage": ["dataset=pairs", "model.context=256"],
    }
    found = examine_judge(trial_of(name, named.get(name, []), tmp_path))
    assert not any(found.values()) and len(found) >= 11
