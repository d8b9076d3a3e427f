"""The committed choices are what the committed rows say, and each is in the keys of its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tokencredit.composing.chosen import composed
from tokencredit.papers.grids import nested, point_of
from tokencredit.papers.pilot_files import (
    FOLDER,
    choice_file,
    choice_text,
    read_pilots,
    read_terms,
    write_pilots,
    write_terms,
)
from tokencredit.papers.pilots import Pilot, Terms, choose, chosen_points, trials
from tokencredit.papers.runs import holds_runs
from tokencredit.pipeline.pipeline import last_stage
from tokencredit.stages.context import Context
from tokencredit.store.files import read_yaml, write_text
from tokencredit.user_code.plugins import conf_dir

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "experiments").rglob(f"{FOLDER}/*.csv"))
RATE = "algorithm.optimizer.learning_rate"
TERMS = Terms(grids={"sparse": {RATE: [1e-4, 2e-4, 4e-4]}}, follows={"even": "sparse"}, steps=5)
LOW, HIGH = point_of(f"{RATE}=0.0001"), point_of(f"{RATE}=0.0002")


def check_choices(rows: Path, conf: Path, experiment: str) -> None:
    """Assert that the options of the group `tuned` are what the rows say.

    Rows are committed as they are made: of a tuning that goes on there is no option yet.
    """
    found, terms = read_pilots(rows), read_terms(rows)
    there, wanted = [row.trial for row in found], trials(found, terms)
    if there != wanted:
        assert [trial for trial in wanted if trial in there] == there, "a run that was not wanted"
        assert not choice_file(conf, experiment, rows.stem, "any").parent.exists()
        return
    for method, point in chosen_points(choose(found, terms), terms).items():
        assert read_yaml(choice_file(conf, experiment, rows.stem, method)) == nested(point), method


def test_every_committed_choice_is_what_its_rows_say() -> None:
    for rows in COMMITTED:
        name = rows.parents[1].relative_to(ROOT / "experiments").as_posix()
        check_choices(rows, conf_dir(), name)


def test_every_committed_option_has_its_rows() -> None:
    of_rows = {
        f"{path.parents[1].relative_to(ROOT / 'experiments').as_posix()}_{path.stem}"
        for path in COMMITTED
    }
    there = {
        path.parent.relative_to(conf_dir() / "tuned").as_posix()
        for path in (conf_dir() / "tuned").rglob("*.yaml")
    }
    assert there <= of_rows


def tuning(better: float) -> list[Pilot]:
    """All rows of a tuning in which 1e-4 is rated 0.5, and 2e-4 as said, in round 2."""
    rows: list[Pilot] = []
    while more := [trial for trial in trials(rows, TERMS) if trial not in {r.trial for r in rows}]:
        for trial in more:
            gold = {LOW: 0.5, HIGH: better}.get(trial.point, 0.0)
            first = {LOW: 0.4, HIGH: 0.6}.get(trial.point, 0.0)
            rows.append(
                Pilot(
                    method=trial.method, point=trial.point, round=trial.round, seed=trial.seed,
                    steps=trial.steps, key="0" * 16, gold=gold if trial.round == 2 else first,
                    kl=3.0, clip_fraction=0.1, distinct_2=0.8, sft_distinct_2=0.9, seconds=1.0,
                )
            )  # fmt: skip
    return rows


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of groups with an experiment of two methods, and a small data file."""
    files = {
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /method: sparse\n",
        "method/even.yaml": "# @package _global_\ntuning: {follows: sparse}\n",
    }
    for name, text in files.items():
        write_text(tmp_path / name, text)
    lines = [
        f'{{"text": "review {n} says it was a {word} film, {" ".join([word] * 9)}", "label": {n % 2}}}'
        for n in range(120)
        for word in (("awful", "great")[n % 2],)
    ]
    write_text(tmp_path / "reviews.jsonl", "\n".join(lines))
    return tmp_path


def write_all(place: Path, rows: list[Pilot]) -> Path:
    """Write rows, terms, and the choices that follow; the file of the rows."""
    path = place / "kept" / "mine" / FOLDER / "cpu.csv"
    write_pilots(path, rows)
    write_terms(path, TERMS, None)
    for method, point in chosen_points(choose(rows, TERMS), TERMS).items():
        write_text(choice_file(place, "mine", "cpu", method), choice_text(point, path.as_posix()))
    return path


def key_of(place: Path, *choices: str) -> str:
    """The key of a run of the experiment, its choice read from the place."""
    data = ["dataset=file", f"dataset.path={place / 'reviews.jsonl'}"]
    mine = ["experiment=mine", "scale=cpu", f"store={place / 'store'}", *choices]
    config = composed([*mine, *data], [place])
    return last_stage(Context(config)).key


def test_one_row_changed_is_another_choice_and_another_key(place: Path) -> None:
    unchosen = key_of(place)
    rows = tuning(better=0.49)
    path = write_all(place, rows)
    check_choices(path, place, "mine")
    assert choose(rows, TERMS)["sparse"].point == LOW
    before = key_of(place)

    (number,) = [n for n, r in enumerate(rows) if (r.point, r.round, r.seed) == (HIGH, 2, 101)]
    rows[number] = replace(rows[number], gold=0.53)  # the mean of 0.49, 0.53, 0.49 is 0.503
    write_pilots(path, rows)
    with pytest.raises(AssertionError):
        check_choices(path, place, "mine")
    write_pilots(path, rows[:-1])
    with pytest.raises(AssertionError):  # options of a tuning that goes on
        check_choices(path, place, "mine")
    write_all(place, rows)
    check_choices(path, place, "mine")
    assert choose(rows, TERMS)["sparse"].point == HIGH
    assert len({unchosen, before, key_of(place)}) == 3
    assert key_of(place, f"{RATE}=1e-4") == before, "the number is in the key, not the file"


def test_settings_of_the_tuning_are_in_no_key(place: Path) -> None:
    plain = key_of(place)
    assert key_of(place, "tuning.kl=3", f"tuning.grid={{{RATE}:[1e-4,3e-4]}}") == plain


def test_rows_of_pilots_are_no_runs(place: Path) -> None:
    assert not holds_runs(write_all(place, tuning(better=0.6)))


def test_a_control_has_the_point_of_its_method(place: Path) -> None:
    write_all(place, tuning(better=0.6))
    chosen = composed(["experiment=mine", "scale=cpu", "method=even"], [place])
    assert chosen.policy_algorithm.optimizer.learning_rate == 2e-4
