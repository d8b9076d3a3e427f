"""docs/judging.md: its LLM command runs as shown, and its numbers are those of the commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge_server import Answer, JudgeServer, prefers
from tokencredit.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "judging.md"


def shown(command: str) -> str:
    """The one block of the page with that command to an endpoint."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if f"tokencredit {command} " in block)
    return str(block)


def test_the_llm_command_runs_as_it_is_shown(
    serve: Callable[..., JudgeServer],
    answer_files: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an address of our own and a faster pace."""
    block = shown("judge llm")
    line = block.replace("\\\n", " ").splitlines()[1]
    good, bad = answer_files(3)
    Path(good).rename(tmp_path / "ours.jsonl")
    Path(bad).rename(tmp_path / "theirs.jsonl")
    server = serve(prefers("right"))
    line = line.replace("https://api.example.com/v1", server.url)
    line = line.replace("--requests-per-minute 60", "--requests-per-minute 6000")
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "| ours | 0.500 | 1.000 ± 0.000 |" in answer.output
    assert len(server.requests) == 6
    report = (tmp_path / "judged-llm" / "report.md").read_text("utf-8")
    assert "same winner in both orders | 100.0 %" in report
    assert "6 replies, 600 tokens asked, 60 tokens said, 0.0021 in the currency" in report


def test_the_grading_command_runs_as_it_is_shown(
    serve: Callable[..., JudgeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the question of the page, answered in one file."""
    (question,) = re.findall(
        r"```json\n(\{\"question_id.*?)```", PAGE.read_text("utf-8"), re.DOTALL
    )
    server = serve(lambda *_: Answer("Reasons: right.\nRating: [[7]]"))
    line = shown("judge mt-bench grade").replace("\\\n", " ")
    line = line.replace("https://api.example.com/v1", server.url).replace("*", "us")
    monkeypatch.chdir(tmp_path)
    Path("question.jsonl").write_text(question, encoding="utf-8")
    folder = tmp_path / "mt_bench" / "model_answer"
    folder.mkdir(parents=True)
    answer = '{"question_id": 111, "model_id": "us", "choices": [{"turns": ["4", "8"]}]}'
    (folder / "us.jsonl").write_text(answer, encoding="utf-8")
    graded = CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False)
    assert graded.exit_code == 0 and "| us | 7.000 | 7.000 | 7.000 |" in graded.output


def test_the_league_of_the_page(tmp_path: Path) -> None:
    """South 61 % and East 44 % raw, East twice as strong."""
    blocks = re.findall(r"```csv\n# games\.csv\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "games.csv").write_text(blocks[0], encoding="utf-8")
    arguments = ["judge", "strengths", "--games", str(tmp_path / "games.csv")]
    lines = CliRunner().invoke(app, arguments).output.splitlines()[1:]
    rows = {line.split()[0]: line.split() for line in lines}
    assert round(float(rows["South"][-1])) == 61 and round(float(rows["East"][-1])) == 44
    assert float(rows["East"][1]) - float(rows["South"][1]) == pytest.approx(0.6931, abs=1e-3)
