"""What a judge asks for: stages by name, or the class of a stage of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from builders import handed, speaking, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.judges.ensemble import Ensemble
from tokencredit.judges.given import Given, Live
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.rollout import Judgement, Rollout
from tokencredit.settings import RewardModel
from tokencredit.stages.catalogue import STAGES, stage_named, stages_of
from tokencredit.stages.stage import Stage

WORLD: Any = SimpleNamespace(config=SimpleNamespace(reward_model=RewardModel(), stage_seed=7))


class Lexicon(Stage):
    """A stage that the package does not know."""

    name: ClassVar[str] = "lexicon"
    version: ClassVar[int] = 1

    def inputs(self) -> Mapping[str, object]:
        """Nothing."""
        return {}

    def run(self, out: Path) -> Mapping[str, object]:
        """Write nothing."""
        del out
        return {}


@dataclass(slots=True, kw_only=True)
class ReadsLexicon(Judge):
    """A judge with a stage of its own."""

    maker: ClassVar[str | type] = Lexicon

    def artifacts(self) -> Mapping[str, str | type]:
        """Its own, and one that every run has."""
        return {"words": self.maker, "sft": "sft"}

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The length of the name of what was found, for every response."""
        del actors
        size = float(len(given.folder("words").name))

        def judge(rollout: Rollout) -> Judgement:
            zeros = rollout.logp * 0
            return Judgement(scores=zeros[:, 0] + size, evidence=zeros)

        return judge


@pytest.mark.parametrize(
    ("judge", "roles"),
    [
        (RewardModelJudge(), ["reward_model"]),
        (ImplicitJudge(), ["dpo", "sft"]),
        (Ensemble(members=3), ["reward_model", "reward_model_1", "reward_model_2"]),
        (ReadsLexicon(), ["words", "sft"]),
    ],
)
def test_each_role_has_the_stage_that_was_asked_for(judge: Judge, roles: list[str]) -> None:
    stages = stages_of(judge, WORLD)
    assert list(stages) == roles
    for role, stage in stages.items():
        kind = Lexicon if role == "words" else STAGES[role.rstrip("_0123456789")]
        assert type(stage) is kind


def test_a_judge_is_handed_the_folder_of_its_own_stage() -> None:
    asked: list[str] = []

    def folder(role: str) -> Path:
        asked.append(role)
        return Path("store") / "lexicon" / "four"

    opened = ReadsLexicon().open(handed(folder=folder), speaking(train_tokenizer()))
    assert asked == ["words"] and callable(opened)


def test_an_unknown_stage_and_what_is_no_stage_are_refused() -> None:
    for name in ("rewards", "reward_model_x", "dpo_1"):
        with pytest.raises(UserError, match=f"no stage is called '{name}'; there are sft, reward"):
            stage_named(name, WORLD)

    @dataclass(slots=True, kw_only=True)
    class Confused(ReadsLexicon):
        """Names a class that makes nothing."""

        maker: ClassVar[str | type] = dict

    with pytest.raises(UserError, match="dict: is no stage"):
        stages_of(Confused(), WORLD)
