"""Operations that a step needs: counted by hand for each algorithm, judge, and value function."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import make_rollout, tiny_actors, tiny_causal
from policies import run_config
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.remax import ReMax
from tokencredit.algorithms.scores import Normalise
from tokencredit.config import Config
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.ensemble import Ensemble
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.implicit import Denominator, ImplicitJudge
from tokencredit.judges.policy_attention import PolicyAttentionJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.value import Value, ValueKind
from tokencredit.rl.compute import Compute, spent, stored_parameters
from tokencredit.store.run_folder import RunFolder, State

MEMBERS = ("reward_model", "reward_model_1", "reward_model_2")
SIZES = {**dict.fromkeys(MEMBERS, 1000), "dpo": 100, "sft": 10}
N = tiny_causal().num_parameters()
DONE = {"optimizer/steps": 8.0, "ppo/skipped": 0.0, "ppo/stopped": 0.0}


def compute(config: Config) -> Compute:
    return Compute.of(config, tiny_actors(), SIZES)


def judged_by(judge: Any, **changes: Any) -> float:
    """2 × what the judge reads of each token, beside 6 N of the rest."""
    config = run_config(algorithm=PPO())
    config.judge = judge
    for name, value in changes.items():
        setattr(config, name, value)
    return compute(config).rollout / 2 - 3 * N


def test_a_policy_in_shards_counts_as_a_whole_with_its_adapters() -> None:
    actors = tiny_actors()
    largest, *others = sorted(actors.policy.model.parameters(), key=lambda own: -own.numel())
    whole = largest.numel()
    vars(largest)["ds_numel"] = whole
    largest.data = largest.data.new_empty(0)
    assert whole + sum(own.numel() for own in others) == N
    found = Compute.of(run_config(algorithm=PPO()), actors, SIZES)
    assert found == compute(run_config(algorithm=PPO()))


def test_ppo_by_hand() -> None:
    """Generation, policy, reference, one reward model; twice the trained policy's 3 × 2 N."""
    algorithm = PPO(epochs=2, minibatches=4)
    config = replace(run_config(algorithm=algorithm), judge=AttentionJudge())
    found = compute(config)
    assert found.rollout == 2 * (3 * N + 1000)
    rollout = make_rollout([4, 2])
    tokens = int(rollout.total_lengths.sum())
    measured = found.measure(rollout, DONE)["compute/flops"]
    assert measured == tokens * (2 * (3 * N + 1000) + 2 * 6 * N)
    half = {**DONE, "optimizer/steps": 2.0, "ppo/skipped": 1.0, "ppo/stopped": 1.0}
    assert found.measure(rollout, half)["compute/flops"] == tokens * (found.rollout + 6 * N)


def test_padding_needs_nothing() -> None:
    found = compute(run_config(algorithm=PPO()))
    assert found.measure(make_rollout([3, 1]), DONE) == found.measure(
        make_rollout([3, 1], width=40), DONE
    )


@pytest.mark.parametrize(
    ("judge", "read"),
    [
        (AttentionJudge(), 1000),
        (AttributionJudge(steps=8), 26 * 1000),
        (PolicyAttentionJudge(), N + 1000),
        (ImplicitJudge(), 110 + 1000),
        (ImplicitJudge(reference=Denominator.kl), 100 + 1000),
        (FunctionJudge(function="f.py:g"), 1000),
    ],
)
def test_what_a_judge_reads(judge: Any, read: int) -> None:
    assert judged_by(judge) == read


def test_a_scorer_reads_too() -> None:
    assert judged_by(AttentionJudge(), scorer=Ensemble(members=3)) == 4000


def test_a_value_model_of_its_own_is_read_and_trained() -> None:
    config = run_config(algorithm=PPO())
    adapter = replace(
        config,
        model=replace(config.model, value=Value(kind=ValueKind.adapter), lora=Lora(enabled=True)),
    )
    assert compute(adapter).rollout - compute(config).rollout == 2 * N
    assert compute(adapter).update == 2 * compute(config).update == 12 * N


def test_greedy_answers_count_for_algorithms_that_have_them() -> None:
    plain = compute(run_config(algorithm=PPO())).rollout
    assert compute(run_config(algorithm=ReMax())).rollout - plain == 2 * (N + 1000)


def test_stored_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    model = tiny_causal()
    model.save_pretrained(tmp_path / "a")
    assert stored_parameters(tmp_path) == N


def logged(
    folder: Path, metrics: list[dict[str, float]], times: list[dict[str, float]]
) -> RunFolder:
    """A run with these rows, complete after two steps."""
    folder.mkdir()
    for name, rows in (("metrics", metrics), ("timings", times)):
        lines = [json.dumps({"step": step, **row}) for step, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    run = RunFolder(folder)
    run.write(State.complete, key="k")
    results = {"config_hash": "k", "seeds": {}, "steps": 2, "status": "complete"}
    (folder / "results.json").write_text(json.dumps(results))
    return run


def test_what_a_run_has_spent_by_hand(tmp_path: Path) -> None:
    """Two steps of eight responses, three rollouts of warm-up, 128 reference scores; a third step
    that was logged beyond the results counts nothing. The peak is that of any session."""
    rows = [
        {"optimizer/steps": n, "length/mean": x}
        for n, x in ((4.0, 10.25), (3.0, 9.125), (4.0, 9.0))
    ]
    times = [{"memory/peak_mb": x} for x in (900.5, 700.0, 2000.0)]
    run = logged(tmp_path / "run", rows, times)
    algorithm = PPO(
        batch_size=8, value_warmup=3, normalise=Normalise.reference, normalise_samples=128
    )
    config = replace(run_config(algorithm=algorithm), judge=AttentionJudge())
    expected = {
        "optimizer_steps": 7.0,
        "response_tokens": 82 + 73,
        "judge_calls": 16 + 24 + 128,
        "peak_memory_mb": 900.5,
    }
    assert spent(config, run) == expected
    beside = replace(config, algorithm=ReMax(batch_size=8, samples_per_prompt=2))
    assert spent(beside, run)["judge_calls"] == 2 * (8 + 4)
    config.judge = ImplicitJudge()
    assert spent(config, run)["judge_calls"] == 2 * (16 + 24 + 128), "judge and scorer read each"


def test_what_was_not_logged_is_not_known(tmp_path: Path) -> None:
    run = logged(tmp_path / "run", [{"optimizer/steps": 4.0}, {}], [{}, {"memory/peak_mb": 1.0}])
    found = spent(replace(run_config(algorithm=PPO(batch_size=8)), judge=AttentionJudge()), run)
    unknown = dict.fromkeys(["optimizer_steps", "response_tokens", "peak_memory_mb"])
    assert found == {**unknown, "judge_calls": 16}
