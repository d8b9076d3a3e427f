"""What a panel makes of a judge and a scorer, and what judges must not read or record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor

from builders import PAD_ID, handed, make_rollout, speaking, tiny_classifier, train_tokenizer
from policies import make_policy, rolled
from tokencredit.canonical import digest
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.given import Given, Live
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.panel import open_panel, shares_pass
from tokencredit.judges.policy_attention import PolicyAttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout

NOWHERE = handed()


@dataclass(slots=True, kw_only=True)
class Noting(Judge):
    """Says one number of everything, under names of notes."""

    number: float
    names: tuple[str, ...] = ()

    def open(self, given: Given, actors: Live) -> OpenJudge:
        def judge(rollout: Rollout) -> Judgement:
            scores = torch.full((len(rollout),), self.number)
            evidence = torch.where(rollout.response_mask, self.number, 0.0)
            return Judgement(
                scores=scores, evidence=evidence, notes=Notes(dict.fromkeys(self.names, scores))
            )

        return judge


@dataclass(slots=True, kw_only=True)
class Silent(Noting):
    """Reads the reward model, and says nothing of the whole response."""

    gives_scores: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)


def test_where_both_have_a_note_of_one_name_the_judges_is_logged() -> None:
    judge = Noting(number=1.0, names=("certainty", "own"))
    scorer = Noting(number=2.0, names=("certainty", "other"))
    said = open_panel(judge, scorer, NOWHERE, speaking(train_tokenizer()))(make_rollout([2, 3]))
    assert said.notes is not None
    assert said.notes.means() == {"certainty": 1, "own": 1, "other": 2}
    assert said.scores.tolist() == [2, 2] and said.evidence.sum() == 5


def test_a_judge_without_scores_never_stands_for_the_scorer() -> None:
    """Though both read the reward model alone: its scores are zeros, and would be paid."""
    judge, scorer = Silent(number=1.0), RewardModelJudge()
    assert judge.scoring() == scorer.scoring() is not None
    assert not shares_pass(judge, scorer)


def test_what_a_functions_numbers_mean_is_part_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(prompts, responses): return [1.0] * len(prompts)\n")
    keys = {
        digest(FunctionJudge(function=f"{file}:f", meaning=meaning).identity())
        for meaning in Evidence
    }
    assert len(keys) == len(Evidence)


@pytest.mark.parametrize("poison", [9.0, float("nan")])
def test_what_stands_behind_a_response_is_not_in_its_implicit_score(poison: float) -> None:
    rollout = make_rollout([3, 1], width=4)

    def ratio(rollout: Rollout) -> Tensor:
        return torch.where(rollout.response_mask, 0.5, poison)

    judge = ImplicitJudge().judging(cast(Any, ratio), 0.2, train_tokenizer())
    said = judge(rollout)
    assert said.scores.tolist() == pytest.approx([0.3, 0.1])
    assert said.notes is not None and torch.equal(
        said.notes.columns["implicit_reward"], said.scores
    )


def recording(model: torch.nn.Module, act: Callable[[], Any]) -> list[bool]:
    """Whether a graph was recorded, at each pass through the model's embeddings while it acts."""
    seen: list[bool] = []
    table = model.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    act()
    handle.remove()
    return seen


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_policy_is_read_for_its_attention_without_recording_a_graph(architecture: str) -> None:
    policy, rollout = make_policy(architecture=architecture), rolled(architecture)
    judge = PolicyAttentionJudge().watching(policy)
    assert set(recording(policy.model, lambda: judge(rollout))) == {False}
    assert set(recording(policy.model, lambda: policy(rollout))) == {True}


def test_a_response_is_scored_without_recording_a_graph() -> None:
    scorer, rollout = Scorer(tiny_classifier(), PAD_ID), make_rollout([4, 2])
    assert recording(scorer.model, lambda: scorer.score(rollout)) == [False]
    assert recording(scorer.model, lambda: scorer.score_and_attention(rollout, -1)) == [False]
