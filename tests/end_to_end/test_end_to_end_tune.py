"""`tokencredit tune`: pilot runs, their rows, and the choice that the experiment then reads."""

from __future__ import annotations

import re

import pytest

from tokencredit.papers.pilot_files import read_pilots, read_terms
from tokencredit.papers.pilots import choose, trials
from tokencredit.store.files import read_yaml

from .conftest import RATE, Run, Workplace

pytestmark = pytest.mark.slow

KEY = "algorithm.optimizer.learning_rate"
FILES = {
    "experiment/mine.yaml": (
        "# @package _global_\n# Two methods.\ndefaults:\n  - override /method: last\n"
        'hydra: {sweeper: {params: {method: "last,even", seed: "0,1"}}}\n'
    ),
    "method/last.yaml": (
        "# @package _global_\n# Tuned.\ndefaults:\n  - override /reward_scheme: sparse\n"
        f"tuning: {{grid: {{{KEY}: [1e-4, 4e-4]}}}}\n"
    ),
    "method/even.yaml": (
        "# @package _global_\n# Its control.\ndefaults:\n  - override /reward_scheme: uniform\n"
        "tuning: {follows: last}\n"
    ),
}


def tune(place: Workplace, *arguments: str) -> list[str]:
    """The arguments of the command in that place."""
    base = [argument for argument in place.base if argument != RATE]
    chosen = ["experiment=mine", "scale=cpu", "steps=5", "experiments_dir=kept"]
    return ["tune", "--config-dir", "conf", *base, *chosen, *arguments]


@pytest.fixture
def place(own: Workplace) -> Workplace:
    """A folder with an experiment of its own, which shares the stages of the other tests."""
    for name, text in FILES.items():
        path = own.folder / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return own


def test_a_tuning_leaves_rows_and_the_choice_that_the_experiment_reads(
    place: Workplace, first: Run
) -> None:
    planned = place.run(*tune(place, "--plan")).ok().out
    assert re.search(r"^last +2 +8 +30 +0 +–$", planned, re.MULTILINE), planned
    assert not (place.folder / "kept").exists() and not (place.folder / "runs").exists()

    ended = place.run(*tune(place, "--jobs", "2")).ok()
    rows = place.folder / "kept/mine/tuning/cpu.csv"
    found, terms = read_pilots(rows), read_terms(rows)
    assert [row.trial for row in found] == trials(found, terms)
    assert [(row.round, row.seed, row.steps) for row in found] == [
        *[(1, 100, 2)] * 3,  # two points, and one beyond the edge
        *[(2, 100, 5)] * 2,
        *[(2, seed, 5) for _ in range(2) for seed in (101, 102)],
    ]
    assert "chosen" in ended.out and not list((place.folder / "kept/mine").glob("*.csv"))
    by_point = {(row.point, row.round): row.key for row in found if row.seed == 100}
    finalists = {row.point for row in found if row.round == 2}
    assert all(by_point[point, 1] == by_point[point, 2] for point in finalists)
    assert len(re.findall(r"^rl \w+: continues at step 2$", ended.err, re.MULTILINE)) == 2

    rate = choose(found, terms)["last"].point.value(KEY)
    for method in ("last", "even"):
        option = place.folder / "conf/tuned/mine_cpu" / f"{method}.yaml"
        assert read_yaml(option) == {"algorithm": {"optimizer": {"learning_rate": rate}}}
        shown = composed(place, method)
        assert f"learning_rate: {rate!r}" in shown, shown

    kept = {path: path.stat().st_mtime_ns for path in (place.folder / "kept").rglob("*.csv")}
    again = place.run(*tune(place)).ok()
    assert "running" not in again.err and "wrote" not in again.err
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert again.out == ended.out


def composed(place: Workplace, method: str) -> str:
    """The algorithm's part of what `train` composes for a method."""
    arguments = ["--config-dir", "conf", "experiment=mine", "scale=cpu", f"method={method}"]
    return place.run("train", *arguments, "--cfg", "job", "-p", "algorithm").ok().out


def test_a_typed_key_of_a_grid_is_refused(place: Workplace) -> None:
    ended = place.run(*tune(place, f"{KEY}=1e-3", "--plan"))
    assert ended.code == 2
    assert f"error: {KEY} = '1e-3': is in the grid of method last" in ended.err
