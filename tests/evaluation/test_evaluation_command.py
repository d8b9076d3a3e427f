"""`tokencredit judge`: everything is listed and explained; importing it stays quick."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app

OPTIONS = {
    "winrate": "annotations out equal-length",
    "strengths": "games annotations prior out",
    "export": "format out names",
    "compare": "names with-sft with-dpo keep prompts prompts-file oracle store temperature top-p max-new-tokens "
    "seed batch device plugin out",
    "llm": "answers base-url model names template both-orders seed limit temperature max-tokens "
    "key-variable concurrency requests-per-minute timeout retries parse-retries ask-again price-in "
    "price-out out",
    "mt-bench answer": "questions names limit temperature top-p max-new-tokens seed batch device store out plugin",
    "mt-bench grade": "questions answers base-url model references limit temperature max-tokens "
    "key-variable concurrency requests-per-minute timeout retries price-in price-out out",
    "mt-bench scores": "questions judgements",
    "people sheets": "answers names samples annotators seed out",
    "people count": "key sheets without out",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_explains_every_option(command: str) -> None:
    answer = CliRunner().invoke(app, ["judge", *command.split(), "--help"], env={"COLUMNS": "160"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", answer.output)
    assert answer.exit_code == 0
    for option in OPTIONS[command].split():
        assert re.search(rf"--{option}\s.*\w", text), option
    listed = set(re.findall(r"^[│ *]+--([a-z-]+)", text, re.MULTILINE)) - {"help"}
    assert listed == set(OPTIONS[command].split())


def test_the_group_is_listed() -> None:
    assert "judge" in CliRunner().invoke(app, ["--help"]).output
    text = CliRunner().invoke(app, ["judge"]).output
    for command in OPTIONS:
        assert command.split()[0] in text


def test_heavy_libraries_are_imported_when_they_are_needed() -> None:
    code = (
        "import sys; from tokencredit.commands.judge import judge; "
        "print([m for m in ('torch', 'transformers', 'openai') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
