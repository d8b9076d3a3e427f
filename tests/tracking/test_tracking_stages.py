"""What stages before RL came to: kept, shown on the console and the page, and told W&B."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from case_plans import composed
from tokencredit import config as configuration
from tokencredit.reports.samples import columns
from tokencredit.reports.stage_report import (
    left_out,
    stage_summary,
    stage_table,
    write_stage_report,
)
from tokencredit.reports.times import adding_up, budget, stage_times
from tokencredit.stages.mirrored import facts, headline, labelled, rows_left_out, stage_numbers
from tokencredit.stages.trainer import POINTS, LossCurve, progress_callback
from tokencredit.store.run_folder import RunFolder
from tokencredit.sweeps.sweep import group
from tokencredit.tracking.tracker import Tracker
from tokencredit.tracking.tracking import Tracking, WandbMode
from tokencredit.tracking.wandb_mirror import WandbMirror

CURVE = {"step": [1, 2, 3], "loss": [3.0, 2.0, 1.5]}
FIGURES: dict[str, dict[str, Any]] = {
    "sft": {"steps": 3, "loss": 2.2, "curve": CURVE, "held_out": 128, "held_out_loss": 2.5},
    "reward_model": {
        "steps": 3,
        "curve": CURVE,
        "accuracy": 0.8,
        "accuracy_low": 0.7,
        "accuracy_high": 0.9,
        "held_out": 50,
        "margin_mean": 0.25,
        "pairs_noted": {"too long": 4, "same answers": 0},
    },
    "base": {"parameters": 5},
    "dpo": {"accuracy": 0.6, "margin": 0.1, "margin_low": -0.1, "margin_high": 0.3, "cut": 2},
}


def trainer(passes: int, losses: list[float]) -> Any:
    """A trainer that has `passes` losses a step, and says them one after the other."""
    said = iter(losses)
    state = SimpleNamespace(global_step=0)
    one = SimpleNamespace(state=state, training_step=lambda: torch.tensor(next(said)))

    def train() -> None:
        for number in range(len(losses)):
            one.training_step()
            state.global_step = (number + 1) // passes

    one.train = train
    return one


def test_a_curve_has_the_loss_of_each_step() -> None:
    watched = trainer(2, [1.0, 0.5, 0.75, 0.25])
    curve = LossCurve(watched)
    watched.train()
    assert curve.points() == {"step": [1, 2], "loss": [1.5, 1.0]}


def test_a_long_curve_is_kept_as_means() -> None:
    losses = [float(step) for step in range(2 * POINTS + 1)]
    watched = trainer(1, losses)
    curve = LossCurve(watched)
    watched.train()
    points = curve.points()
    assert points["step"][:2] == [3, 6] and points["step"][-1] == len(losses)
    assert len(points["loss"]) <= POINTS and points["loss"][0] == 1.0
    assert LossCurve(trainer(1, [])).points() == {"step": [], "loss": []}


def test_stages_are_shown_with_loss_and_held_out_numbers() -> None:
    head, *rows = stage_table(FIGURES)
    assert head[1:] == ["steps", "training loss", "on held-out records", "records"]
    assert rows == [
        ["sft", "3", "3.000 → 1.500", "loss 2.500", "128"],
        [
            "reward model",
            "3",
            "3.000 → 1.500",
            "accuracy 0.800 [0.700, 0.900], margin +0.250",
            "50",
        ],
        ["dpo", "-", "-", "accuracy 0.600, margin +0.100 [-0.100, 0.300]", "-"],
    ]
    assert stage_table({"base": {"parameters": 5}}) == []


def test_rows_left_out_are_shown_by_reason() -> None:
    rows = left_out({"no text": 3}, {"dataset.single_turn": 7}, FIGURES, {"too short": 1})
    assert rows[1:] == [
        ["dataset", "no text", "3"],
        ["dataset", "left out by dataset.single_turn", "7"],
        ["reward model, training pairs", "too long", "4"],
        ["dpo, training records", "answer cut at max_length", "2"],
        ["rl prompts", "too short", "1"],
    ]
    assert left_out({}, {}, {}, None) == []
    assert columns(rows).count("\n") == 5


def test_a_run_without_rl_has_a_report(tmp_path: Path) -> None:
    record = {
        "stage": "dpo",
        "key": "abcd",
        "names": {"model": "<tiny>", "dataset": "pairs", "hardware": "cpu"},
        "seeds": {"stage_seed": 2},
        "model": "store/dpo/abcd",
        "figures": FIGURES,
        "dropped": {"no text": 3},
        "filtered": {},
    }
    (tmp_path / "stage.json").write_text(json.dumps(record))
    page = write_stage_report(tmp_path).read_text()
    said = stage_summary(tmp_path)
    for text in (page, said):
        for part in ("loss 2.500", "accuracy 0.800", "no text", "stage seed 2"):
            assert part in text, part
    assert page.count("data:image/png;base64,iVBOR") == 1 and "&lt;tiny&gt;" in page
    assert "report.html" in said and (tmp_path / "figures" / "loss.png").is_file()


def test_runs_at_wandb_are_labelled() -> None:
    config = configuration.read(StringIO(composed(("tracking.tags=[mine]", "seed=4"))))
    config.run.scheme = "abc"
    made = labelled(config, "rl")
    assert (made.group, made.job_type) == ("abc tiny imdb", "rl")
    assert made.tags == ["mine", "abc", "tiny", "imdb", "PPO"]
    assert labelled(config, "sft").group == "sft tiny imdb"
    config.run.experiment, config.run.scale = "abc/beta_sweep", "cpu"
    config.tracking.job_type = "probe"
    made = labelled(config, "rl")
    assert (made.group, made.job_type) == ("abc/beta_sweep", "probe")
    assert {"abc/beta_sweep", "cpu"} <= set(made.tags)
    told = facts(config, "some key")
    assert told["key"] == "some key" and len(told["git_commit"]) == 40 and told["seed"] == 4


def test_pilots_and_cells_of_a_sweep_are_labelled_where_nothing_else_is_chosen() -> None:
    config = configuration.read(StringIO(composed(())))
    config.run.job_type, config.run.group = "pilot", group(Path("runs/sweeps/tuesday"), None)
    made = [labelled(config, stage) for stage in ("rl", "sft")]
    assert [(one.group, one.job_type) for one in made] == [("sweep tuesday", "pilot")] * 2
    config.run.experiment = "abc/beta_sweep"
    config.run.group = group(Path("runs/sweeps/tuesday"), config.run.experiment)
    assert labelled(config, "rl").group == "abc/beta_sweep"
    config.tracking.group, config.tracking.job_type = "mine", "probe"
    made = [labelled(config, "rl")]
    assert [(one.group, one.job_type) for one in made] == [("mine", "probe")]


def test_a_pilot_that_goes_on_is_one_run_at_wandb(
    tmp_path: Path, own_wandb: None, read_offline: Callable[[Path], dict[str, Any]]
) -> None:
    """Killed and gone on with, it has the id, the group, and the job type that it began with."""
    config = configuration.read(StringIO(composed(("tracking=offline",))))
    config.run.job_type, config.run.group = "pilot", "sweep tuesday"
    seen, offsets = [], None
    for first, steps in ((0, 2), (2, 3)):
        tracker = Tracker(
            tmp_path, labelled(config, "rl"), "0123456789abcdef", "abc", {}, offsets, steps, first
        )
        for step in range(first, steps):
            tracker.log(step, {"score/mean": step / 2}, {})
        offsets = tracker.state()
        tracker.close({})
        found = read_offline(tmp_path)
        seen.append((found["id"], found["group"], found["job"]))
    assert seen == [("0123456789abcdef", "sweep tuesday", "pilot")] * 2
    assert [row["score/mean"] for row in found["rows"]] == [0.0, 0.5, 1.0]


def test_the_summary_at_wandb_has_plain_numbers() -> None:
    measure = {"mean": 1.5, "se": 0.5, "n": 4}
    other = {"mean": 1.0, "se": 0.25, "n": 4}
    found = headline(
        {
            "metrics": {"score/mean": measure},
            "evaluation": {"policy/score": measure, "sft/score": other},
        }
    )
    assert found["last/score/mean"] == 1.5 and found["evaluation/policy/score/se"] == 0.5
    assert found["evaluation/gain/score"] == 0.5
    numbers = stage_numbers(FIGURES)
    assert numbers["stage/sft/held_out_loss"] == 2.5 and numbers["stage/dpo/margin"] == 0.1
    assert all(isinstance(value, int | float) for value in [*found.values(), *numbers.values()])


def test_wandb_is_told_what_was_left_out_and_why() -> None:
    lost = left_out({"empty": 2}, {"dataset.single_turn": 1}, FIGURES, {"too short": 3, "long": 0})
    assert rows_left_out(lost) == {
        "left_out/dataset/empty": 2,
        "left_out/dataset/left out by dataset.single_turn": 1,
        "left_out/reward model, training pairs/too long": 4,
        "left_out/dpo, training records/answer cut at max_length": 2,
        "left_out/rl prompts/too short": 3,
    }
    assert rows_left_out(left_out({}, {}, {})) == {}


def test_wandb_has_group_job_and_curves(
    tmp_path: Path, own_wandb: None, read_offline: Callable[[Path], dict[str, Any]]
) -> None:
    tracking = Tracking(mode=WandbMode.offline, group="g", job_type="rl", tags=["t"])
    mirror = WandbMirror.open(tracking, tmp_path, "abc", "abc", {"key": "k"})
    mirror.curves(0, {"sft": CURVE})
    mirror.log(0, {"x": 1.0})
    mirror.log(1, {"x": 2.0})
    mirror.finish({"last/score/mean": 0.5})
    found = read_offline(tmp_path)
    assert [row["_step"] for row in found["rows"]] == [0, 1]
    assert (found["group"], found["job"], found["tags"]) == ("g", "rl", ["t"])
    assert found["config"]["key"] == "k" and found["summary"]["last/score/mean"] == 0.5
    (table,) = found["folder"].glob("files/media/table/**/*.json")
    assert json.loads(table.read_text())["data"] == [[1, 3.0], [2, 2.0], [3, 1.5]]


def test_times_add_up_as_they_are_shown(complete_times: Path) -> None:
    rows = stage_times(RunFolder.logged(complete_times))
    shown = [float(value.removesuffix(" s")) for _, value in rows]
    assert rows[-1][0] == "together" and sum(shown[:-1]) == pytest.approx(shown[-1])
    assert adding_up([0.4, 0.4, 0.2], 1) == [1, 0, 0] and sum(adding_up([3.5, 2.5, 1.0], 7)) == 7
    stages = {"sft": 83.4, "reward_model": 201.5, "rl": 90.4}
    session = {"steps": 100, "step_seconds": 70.2, "all_seconds": 80.6}
    line = budget(stages, 380.2, session)
    assert line == (
        "budget: sft 83 s, reward model 202 s, rl 90 s (100 RL steps 70 s, loading, evaluation, "
        "files 11 s, start 9 s), rest 5 s, total 380 s"
    )
    assert budget({}, 3.0, {}) == "budget: rest 3 s, total 3 s"
    assert (
        budget({"sft": 5.0}, 7.0, {}, 10.0) == "budget: install 10 s, sft 5 s, rest 2 s, total 17 s"
    )


@pytest.fixture
def complete_times(tmp_path: Path) -> Path:
    """A run of three steps, whose phases have thirds of seconds."""
    rows = [{"step": step, "time/a_seconds": 1 / 3, "time/b_seconds": 2 / 3} for step in range(3)]
    steps = [{"step": step, "score/mean": 0.0} for step in range(3)]
    for name, lines in (("timings", rows), ("metrics", steps)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "results.json").write_text('{"wall_seconds": 3.456}')
    return tmp_path


@pytest.mark.parametrize("terminal", [False, True])
def test_a_trainers_progress_is_lines_in_a_file_and_one_line_on_a_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes standard error for a terminal
        monkeypatch.setenv("TERM", "xterm-256color")
    callback = progress_callback("sft", seconds_between=0.0)
    state = SimpleNamespace(max_steps=3, global_step=0)
    callback.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for step in range(1, 4):
        state.global_step = step
        callback.on_step_end(None, state, None)  # type: ignore[arg-type]
    callback.on_train_end(None, state, None)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert "3/3" in shown
    if terminal:
        assert shown.count("\n") <= 1 and "\x1b[" in shown and "left" in shown
    else:
        assert shown.splitlines()[0].startswith("sft: step 1/3, ") and shown.count("\n") == 3
        assert "\x1b" not in shown


def test_the_time_left_is_told_from_the_step_that_a_stage_goes_on_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 11 and 12 of 20 took 2 s each, so the other 8 take 16 s."""
    clock = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("tokencredit.stages.trainer.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("tokencredit.stages.trainer.Progress", Dark)
    callback = progress_callback("sft", seconds_between=0.0)
    state = SimpleNamespace(max_steps=20, global_step=10)
    callback.on_train_begin(None, state, None)  # type: ignore[arg-type]
    for step in (11, 12):
        state.global_step = step
        callback.on_step_end(None, state, None)  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["sft: step 11/20, 18 s left", "sft: step 12/20, 16 s left"]


class Dark:
    """A progress display without a terminal."""

    is_live = False

    def __init__(self, *_: object) -> None:
        """Whatever it is told."""
