"""RTO's family through the whole program: pairs, DPO, and RL on a DPO model's log-ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import RATE, Run, Workplace

pytestmark = pytest.mark.slow

DPO = [
    "dpo.pairs=sampled",
    "dpo.prompts=48",
    "dpo.held_out=12",
    "dpo.learning_rate=3e-3",
    "dpo.batch_size=8",
    "dpo.epochs=2",
]
LORA = ["model.lora.enabled=true", "model.lora.r=4", "model.value.kind=adapter"]


def trained(place: Workplace, name: str, *arguments: str) -> Run:
    ended = place.train(*DPO, "steps=3", f"run_dir={name}", *arguments).ok()
    return Run(ended, place.folder / name)


@pytest.mark.parametrize("adapters", [[], LORA], ids=["copies", "adapters"])
def test_rto_trains_on_its_own_dpo_model(own: Workplace, adapters: list[str]) -> None:
    run = trained(own, "rto", "reward_scheme=rto", *adapters)
    rows = run.rows()
    for row in rows:
        assert row["judge/implicit_reward"] == pytest.approx(0.1 * row["judge/sum"], abs=1e-5)
        assert row["reward/mean"] == pytest.approx(0.1 * row["judge/sum"], abs=1e-4)
        assert row["credit/clipped_fraction"] == 0 and row["ppo/ratio_max_dev"] < 1e-4
    assert any(abs(row["judge/sum"]) > 1e-3 for row in rows)
    manifest = run.json("manifest.json")
    assert {"sft", "dpo", "reward_model", "oracle"} == set(manifest["parents"])
    (policy,) = [run.folder / "policy"]
    assert (policy / "model.safetensors").is_file() and not list(policy.glob("*dpo*"))
    again = trained(own, "again", "reward_scheme=rto", *adapters)
    assert again.bytes() == run.bytes()


def test_a_family_of_schemes_shares_one_dpo_model(own: Workplace) -> None:
    names = ["rto", "dppo", "rto_v2", "semi_rto", "rto_shaped", "ddpo"]
    runs = {name: trained(own, name, f"reward_scheme={name}") for name in names}
    keys = {run.json("manifest.json")["parents"]["dpo"] for run in runs.values()}
    assert len(keys) == 1
    first = {name: run.rows()[0] for name, run in runs.items()}
    sums = {row["judge/sum"] for row in first.values()}
    assert len(sums) == 1  # one policy, one judge, before the first update
    assert first["rto"]["reward/mean"] == pytest.approx(first["dppo"]["reward/mean"], abs=1e-5)
    assert first["rto"]["credit/entropy"] > first["semi_rto"]["credit/entropy"]
    shaped = first["rto_shaped"]
    assert shaped["reward/mean"] == pytest.approx(shaped["score/mean"], abs=1e-4)


def test_dpo_alone_leaves_a_model_and_its_figures(own: Workplace) -> None:
    base = [argument for argument in own.base if argument != RATE]
    place = Workplace(own.folder, own.store, [*base, *DPO, "algorithm=dpo"])
    ended = place.train().ok()
    folder = Path(next(line for line in ended.out.splitlines() if line.startswith("dpo: "))[5:])
    manifest = json.loads((own.folder / folder / "manifest.json").read_text())
    assert manifest["figures"]["held_out"] > 0 and manifest["figures"]["pairs"] > 20
    assert manifest["figures"]["accuracy_low"] <= manifest["figures"]["accuracy"]
    said = place.plan()
    assert "hit   dpo" in said.out and "hit   evaluation" in said.out
    (results,) = (own.folder / "runs" / "dpo").glob("*/results.json")
    measured = json.loads(results.read_text())["evaluation"]
    assert measured["policy/kl"]["mean"] != 0 and 0 <= measured["policy/win_rate"]["mean"] <= 1
    assert "on held-out prompts" in ended.out and "win_rate" in ended.out


def test_reviews_are_no_pairs(own: Workplace) -> None:
    said = own.train("reward_scheme=rto").error()
    assert "have no rejected answer; preference learning needs pairs" in said
    assert "dpo.pairs=sampled" in said
