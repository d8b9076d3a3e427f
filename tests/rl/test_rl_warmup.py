"""The value function alone before the first step: what moves, what does not, and what it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from case_plans import refusal
from observers import EvenJudge, Log, furnish, prompts_of
from policies import run_config
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.optimizer import Optimizer, Schedule
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.value import Value, ValueKind
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout
from tokencredit.settings import Evaluation


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("warmup"))


def config_at(place: Path, rollouts: int, **changes: Any) -> Config:
    rate = Optimizer(learning_rate=1e-2, warmup_steps=5)
    chosen = PPO(batch_size=8, epochs=2, minibatches=2, value_warmup=rollouts, optimizer=rate)
    config = run_config(algorithm=chosen, **changes)
    prompt = PromptSpec(min_characters=100)
    path = str(place / "reviews.jsonl")
    config.dataset = Dataset(source=Source.path, path=path, prompt=prompt)
    config.rollout = Sampling(min_new_tokens=2, max_new_tokens=6)
    config.evaluation = Evaluation(prompts=3)
    return replace(config, steps=1)


class Content(EvenJudge):
    """Scores every response with 3."""

    def __call__(self, rollout: Rollout) -> Judgement:
        found = EvenJudge.__call__(self, rollout)
        return replace(found, scores=torch.full((len(rollout),), 3.0))


def learner_of(config: Config, place: Path) -> Learner:
    actors = load_actors(config, place / "model", place / "reward")
    around = RunInputs(prompts_of(config, "rl"), prompts_of(config, "eval"), place)
    return Learner(config, actors, Content(), around, World(config.hardware))


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.actors.policy.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_head_alone_moves_where_the_trunk_is_shared(place: Path) -> None:
    learner = learner_of(config_at(place, 3), place)
    before = weights(learner)
    learner._warm_up()
    assert moved(before, weights(learner)) == {"value_head.weight", "value_head.bias"}
    held = learner.engine.optimizer.state
    assert {id(p) for p in held} == {id(p) for p in learner.actors.policy.value_head.parameters()}


@pytest.mark.parametrize(
    ("value", "more", "part"),
    [
        (Value(kind=ValueKind.separate), {}, "value_trunk"),
        (Value(kind=ValueKind.adapter), {"lora": Lora(enabled=True)}, "value"),
    ],
)
def test_a_value_function_of_its_own_moves_whole(
    place: Path, value: Value, more: dict[str, Any], part: str
) -> None:
    learner = learner_of(config_at(place, 1, value=value, **more), place)
    before = weights(learner)
    learner._warm_up()
    found = moved(before, weights(learner))
    assert "value_head.weight" in found and any(
        part in name and "head" not in name for name in found
    )
    group = {id(p) for p in learner.actors.policy.parameter_groups()["policy"]}
    names = {name for name, p in learner.actors.policy.named_parameters() if id(p) in group}
    assert names and not names & found


def run(config: Config, place: Path) -> Log:
    log = Log()
    learner_of(config, place).train(log, log)  # type: ignore[arg-type]
    return log


def test_the_steps_after_it_see_the_same_responses(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cold, warm = (run(config_at(place, n), place).rows[0] for n in (0, 12))
    same = ("score/mean", "kl/k1", "length/mean", "reward/mean", "kl/coef", "judge/sum")
    assert {name: cold[name] for name in same} == {name: warm[name] for name in same}
    assert cold["value/mean"] == 0 != warm["value/mean"]
    assert warm["value/loss"] < 0.8 * cold["value/loss"]
    said = capsys.readouterr().err
    assert "value warm-up: rollout 12/12, explained variance" in said


def test_the_rate_is_the_peak_however_the_run_begins() -> None:
    rate = Optimizer(
        learning_rate=0.5, warmup_steps=10, schedule=Schedule.linear, schedule_steps=20
    )
    assert [rate.rate_at(step) for step in (-3, -1, 0)] == [0.5, 0.5, 0.05]


def test_a_resumed_run_is_not_warmed_up_again(place: Path) -> None:
    learner = learner_of(config_at(place, 3), place)
    learner.next_step = 1
    before = weights(learner)
    learner._warm_up()
    assert moved(before, weights(learner)) == set()


def test_no_warm_up_is_no_part_of_a_key_and_refusals() -> None:
    from tokencredit.canonical import canonical

    plain: Any = canonical(PPO())
    assert "value_warmup" not in plain
    assert canonical(PPO(value_warmup=1)) != plain
    with pytest.raises(UserError, match=r"algorithm\.value_warmup = -1"):
        PPO(value_warmup=-1)


def test_sharded_state_cannot_move_a_part(tmp_path: Path) -> None:
    said = refusal(tmp_path, "algorithm.value_warmup=2", "hardware=cpu_zero2")
    assert "algorithm.value_warmup = 2" in said and "hardware.sharding=none" in said


def test_a_horizon_of_the_runs_own_size() -> None:
    config = run_config(algorithm=PPO(batch_size=8, kl=KLPenalty(horizon=None)))
    assert isinstance(config.algorithm, PPO) and config.steps == 100
    assert config.algorithm.kl.horizon == 800.0
    with pytest.raises(UserError, match=r"algorithm\.kl\.horizon = 0"):
        KLPenalty(horizon=0)
