"""What becomes of pilot runs: rows in the order of the rounds, of failed runs too, and none twice."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.machine.stopping import Stopped, request
from tokencredit.papers.grids import Point
from tokencredit.papers.pilot_files import read_pilots, write_pilots
from tokencredit.papers.pilots import Pilot, Terms, Trial, trials
from tokencredit.store.files import write_json, write_text
from tokencredit.store.run_folder import COMPLETE, FAILED, MANIFEST, METRICS, RESULTS
from tokencredit.sweeps import pilot_runs
from tokencredit.sweeps.pilot_runs import Board, measured, pilot
from tokencredit.sweeps.tuning import Comparison

RATE = "algorithm.optimizer.learning_rate"
TERMS = Terms(grids={"abc": {RATE: [1.0, 2.0, 4.0]}, "sparse": {RATE: [1.0, 2.0, 4.0]}}, steps=10)
MIDDLE = Trial("abc", Point(((RATE, 2.0),)), 1, 100, 4)


def row(trial: Trial, gold: float = 0.0, status: str = COMPLETE) -> Pilot:
    """The row of a run; one of the middle rate is the best."""
    return Pilot(
        method=trial.method, point=trial.point, round=trial.round, seed=trial.seed,
        steps=trial.steps, key=key(trial), status=status, kl=1.0, clip_fraction=0.0,
        gold=gold - abs(trial.point.value(RATE) - 2.0), distinct_2=1.0, sft_distinct_2=1.0,
        seconds=1.0,
    )  # fmt: skip


def key(trial: Trial) -> str:
    """A key, as a function of all but the steps."""
    return f"{trial.method}-{trial.point.value(RATE)}-{trial.seed}"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A comparison whose configurations are its trials, with runs that take no time."""
    monkeypatch.setattr(Comparison, "config", lambda _, trial: trial)
    monkeypatch.setattr(pilot_runs, "key_of", key)
    monkeypatch.setattr(pilot_runs, "pilot", lambda _, trial: row(trial))
    return Board(Comparison("mine", "cpu", [], [], [], TERMS, tmp_path / "mine"))


def test_rounds_follow_each_other_until_nothing_is_due(board: Board) -> None:
    numbers = []
    while due := board.due():
        numbers.append((len(due), {trial.round for trial in due}))
        board.run(due, at_once=2)
    # No best point lies at an edge; the best two to the end, then with two more seeds.
    assert numbers == [(6, {1}), (4, {2}), (8, {2})]
    kept = read_pilots(board.comparison.rows)
    assert kept == board.rows and [each.trial for each in kept] == trials(kept, TERMS)
    again = Board(board.comparison)
    again.read()
    assert again.rows == kept and not again.due()


def test_what_breaks_off_ends_the_round_and_what_ran_beside_it_is_kept(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = board.due()

    def broken(config: object, trial: Trial) -> Pilot:
        if trial == due[2]:
            raise UserError("no space left")
        return row(trial)

    monkeypatch.setattr(pilot_runs, "pilot", broken)
    with pytest.raises(UserError, match="no space left"):
        board.run(due, at_once=1)
    assert [each.trial for each in read_pilots(board.comparison.rows)] == due[:2]
    assert board.due() == due[2:]


def test_a_request_to_stop_ends_the_round_and_names_what_remains(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the run beside it is kept; the signal comes to the main thread, runs are in others."""
    due, beside = board.due(), threading.Event()

    def asked(config: object, trial: Trial) -> Pilot:
        if trial == due[1]:
            beside.wait(10)
            return row(trial)
        os.kill(os.getpid(), signal.SIGTERM)
        while not request().asked:
            time.sleep(0.01)
        beside.set()
        raise Stopped("rl abc is saved behind step 3 of 9")

    monkeypatch.setattr(pilot_runs, "pilot", asked)
    with pytest.raises(Stopped, match="is saved behind step 3") as stopped:
        board.run(due, at_once=2)
    assert f"; {len(due) - 1} of {len(due)} runs of this round remain (" in str(stopped.value)
    assert [each.trial for each in read_pilots(board.comparison.rows)] == [due[1]]
    assert not request().asked


def test_a_row_whose_run_has_another_key_today_is_made_again(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(trial) for trial in board.due()]
    write_pilots(board.comparison.rows, [replace(rows[0], key="of-before"), *rows[1:]])
    board.read()
    assert board.rows == rows[1:] and board.due() == [rows[0].trial]
    assert "1 rows are of other settings" in capsys.readouterr().err


def finished(folder: Path, steps: int) -> Path:
    """The folder of a finished run, as far as a row reads it."""
    said = {"policy/oracle": 0.5, "policy/kl": 3.0, "policy/distinct_2": 0.8, "sft/distinct_2": 0.9}
    evaluation = {name: {"mean": mean, "se": 0.0, "n": 8} for name, mean in said.items()}
    write_json(folder / RESULTS, {"steps": steps, "evaluation": evaluation, "wall_seconds": 6.5})
    lines = [{"step": n, "ppo/clip_fraction": 0.1 * n} for n in range(steps)]
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_row_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    found = measured(finished(tmp_path, 4), MIDDLE, "k")
    assert (found.gold, found.kl, found.distinct_2, found.sft_distinct_2) == (0.5, 3.0, 0.8, 0.9)
    assert found.clip_fraction == pytest.approx(0.15)  # the mean of 0, 0.1, 0.2, 0.3
    assert (found.trial, found.seconds, found.status) == (MIDDLE, 6.5, COMPLETE)


def test_a_longer_run_is_not_taken_for_one_of_the_first_round(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 10 steps of this pilot run, which was to have 4"):
        measured(finished(tmp_path, 10), MIDDLE, "k")


@pytest.mark.parametrize("failed", ["loss is not finite", None])
def test_only_numbers_out_of_range_are_a_row(
    failed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(config: Config) -> None:
        made = {"key": "k", "state": "running", "failed": failed}
        write_json(tmp_path / MANIFEST, made)
        raise UserError("stage rl ended")

    monkeypatch.setattr(pilot_runs, "execute", execute)
    monkeypatch.setattr(pilot_runs, "Context", lambda _: None)
    stage = SimpleNamespace(key="k", folder=tmp_path)
    monkeypatch.setattr(pilot_runs, "last_stage", lambda _: stage)
    config = Config.__new__(Config)  # nothing of it is looked at
    if failed is None:
        with pytest.raises(UserError, match="stage rl ended"):
            pilot(config, MIDDLE)
        return
    found = pilot(config, MIDDLE)
    assert found.status == FAILED and found.key == "k" and math.isnan(found.gold)
