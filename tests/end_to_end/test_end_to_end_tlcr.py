"""TLCR through the whole program: pairs, revisions, discriminator, and RL on its probabilities."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from paper_runs import DATA

from .conftest import QUICK, SMALL, Run, Workplace, write_jsonl

pytestmark = pytest.mark.slow
HH = DATA / "hh_rlhf" / "harmless_base_1800.jsonl.gz"

TLCR = [
    "reviser.backend=chosen",
    "reviser.pairs=sampled",
    "dpo.prompts=48",
    "dpo.held_out=12",
]
LEARNING = ["judge.training.learning_rate=3e-3", "judge.training.batch_size=8"]
OWN_CRITIC = ["model.value.kind=separate", "model.value.init=judge"]


def trained(place: Workplace, name: str, *arguments: str) -> Run:
    ended = place.train(*TLCR, "steps=3", f"run_dir={name}", *arguments).ok()
    return Run(ended, place.folder / name)


def test_tlcr_trains_on_its_own_discriminator_and_is_scored_by_it(own: Workplace) -> None:
    run = trained(own, "tlcr", "reward_scheme=tlcr", *LEARNING)
    for row in run.rows():
        assert row["score/mean"] == pytest.approx(row["judge/token_reward"], abs=1e-5)
        assert row["reward/mean"] == pytest.approx(row["score/mean"], abs=1e-4)
        assert row["tlcr/positive_fraction"] + row["tlcr/negative_fraction"] <= 1 + 1e-6
    assert any(abs(row["score/mean"]) > 1e-4 for row in run.rows())
    manifest = run.json("manifest.json")
    assert set(manifest["parents"]) == {"sft", "discriminator", "oracle"}
    folder = own.store / "discriminator" / manifest["parents"]["discriminator"]
    figures = json.loads((folder / "manifest.json").read_text())["figures"]
    assert figures["held_out"] > 0 and 0 <= figures["accuracy_low"] <= figures["accuracy"]
    assert (folder / "evaluation.png").is_file()
    again = trained(own, "again", "reward_scheme=tlcr", *LEARNING)
    assert again.bytes() == run.bytes()


def test_its_relatives_share_the_discriminator_and_a_critic_may_start_from_it(
    own: Workplace,
) -> None:
    given = {
        "tlcr_fixed": [],
        "tlcr_no_negative": OWN_CRITIC,
        "tlcr_authors": [],
    }
    runs = {
        name: trained(own, name, f"reward_scheme={name}", *LEARNING, *extra)
        for name, extra in given.items()
    }
    parents = [run.json("manifest.json")["parents"] for run in runs.values()]
    assert len({each["discriminator"] for each in parents}) == 1
    assert all(row["reward/mean"] >= 0 for row in runs["tlcr_no_negative"].rows())
    first = {name: run.rows()[0] for name, run in runs.items()}
    assert len({row["score/mean"] for row in first.values()}) == 1  # one policy, one judge
    said = own.plan(*TLCR, "reward_scheme=tlcr_no_positive", *LEARNING, "steps=3").ok().out
    assert "hit   discriminator" in said and "hit   revisions" in said


def test_a_critic_cannot_start_from_a_judge_without_a_model(own: Workplace) -> None:
    said = own.run("plan", *own.base, "reward_scheme=sparse", *OWN_CRITIC).error()
    assert "model.value.init = 'judge': RewardModelJudge trains no model of its own" in said


@pytest.mark.skipif(not HH.is_file(), reason=f"TOKENCREDIT_DATA: no {HH}")
def test_ten_steps_on_dialogues_with_revisions_of_chosen_answers_and_of_ones_own(
    fresh: Workplace,
) -> None:
    """Anthropic's pairs; first the chosen answers stand for revisions, then a file has them."""
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        rows = sorted(map(json.loads, file), key=lambda row: len(row["chosen"] + row["rejected"]))
    path = write_jsonl(fresh.folder / "pairs.jsonl", rows[:240])
    base = [
        *("dataset=hh_harmless", "dataset.source=path", f"dataset.path={path}"),
        *(*SMALL, *QUICK, "oracle.enabled=false", "reward_scheme=tlcr", "reviser.held_out=8"),
        *("judge.training.learning_rate=3e-3", "judge.training.batch_size=8", "steps=10"),
        *("dataset.prompt.max_prompt_tokens=96", "algorithm.batch_size=8", "evaluation.every=null"),
    ]
    place = replace(fresh, base=base)
    runs = {}
    for backend in ("chosen", "file"):
        more = [f"reviser.backend={backend}", "reviser.max_edit_ratio=1", f"run_dir={backend}"]
        if backend == "file":
            (made,) = fresh.store.glob("revisions/*/revisions.jsonl")
            more.append(f"reviser.file={made}")
        ended = place.train(*more).ok()
        runs[backend] = Run(ended, fresh.folder / backend)
        assert len(runs[backend].rows()) == 10
    parents = [run.json("manifest.json")["parents"]["discriminator"] for run in runs.values()]
    assert len(set(parents)) == 2, "what they learn from is told apart"
    kept = [
        json.loads(path.read_text())["figures"]["revisions/kept"]
        for path in fresh.store.glob("revisions/*/manifest.json")
    ]
    assert len(kept) == 2 and all(count > 20 for count in kept)
