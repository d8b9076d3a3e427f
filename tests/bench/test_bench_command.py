"""`tokencredit bench ppo`, from its help to its files."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench_work import result, small, timed_round
from tokencredit.bench import command
from tokencredit.bench.run import Request, measure
from tokencredit.bench.workload import PHASES
from tokencredit.cli import app
from tokencredit.errors import UserError

TINY = (
    "--rows 4 --prompt-tokens 3 --new-tokens 2 --layers 1 --width 16 --vocabulary 50 --epochs 1 "
    "--minibatch 2 --threads 1"
).split()
OPTIONS = (
    "rows prompt-tokens new-tokens vary architecture layers width vocabulary reward epochs "
    "minibatch micro-batch threads iterations warm-up seed grow out"
).split()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Measure in this process; the requests that were made."""
    asked: list[Request] = []

    def measured(request: Request) -> dict[str, Any]:
        asked.append(request)
        plain: dict[str, Any] = json.loads(json.dumps(request.plain()))
        found: dict[str, Any] = measure(Request.of(plain), lambda _: None)
        return found

    monkeypatch.setattr(command, "measured", measured)
    return asked


def run(*arguments: str) -> str:
    """The output of a command that must succeed."""
    answer = CliRunner().invoke(app, ["bench", "ppo", *arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_help_names_every_option() -> None:
    answer = CliRunner().invoke(app, ["bench", "ppo", "--help"], env={"COLUMNS": "160"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", answer.output)
    assert answer.exit_code == 0
    for option in OPTIONS:
        assert re.search(rf"--{option}\s.*\w", text), option
    for default in ("64", "8192", "256", "the minibatch", "5, or 2 with --grow"):
        assert default in text


def test_the_group_is_listed() -> None:
    assert "ppo" in CliRunner().invoke(app, ["bench"]).output
    assert "bench" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rows", "0"),
        ("--prompt-tokens", "0"),
        ("--new-tokens", "-1"),
        ("--layers", "0"),
        ("--width", "3"),
        ("--vocabulary", "x"),
        ("--architecture", "rnn"),
        ("--reward", "dense"),
        ("--micro-batch", "0"),
        ("--threads", "0"),
        ("--iterations", "0"),
        ("--warm-up", "-1"),
    ],
)
def test_a_bad_value_names_its_option(option: str, value: str, here: list[Request]) -> None:
    answer = CliRunner().invoke(app, ["bench", "ppo", option, value], env={"COLUMNS": "160"})
    assert answer.exit_code == 2
    assert option in answer.output
    assert here == []


def test_a_width_that_no_head_divides_is_refused(tmp_path: Path) -> None:
    arguments = ["bench", "ppo", "--width", "100", "--out", str(tmp_path)]
    answer = CliRunner().invoke(app, arguments)
    assert isinstance(answer.exception, UserError)
    assert "--width = 100" in str(answer.exception)


def test_a_folder_that_cannot_be_made_is_refused_first(tmp_path: Path, here: list[Request]) -> None:
    (tmp_path / "file").write_text("")
    answer = CliRunner().invoke(app, ["bench", "ppo", "--out", str(tmp_path / "file" / "x")])
    assert isinstance(answer.exception, UserError)
    assert "--out" in str(answer.exception)
    assert here == []


def test_the_defaults_are_the_first_setting(here: list[Request], tmp_path: Path) -> None:
    """64 prompts of 8 tokens, 32 new, GPT-2 of 4 layers, 256 wide, 8192 words, 4 epochs by 16."""

    class Asked(Exception):
        """Enough is known."""

    def stop(request: Request) -> dict[str, Any]:
        here.append(request)
        raise Asked

    command.measured = stop  # `here` puts it back
    with pytest.raises(Asked):
        run("--out", str(tmp_path))
    (request,) = here
    work = request.work
    assert (work.prompt_lengths, work.response_lengths) == ((8,) * 64, (32,) * 64)
    assert (work.size.architecture.value, work.size.layers, work.size.width) == ("gpt2", 4, 256)
    assert (work.size.vocabulary, work.epochs, work.minibatch) == (8192, 4, 16)
    assert (request.iterations, request.warm_up, work.threads <= 2) == (5, 1, True)


@pytest.mark.usefixtures("contained")
def test_it_prints_a_table_and_writes_json(here: list[Request], tmp_path: Path) -> None:
    text = run(*TINY, "--iterations", "2", "--vary", "--reward", "abc", "--out", str(tmp_path))
    for word in ("generation", "scoring", "optimisation", "whole", "peak resident memory", "torch"):
        assert word in text
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert path.name == "ppo.json" and len(found["rounds"]) == 2
    assert {"cpu", "cores", "environment", "git_commit", "date", "threads"} <= set(found)
    assert found["request"]["work"]["reward"] == "abc"
    for phase in (*PHASES, "whole"):
        numbers = found["summary"][phase]
        assert numbers["seconds"]["median"] > 0 and numbers["share_of_ceiling"]["median"] > 0


def test_growth_is_drawn_from_its_csv(
    here: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(request: Request) -> dict[str, Any]:
        here.append(request)
        work = request.work
        seconds = float(work.rows * work.response_lengths[0] * work.size.width)
        return result(timed_round(1, seconds, ceiling=None)) | {"parameters": work.size.width}

    monkeypatch.setattr(command, "measured", measured)
    text = run(*TINY, "--grow", "--out", str(tmp_path))
    names = ["growth.csv", "growth.json", "growth.pdf", "growth.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    rows = list(csv.DictReader((tmp_path / "growth.csv").read_text("utf-8").splitlines()))
    found = json.loads((tmp_path / "growth.json").read_text("utf-8"))
    assert len(rows) == 4 * len(found["points"]) == 4 * (4 + 3 + 2)  # 16 wide is the least there is
    assert {"cpu", "environment", "git_commit"} <= set(found)
    assert len(here) == 7  # the point in the middle is measured once
    assert {(r.iterations, r.ceiling, r.progress) for r in here} == {(2, False, False)}
    assert "width" in text


def test_a_measurement_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for code, words in ((-9, "SIGKILL"), (1, "failed")):
        done = subprocess.CompletedProcess([], code, stdout="")
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        with pytest.raises(UserError, match=words):
            command.measured(Request(work=small()))


@pytest.mark.slow
def test_the_command_measures_in_the_environment_of_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tokencredit.cli", "bench", "ppo", *TINY, "--iterations", "1"]
    answer = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert "round 2/2" in answer.stderr and "left" in answer.stderr
    found = json.loads((tmp_path / "bench" / "ppo.json").read_text(encoding="utf-8"))
    assert found["settings"]["MALLOC_MMAP_MAX_"] == "0"
    assert found["settings"]["GOMP_SPINCOUNT"] == "20000"
    assert found["threads"] == 1
