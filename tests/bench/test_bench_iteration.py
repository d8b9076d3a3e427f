"""An iteration is a step of a run, and its phases are all of it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from bench_work import small, uneven
from tokencredit.algorithms.ppo import PPO
from tokencredit.bench import iteration
from tokencredit.bench.configuration import config_of, environment_of
from tokencredit.bench.iteration import Loop
from tokencredit.bench.run import Meter, Request, measure
from tokencredit.bench.workload import PHASES, Reward, Work
from tokencredit.machine.memory import reset_peak, resident_mb
from tokencredit.models.actors import Actors
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.loop import Learner

pytestmark = pytest.mark.usefixtures("contained")


@pytest.mark.parametrize("work", [small(), uneven(), small("llama", reward="abc")])
def test_phases_are_the_whole(work: Work) -> None:
    taken = Loop(work).iterate(0)
    assert taken.generation + taken.scoring + taken.optimisation == pytest.approx(taken.whole)
    assert min(taken.generation, taken.scoring, taken.optimisation) > 0
    assert taken.response_tokens == sum(work.response_lengths)
    assert taken.optimizer_steps == work.epochs * work.minibatches
    assert taken.weight_change > 0


SLOW = {
    "generation": (Actors, "respond"),
    "scoring": (Scorer, "score"),
    "optimisation": (PPO, "loss"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_time_is_booked_where_it_is_spent(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of sleep in a part of a phase shows up in that phase alone."""
    loop = Loop(small(epochs=1, minibatch=6))
    loop.iterate(0)
    kind, name = SLOW[phase]
    inner = getattr(kind, name)

    def late(self: Any, *args: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return inner(self, *args, **options)

    monkeypatch.setattr(kind, name, late)
    taken = loop.iterate(1).plain()
    assert {p for p in PHASES if taken[p] > 0.45} == {phase}


def test_an_iteration_is_a_step_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Learner.step

    def noted(self: Learner, number: int, tracker: Any) -> None:
        steps.append(number)
        step(self, number, tracker)

    monkeypatch.setattr(Learner, "step", noted)
    Loop(small()).iterate(7)
    assert steps == [7]
    assert torch.are_deterministic_algorithms_enabled()


def test_rewards_differ_in_judge_and_scheme() -> None:
    sparse, abc = config_of(small()), config_of(small(reward=Reward.abc))
    assert (type(sparse.reward_scheme), type(abc.reward_scheme)) == (Sparse, Redistribute)
    assert sparse.algorithm == abc.algorithm and sparse.rollout == abc.rollout
    judge = Loop(small(reward=Reward.abc)).learner.collector.judge
    rollout = Loop(small()).learner.actors.roll_out(
        iteration.learner_of(small(), sparse).prompts.batch(0, 0, 6), ("test",)
    )
    evidence = judge(rollout).evidence
    assert evidence.shape == (6, 4) and bool((evidence > 0).all())


def test_the_environment_is_that_of_a_run() -> None:
    found = environment_of(small(threads=3))
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("3", "3")
    assert found["GOMP_SPINCOUNT"] == "20000"
    assert found["MALLOC_MMAP_MAX_"] == "0" and int(found["MALLOC_TRIM_THRESHOLD_"]) > 2**30


def test_a_measurement_holds_everything() -> None:
    told: list[str] = []
    request = Request(work=uneven(), iterations=2, warm_up=1)
    found = measure(request, told.append)
    assert (len(found["warm_up"]), len(found["rounds"])) == (1, 2)
    assert [row["step"] for row in found["warm_up"] + found["rounds"]] == [0, 1, 2]
    assert [row["ceiling_first"] for row in found["rounds"]] == [True, False]
    for row in found["rounds"]:
        assert sum(row[p] for p in PHASES) == pytest.approx(row["whole"])
        for part in ("ceiling", "executed_flops"):
            assert set(row[part]) == set(PHASES) and min(row[part].values()) > 0
        assert row["padding"]["whole"] > 0
    assert Request.of(found["request"]) == request
    assert len(told) == 4 and "left" in told[-1]


def test_without_a_ceiling_and_without_words() -> None:
    told: list[str] = []
    request = Request(work=small(), iterations=1, warm_up=0, ceiling=False, progress=False)
    found = measure(request, told.append)
    assert found["rounds"][0]["ceiling"] is None
    assert told == []


def test_other_work_than_planned_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "response_tokens", 7)
    with pytest.raises(RuntimeError, match="24 tokens, not 7"):
        measure(Request(work=small(), iterations=1), print)


@pytest.mark.skipif(resident_mb() is None, reason="this system does not tell")
def test_the_peak_is_counted_above_what_stood() -> None:
    if not reset_peak():
        pytest.skip("this system does not let the peak start again")
    stood = torch.ones(2**22)
    meter = Meter()
    meter.start()
    before = meter.above_mb()
    assert before is not None and before < 16
    taken = torch.ones(2**24)  # 64 MB
    del taken
    above = meter.above_mb()
    assert above is not None and 48 < above < 96
    meter.again()
    later = meter.above_mb()
    assert later is not None and later < above
    assert len(stood) == 2**22
