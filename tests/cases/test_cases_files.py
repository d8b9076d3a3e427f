"""Files of a run that were damaged, cut off, or written by another version: one error that names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from case_machine import DEEP, Place
from policies import plain_config
from tokencredit import config as configuration
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.players import Run
from tokencredit.papers.runs import read_runs
from tokencredit.reports.summary import closing_summary
from tokencredit.store.files import Damaged, read_json, write_json
from tokencredit.store.jsonl import read_jsonl, read_steps
from tokencredit.store.run_folder import RunFolder

BYTES = {
    "empty": b"",
    "half": b'{"schema_version": 1, "key": "a',
    "a list": b"[1, 2]",
    "a number": b"7",
    "text": b"hello",
    "bytes": b"\xff\xfe\x00{",
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "deep": DEEP,
}
SHAPES = {
    "no key": {"state": "running", "identity": {}},
    "a key that is no text": {"key": 7, "identity": {}, "state": "running"},
    "an identity that is a list": {"key": "k", "identity": [], "state": "running"},
    "an unknown state": {"key": "k", "identity": {}, "state": "odd"},
    "no state": {"key": "k", "identity": {}},
}
DAMAGED = BYTES | {name: json.dumps(value).encode() for name, value in SHAPES.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a complete run of 30 steps."""
    folder = tmp_path / "runs" / "abc" / "k1"
    folder.mkdir(parents=True)
    config = plain_config()
    (folder / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
    steps = [{"step": t, "score/mean": t / 10, "kl/k1": 0.1, "value/loss": 1.0} for t in range(30)]
    times = [{"step": t, "time/generate_seconds": 1.0} for t in range(30)]
    for name, rows in (("metrics", steps), ("timings", times)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    seeds = {"seed": 0, "stage_seed": 0}
    manifest = {
        "key": "k1",
        "identity": {"inputs": {"seed": 0}},
        "state": "complete",
        "seeds": seeds,
        "environment": {"tokencredit": "0.0.7"},
    }
    results = {
        "config_hash": "k1",
        "experiment": "abc/positive_generation",
        "scheme": "abc",
        "seeds": seeds,
        "status": "complete",
        "steps": 30,
        "metrics": {},
        "evaluation": {"policy/score": {"mean": 1.5, "se": 0.3, "n": 256}},
    }
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "results.json", results)
    return folder


# Manifests


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(Damaged) as caught:
        RunFolder(tmp_path).manifest()
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "restore it from a copy" in said and "\n" not in said
    assert path.read_bytes() == DAMAGED[damage]


def planned(place: Place) -> dict[str, str]:
    """The keys of the stages of a small run."""
    lines = [line.split() for line in place.plan().ok().out.splitlines()]
    return {line[1]: line[2] for line in lines if line[0] in {"hit", "miss"}}


def test_a_damaged_manifest_of_the_run_itself_is_an_error_in_plan_and_train(place: Place) -> None:
    folder = place.folder / "runs" / "abc" / planned(place)["rl"]
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(b'{"key": "')
    said = place.plan().error()
    assert said.startswith(f"error: {folder.relative_to(place.folder)}/manifest.json: is damaged")
    assert place.train().error() == said
    (folder / "manifest.json").unlink()  # the cause is gone
    assert "5 misses" in place.plan().ok().out


def test_damaged_runs_and_artifacts_beside_it_do_not_stop_a_plan(place: Place) -> None:
    keys = planned(place)
    for number, content in enumerate(DAMAGED.values()):
        for home in ("runs/abc", "store/sft"):
            folder = place.folder / home / f"other{number}"
            folder.mkdir(parents=True)
            (folder / "manifest.json").write_bytes(content)
    good = place.folder / "runs" / "abc" / "good"
    identity = {"stage": "rl", "version": 1, "inputs": {"seed": 9}, "parents": {}}
    write_json(
        _made(good) / "manifest.json", {"key": "good", "identity": identity, "state": "complete"}
    )
    ended = place.plan().ok()
    assert "inputs.seed: 9 → 0" in ended.out  # the nearest of those that can be read
    assert ended.out.count(keys["rl"]) == 2
    lines = [line for line in ended.err.splitlines() if "planning goes on without it" in line]
    assert len(lines) == len(set(lines)) == len(DAMAGED) + len(BYTES) + 1  # states are runs'
    assert len(list(place.folder.rglob("manifest.json"))) == 2 * len(DAMAGED) + 1


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


# What reports read


@pytest.mark.parametrize("name", ["results.json", "manifest.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("damage", BYTES)
def test_reports_name_a_damaged_file_of_a_run(run: Path, name: str, damage: str) -> None:
    (run / name).write_bytes(BYTES[damage] + b"\n")
    readers: list[Callable[[Path], object]] = [read_runs, closing_summary]
    if name == "config.yaml":
        readers = [read_runs]  # nothing else reads it
    for reader in readers:
        with pytest.raises(UserError) as caught:
            reader(run)
        said = str(caught.value)
        assert name in said and "\n" not in said, said


def test_reports_read_a_whole_run(run: Path) -> None:
    (found,) = read_runs(run)
    assert len(found) == 30 and "30 steps" in closing_summary(run)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("results.json", {"seeds": []}),
        ("results.json", {"steps": "many"}),
        ("results.json", {"status": None}),
        ("results.json", {"config_hash": 3}),
    ],
)
def test_reports_name_a_file_of_the_wrong_shape(
    run: Path, name: str, change: dict[str, Any]
) -> None:
    write_json(run / name, read_json(run / name) | change)
    with pytest.raises(UserError, match=name):
        read_runs(run)


@pytest.mark.parametrize(
    "evaluation", [[], {"policy/score": 3}, {"policy/score": {}}, {"policy/score": {"mean": "x"}}]
)
def test_the_summary_names_results_of_the_wrong_shape(run: Path, evaluation: Any) -> None:
    path = run / "results.json"
    write_json(path, read_json(path) | {"evaluation": evaluation})
    with pytest.raises(Damaged, match=r"results\.json"):
        closing_summary(run)


@pytest.mark.parametrize("line", ['{"step": 3, "sco', "[]", '{"step": "3"}', '{"a": 1}', "{}"])
def test_a_damaged_line_of_a_log_is_named(run: Path, line: str) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 4"):
        read_steps(path)


def test_a_last_line_that_was_cut_is_left_out(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert len(read_steps(path)) == 29
    deep = run / "samples.jsonl"
    deep.write_bytes(DEEP + b"\n")
    with pytest.raises(Damaged, match=r"samples\.jsonl, line 1"):
        read_jsonl(deep)


# Configurations of another version


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """The error about a configuration that was changed."""
    path = run / "config.yaml"
    # OmegaConf writes floats as 1e-05, which PyYAML takes for text; as text they come back alike.
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        _ = Run(run).config
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda tree: tree.update(turbo=True), "turbo"),
        (lambda tree: tree["algorithm"].update(gama=1), "gama"),
        (lambda tree: tree["rollout"].pop("temperature"), "rollout.temperature: is missing"),
        (lambda tree: tree.pop("steps"), "steps: is missing"),
        (lambda tree: tree["components"].update(algorithm="PPO3"), "'PPO3'"),
        (lambda tree: tree.update(steps="many"), "many"),
    ],
)
def test_a_configuration_of_another_version_names_key_and_version(
    run: Path, change: Callable[[dict[str, Any]], object], wanted: str
) -> None:
    said = changed(run, change)
    assert wanted in said and "written by tokencredit 0.0.7" in said


def test_fields_that_came_later_mean_as_before(run: Path) -> None:
    path = run / "config.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    del tree["model"]["rates"]["dpo"]
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert Run(run).config.model.rates.dpo == 5e-4


@pytest.mark.parametrize("damage", BYTES)
def test_a_damaged_configuration_or_manifest_of_a_compared_run(run: Path, damage: str) -> None:
    (run / "config.yaml").write_bytes(BYTES[damage])
    with pytest.raises(UserError, match=r"config\.yaml"):
        _ = Run(run).config
    (run / "manifest.json").write_bytes(BYTES[damage])
    with pytest.raises(Damaged, match=r"manifest\.json"):
        _ = Run(run).manifest
