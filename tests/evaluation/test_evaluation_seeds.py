"""`tokencredit judge compare` on several seeds: who is a seed of what, who meets whom, what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import builders
from compared_runs import mistake, ok, results, save
from tokencredit.evaluation.compare.players import evaluated_runs
from tokencredit.papers.scores import read_scores
from tokencredit.store.jsonl import read_jsonl

Grow = Callable[..., Path]


@pytest.fixture
def grow(place: Path, tmp_path: Path) -> Grow:
    """A function that copies the run of seed 1 to runs/<name> as a run of another kind."""

    def copy(name: str, *, scheme: str, seed: int, **manifest: Any) -> Path:
        run = tmp_path / "runs" / name
        shutil.copytree(place / "abc", run)
        text = (run / "config.yaml").read_text("utf-8").replace("scheme: abc", f"scheme: {scheme}")
        (run / "config.yaml").write_text(text.replace("\nseed: 1", f"\nseed: {seed}"), "utf-8")
        known = json.loads((run / "manifest.json").read_text("utf-8"))
        parents = {**known["parents"], **manifest.pop("parents", {})}
        record = known | {"key": name, "parents": parents} | manifest
        (run / "manifest.json").write_text(json.dumps(record), "utf-8")
        if seed != 1:
            save(builders.tiny_causal("llama", seed), run / "policy")
        return run

    return copy


def test_a_folder_of_runs_and_what_is_kept(place: Path, tmp_path: Path, grow: Grow) -> None:
    """Runs of one scheme are seeds of it; the SFT model that all share meets each."""
    for seed in (0, 1):
        grow(f"x{seed}", scheme="mine", seed=seed)
    out, kept = tmp_path / "out", tmp_path / "kept"
    said = ok(tmp_path / "runs", "--with-sft", "--prompts", 7, "--out", out, "--keep", kept)
    assert "| Win Rate | mine | sft |" in said
    cell = results(out)["win_rates"]["mine"]["sft"]
    assert cell["over_seeds"]["n"] == 2
    comparison = read_scores(kept / "scores.csv")
    assert {name: sorted(map(str, runs)) for name, runs in comparison.methods.items()} == {
        "mine": ["0", "1"],
        "sft": ["None"],
    }
    found = comparison.matrix(["mine", "sft"]).cells["mine", "sft"]
    assert found.rate.mean == cell["over_prompts"]["mean"]
    record = json.loads((kept / "comparison.json").read_text("utf-8"))
    assert comparison.about == record["about"] != ""
    assert record["oracle"]["name"] == "the run's n-gram oracle"


@pytest.mark.parametrize("kind", ["function", "folder"])
def test_nothing_kept_names_a_place_of_this_machine(kind: str, place: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(prompts, responses): return [len(r) for r in responses]\n")
    classifier = tmp_path / "own"
    save(builders.tiny_classifier("llama", 5), classifier)
    oracle = f"{file}:f" if kind == "function" else classifier
    kept = tmp_path / "kept"
    ok(
        place / "sparse", place / "abc", "--prompts", 4, "--oracle", oracle, "--out",
        tmp_path / "out", "--keep", kept,
    )  # fmt: skip
    text = (kept / "comparison.json").read_text("utf-8") + (kept / "scores.csv").read_text("utf-8")
    assert str(tmp_path) not in text and str(place) not in text
    name = json.loads((kept / "comparison.json").read_text("utf-8"))["oracle"]["name"]
    assert name == ("mine.py:f" if kind == "function" else "own")


def test_runs_meet_by_seed_and_not_by_order(tmp_path: Path, grow: Grow) -> None:
    """Seeds 0, 1 against 1, 2: only seed 1 meets, and there both have the same weights."""
    for seed in (0, 1):
        grow(f"a{seed}", scheme="a", seed=seed)
    for seed in (1, 2):
        grow(f"b{seed}", scheme="b", seed=seed)
    said = ok(tmp_path / "runs", "--prompts", 5, "--out", tmp_path / "out")
    cell = results(tmp_path / "out")["win_rates"]["a"]["b"]
    assert cell["over_prompts"]["draws"] == 5 and cell["over_seeds"] is None
    assert "a, seed 0: b has no such seed" in said and "b, seed 2: a has no such seed" in said
    shutil.rmtree(tmp_path / "runs" / "b1")
    assert "none in common" in mistake(tmp_path / "runs", "--out", tmp_path / "o")
    assert not (tmp_path / "o" / "generations.jsonl").exists(), "before any work"


def test_runs_of_one_scheme_with_other_settings_are_no_seeds(tmp_path: Path, grow: Grow) -> None:
    one, two = ({"inputs": {"lam": lam, "seed": k}} for k, lam in ((0, 0.95), (1, 0.5)))
    grow("a0", scheme="a", seed=0, identity=one)
    grow("a1", scheme="a", seed=1, identity=two)
    grow("b0", scheme="b", seed=0)
    said = mistake(tmp_path / "runs", "--out", tmp_path / "out")
    assert "both are 'a' but differ in inputs.lam: 0.95 → 0.5" in said and "--names" in said
    ok(tmp_path / "runs", "--names", "x,x,y", "--prompts", 3, "--out", tmp_path / "out")


def test_a_failed_run_is_said_and_does_not_block(tmp_path: Path, grow: Grow) -> None:
    for name in ("a", "b", "c"):
        grow(name, scheme=name, seed=0)
    manifest = tmp_path / "runs" / "c" / "manifest.json"
    failed = json.loads(manifest.read_text("utf-8")) | {"failed": "step 3: the loss is nan"}
    manifest.write_text(json.dumps(failed), "utf-8")
    shutil.rmtree(tmp_path / "runs" / "c" / "policy")
    said = ok(tmp_path / "runs", "--prompts", 3, "--out", tmp_path / "out")
    assert "c, seed 0: failed, so it has no answers" in said and "| Win Rate | a | b |" in said


def test_pilot_runs_of_a_tuning_are_not_compared(tmp_path: Path, grow: Grow) -> None:
    """They have a method's name and its seeds, and chose its settings; named alone they play."""
    grow("a0", scheme="a", seed=0)
    grow("b0", scheme="b", seed=0)
    pilot = grow("pilot", scheme="a", seed=0)
    text = (pilot / "config.yaml").read_text("utf-8")
    (pilot / "config.yaml").write_text(text.replace("job_type: null", "job_type: pilot"), "utf-8")
    runs = tmp_path / "runs"
    said = ok(runs, "--prompts", 3, "--out", tmp_path / "out")
    assert "pilot runs left out: 1;" in said and "| Win Rate | a | b |" in said
    for run in runs.iterdir():
        (run / "evaluation.jsonl").touch()
    assert {run.path.name for run in evaluated_runs([runs])} == {"a0", "b0"}
    assert [run.path.name for run in evaluated_runs([pilot])] == ["pilot"]


def test_stages_of_each_seed_are_seeds_of_their_own(
    place: Path, tmp_path: Path, grow: Grow
) -> None:
    """Two DPO models, one a seed; SFT models of one seed that differ are refused."""
    store = tmp_path / "store"
    shutil.copytree(place / "store", store)
    for seed in (0, 1):
        save(builders.tiny_causal("llama", 40 + seed), store / "dpo" / f"d{seed}")
        grow(f"a{seed}", scheme="a", seed=seed, parents={"dpo": f"d{seed}"})
    asked = [tmp_path / "runs", "--prompts", 4, "--store", store]
    kept = tmp_path / "kept"
    ok(*asked, "--with-dpo", "--with-sft", "--out", tmp_path / "out", "--keep", kept)
    found = read_scores(kept / "scores.csv").methods
    assert {n: sorted(map(str, runs)) for n, runs in found.items()} == {
        "a": ["0", "1"],
        "sft": ["None"],
        "dpo": ["0", "1"],
    }
    assert results(tmp_path / "out")["win_rates"]["a"]["dpo"]["over_seeds"]["n"] == 2
    grow("b0", scheme="b", seed=0, parents={"dpo": "d1"})
    grow("b1", scheme="b", seed=1, parents={"dpo": "d1"})
    said = mistake(*asked, "--with-dpo", "--out", tmp_path / "other")
    assert "--with-dpo: runs of seed 0 began with different models (d0, d1)" in said


def test_one_name_twice_means_two_seeds(place: Path, tmp_path: Path) -> None:
    sft, kept = place / "store" / "sft" / "5f7", tmp_path / "kept"
    own = [place / "sparse", place / "abc", sft, "--names", "ppo,ppo,sft", "--prompts", 9]
    text = ok(*own, "--out", tmp_path, "--keep", kept)
    cell = results(tmp_path)["win_rates"]["ppo"]["sft"]
    assert cell["over_prompts"]["n"] == 9 and cell["over_seeds"]["n"] == 2
    assert "| ppo against sft | 2 |" in text
    generators = {row["generator"] for row in read_jsonl(tmp_path / "answers.jsonl")}
    assert generators == {"ppo", "ppo#2", "sft"}
    assert list(read_scores(kept / "scores.csv").methods["ppo"]) == [0, 1]


def test_named_models_without_counterpart_are_said(place: Path, tmp_path: Path) -> None:
    sft = place / "store" / "sft" / "5f7"
    own = [place / "sparse", place / "abc", sft, sft, sft, "--names", "a,a,b,b,b"]
    said = ok(*own, "--prompts", 4, "--out", tmp_path)
    assert "b, seed 2: a has no such seed" in said
    assert results(tmp_path)["win_rates"]["a"]["b"]["over_seeds"]["n"] == 2


def test_what_is_kept_needs_scores(place: Path, tmp_path: Path) -> None:
    own = [place / "sparse", place / "abc", "--oracle", "none", "--keep", tmp_path / "kept"]
    said = mistake(*own, "--out", tmp_path / "out")
    assert "--oracle" in said and "--keep writes scores" in said
    assert not (tmp_path / "kept" / "scores.csv").exists()
