"""Row 16: what a sweeper is told of each cell, with Optuna's own package, and what a sweep says."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.errors import HydraException

from case_machine import Place
from case_plans import small
from tokencredit.composing.explain import explain
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.pipeline.pipeline import Outcome, all_stages
from tokencredit.stages.context import Context
from tokencredit.sweeps import cell as sweep_cell
from tokencredit.sweeps import objective, sweep, table

RATE = "algorithm.optimizer.learning_rate"
OPTUNA = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize"]
ORACLE = "sweep.objective=policy/oracle"


class Runs:
    """Stands for the stages: each run leaves results.json, in which the oracle's rating is the
    learning rate; every run whose number is in `bad` fails."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bad = folder, set[int]()
        self.rates: list[float] = []

    def __call__(self, config: Config, _: list[str]) -> Outcome:
        self.rates.append(config.algorithm.optimizer.learning_rate)  # type: ignore[attr-defined]
        number = len(self.rates) - 1
        if number in self.bad:
            raise UserError("step 3: the loss is nan")
        run = self.folder / "runs" / str(number)
        run.mkdir(parents=True)
        names = set(objective.names(config)) - set(objective.WHOLE)
        rated = {name: measure(self.rates[-1]) for name in names}
        results = {"evaluation": rated, "metrics": {}, "wall_seconds": 2.5, "steps": 2}
        (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return Outcome(last=SimpleNamespace(folder=run), seconds={"rl": 1.0})  # type: ignore[arg-type]


def measure(mean: float) -> dict[str, float]:
    return {"mean": mean, "se": 0.5, "n": 256}


@pytest.fixture
def runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(place.folder)
    monkeypatch.setattr(sweep_cell, "execute_and_keep", made)
    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[objective.Value]:
    """What the function that Hydra calls returned, cell by cell."""
    found: list[objective.Value] = []
    run_cell = sweep_cell.run_cell

    def tell(*arguments: Any, **options: Any) -> objective.Value:
        found.append(run_cell(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(sweep_cell, "run_cell", tell)
    return found


@pytest.fixture
def optuna() -> Any:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    package = pytest.importorskip("optuna")
    package.logging.disable_default_handler()  # it writes where stderr was when it was imported
    return package


def test_case_16_the_objective_is_returned_and_a_failed_cell_is_nan(
    place: Place, runs: Runs, told: list[Any]
) -> None:
    runs.bad = {1}
    ended = place.train("-m", f"{RATE}=1e-3,2e-3,3e-3", ORACLE)
    assert ended.code == 1 and "Traceback" not in ended.err
    assert told[0] == 1e-3 and math.isnan(told[1]) and told[2] == 3e-3
    assert [cell.state for cell in sweep.cells(sweep.FOLDERS[-1])] == ["done", "failed", "done"]


def test_case_16_several_objectives_and_numbers_of_the_whole_run_are_returned(
    place: Place, runs: Runs, told: list[Any]
) -> None:
    runs.bad = {1}
    place.train("-m", f"{RATE}=1e-3,2e-3", "sweep.objective=[policy/kl,wall_seconds]")
    assert told[0] == [1e-3, 2.5] and all(map(math.isnan, told[1])) and len(told[1]) == 2


def test_case_16_optuna_is_told_values_and_failures(place: Place, runs: Runs, optuna: Any) -> None:
    runs.bad = {1}
    ended = place.train(
        *OPTUNA, ORACLE, f"{RATE}=interval(0.001,0.01)", "hydra.sweeper.n_trials=4",
        "hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=mine",
    )  # fmt: skip
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err[-3000:]
    assert "sweep: maximizes policy/oracle" in ended.err and "4 cells, 1 failed" in ended.out
    trials = optuna.load_study(study_name="mine", storage="sqlite:///study.db").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    for trial, rate in zip(trials, runs.rates, strict=True):
        assert trial.value == (rate if trial.state.name == "COMPLETE" else None)
    assert f"best value: {max(runs.rates[:1] + runs.rates[2:])}" in ended.out


def test_case_16_optuna_with_two_directions(place: Place, runs: Runs, optuna: Any) -> None:
    ended = place.train(
        *OPTUNA[:2], "hydra.sweeper.direction=[maximize,minimize]", f"{RATE}=interval(0.001,0.01)",
        "sweep.objective=[policy/oracle,policy/kl]", "hydra.sweeper.n_trials=3",
        "hydra/sweeper/sampler=random",
    ).ok()  # fmt: skip
    assert "sweep: minimizes policy/kl" in ended.err and "3 cells, 0 failed" in ended.out
    assert "solutions: " in ended.out and len(runs.rates) == 3


def test_case_16_a_sweep_of_which_every_cell_fails_ends_with_its_table(
    place: Place, runs: Runs, optuna: Any
) -> None:
    runs.bad = {0, 1}
    ended = place.train(*OPTUNA, ORACLE, f"{RATE}=interval(0.001,0.01)", "hydra.sweeper.n_trials=2")
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err[-3000:]
    assert "2 cells, 2 failed" in ended.out


def test_case_16_a_share_of_failures_that_was_asked_for_ends_the_sweep(
    place: Place, runs: Runs, optuna: Any
) -> None:
    runs.bad = {1}
    ended = place.train(
        *OPTUNA, ORACLE, f"{RATE}=interval(0.001,0.01)", "hydra.sweeper.n_trials=5",
        "hydra.sweeper.max_failure_rate=0.4",
    )  # fmt: skip
    assert ended.code == 1 and "Traceback" not in ended.err, ended.err[-3000:]
    assert "2 cells, 1 failed" in ended.out and "ended the sweep: step 3" in ended.err


@pytest.mark.parametrize("arguments", [["train", "-m"], ["plan", "-m"], ["train"]])
def test_case_16_an_unknown_objective_is_refused_before_the_first_cell(
    place: Place, runs: Runs, arguments: list[str]
) -> None:
    seeds = "seed=0,1" if "-m" in arguments else "seed=0"
    ended = place.command(*arguments, *place.base, seeds, "sweep.objective=policy/orakel")
    error = ended.error()
    assert error.startswith("error: sweep.objective = 'policy/orakel'")
    assert all(name in error for name in ("policy/oracle", "sft/distinct_2", "score/mean"))
    assert not runs.rates and not (place.folder / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["sweep.objective=policy/oracle", "oracle.enabled=false"], ["policy/score"]),
        (
            ["sweep.objective=policy/oracle", "algorithm=sft", "oracle.enabled=false"],
            ["before RL", "oracle.enabled=true"],
        ),
        (["sweep.objective=policy/score", "algorithm=sft"], ["policy/oracle", "policy/win_rate"]),
        (["sweep.objective=[score/mean,policy/kll]"], ["policy/kll", "policy/kl,"]),
        (["sweep.objective=value/loss", "algorithm=remax"], ["value/loss", "kl/k1"]),
        (["sweep.objective=[]"], ["sweep.objective", "null"]),
        (["sweep.objective=[score/mean,3]"], ["sweep.objective", "list"]),
    ],
)
def test_case_16_what_this_configuration_will_not_have_is_refused(
    tmp_path: Path, overrides: list[str], named: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        objective.check(small(tmp_path, *overrides))
    assert all(part in str(caught.value) for part in ["sweep.objective", *named])


def test_case_16_numbers_that_it_will_have_are_accepted_and_are_no_part_of_a_key(
    tmp_path: Path,
) -> None:
    config = small(tmp_path)
    keys = [stage.key for stage in all_stages(Context(config))]
    for name in objective.names(config):
        config.sweep.objective = name
        objective.check(config)
    assert keys == [stage.key for stage in all_stages(Context(config))]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["sweep.objective = None", "policy/oracle"]),
        (["sweep.objective=[policy/oracle,policy/kl]"], ["hydra.sweeper.direction", "maximize"]),
    ],
)
def test_case_16_optuna_without_an_objective_for_each_direction_is_refused(
    place: Place, runs: Runs, optuna: Any, arguments: list[str], named: list[str]
) -> None:
    error = place.train(*OPTUNA, f"{RATE}=interval(0.001,0.01)", *arguments).error()
    assert all(part in error for part in named), error
    assert not runs.rates


def test_case_16_a_plan_shows_examples_and_leaves_a_study_alone(
    place: Place, runs: Runs, optuna: Any
) -> None:
    ended = place.plan(
        *OPTUNA, ORACLE, f"{RATE}=interval(0.001,0.01)", "hydra.sweeper.n_trials=2",
        "hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=mine",
    ).ok()  # fmt: skip
    assert "these are examples" in ended.err and ended.out.count("miss  rl ") == 2
    assert not (place.folder / "study.db").exists() and not (place.folder / "runs").exists()


def test_case_16_a_sweeper_that_is_not_installed_is_named_with_its_extra(
    place: Place, runs: Runs
) -> None:
    error = place.train("-m", "hydra/sweeper=optunna", "seed=0,1").error()
    assert "hydra/sweeper = 'optunna'" in error and "basic" in error
    missing = explain(HydraException("Could not find 'hydra/launcher/submitit_local'"))
    assert "hydra/launcher = 'submitit_local'" in str(missing)
    assert "tokencredit[submitit]" in str(missing)
    assert "no such option" in place.train("-m", "hydra/launcher=ray", "seed=0,1").error()


def test_the_nan_of_a_failed_cell_is_nan_and_refuses_to_be_a_number() -> None:
    """Optuna's sweeper takes only an exception for a failure, and breaks off at a plain NaN."""
    failed = pickle.loads(pickle.dumps(objective.of_failed(["policy/oracle"], "optuna")))  # noqa: S301
    assert isinstance(failed, float) and math.isnan(failed)
    with pytest.raises(ValueError, match="failed"):
        float(failed)
    assert math.isnan(float(objective.of_failed(["policy/oracle"], "")))  # type: ignore[arg-type]


def cell(number: int, *overrides: str, state: str = "done", **means: float) -> sweep.Cell:
    found = {f"policy/{name}": measure(mean) for name, mean in means.items()}
    return sweep.Cell(number=number, overrides=list(overrides), state=state, measures=found)


def test_case_16_the_closing_table_has_scores_with_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = [
        cell(n, f"reward_scheme={scheme}", f"seed={seed}", "steps=2", score=mean, oracle=2 * mean)
        for n, (scheme, seed, mean) in enumerate(
            [("abc", 0, 1.0), ("abc", 1, 2.0), ("abc", 2, 3.0), ("sparse", 0, 0.25)]
        )
    ]
    found.append(cell(4, "reward_scheme=sparse", "seed=1", "steps=2", state=sweep.FAILED))
    assert table.print_table(found, 0.0) == 1
    out = capsys.readouterr().out
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines()]
    half = 0.5 * 1.9693  # of Student's t with 255 degrees of freedom
    assert any(f"reward_scheme=abc seed=1 done 2.000 ± {half:.3f} 4.000" in line for line in lines)
    assert "reward_scheme=abc 3 2.000 [-0.484, 4.484] 4.000 [-0.968, 8.968]" in lines
    assert "reward_scheme=sparse 2, 1 failed 0.250 (n = 1) 0.500 (n = 1)" in lines
    assert any("seed=1 failed nan nan" in line for line in lines) and "5 cells, 1 failed" in out


def test_the_closing_table_without_numbers_has_no_columns_for_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table.print_table([cell(0, "seed=0"), cell(1, "seed=1")], 0.0)
    out = capsys.readouterr().out
    assert "policy" not in out and "over" not in out.replace("overrides", "")


def test_case_16_a_committed_cell_has_its_numbers_in_the_file_beside_it(tmp_path: Path) -> None:
    record = {"evaluation": {"policy/oracle": measure(1.5)}, "metrics": {}, "steps": 2}
    (tmp_path / "key.json").write_text(json.dumps(record))
    found = objective.measures(tmp_path / "key.csv")
    assert objective.value(["policy/oracle", "steps"], found) == [1.5, 2.0]
    with pytest.raises(UserError, match="it has steps, policy/oracle"):
        objective.value(["policy/kl"], found)
