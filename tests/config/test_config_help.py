"""`--help` explains the groups and shows real commands."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from inspect import getdoc
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tokencredit import __version__
from tokencredit.cli import ABOUT, COMMANDS, app
from tokencredit.composing.helptext import SENTENCE_END, first_comment, help_text
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.fields import field_names
from tokencredit.user_code.plugins import conf_dir

from .conftest import Command
from .make_snapshots import composed


def test_help_names_every_group_and_option(entry: Command) -> None:
    text = entry("--help").out
    folders = [
        p
        for p in sorted(conf_dir().iterdir())
        if p.is_dir() and p.name not in {"hydra", "scaled", "tuned"}
    ]
    assert len(folders) >= 9
    for folder in folders:
        assert re.search(rf"^\s*{folder.name}\s*$", text, re.MULTILINE), folder.name
        for file in folder.rglob("*.yaml"):
            option = file.relative_to(folder).with_suffix("").as_posix()
            assert re.search(rf"^[\s*]+{re.escape(option)}\s", text, re.MULTILINE), option


def test_help_names_every_key_of_the_run(entry: Command) -> None:
    text = entry("--help").out
    for name in set(field_names(Config)) - {"plugins"}:
        assert re.search(rf"\b{name}\b", text), name


def test_help_shows_commands_that_compose(entry: Command) -> None:
    lines = re.findall(r"^\s*tokencredit train\b ?([^\[\n]*)$", entry("--help").out, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)
        if "--plugin" in words:
            continue  # its files are the reader's own
        pairs = (word.partition("=") for word in words if "=" in word)
        composed(*(f"{key}={value.partition(',')[0]}" for key, _, value in pairs))


def test_plan_has_help_of_its_own(entry: Command) -> None:
    text = entry("--plan", "--help").out
    assert text.startswith("tokencredit plan ")
    for part in ("hit ", "miss ", "exit code 2", "  tokencredit plan reward_scheme=sparse"):
        assert part in text, part
    assert "Trains SFT" not in text and "\n  tokencredit train" not in text


def test_the_version_is_said(entry: Command) -> None:
    assert entry("--version").out == f"tokencredit {__version__}\n"
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"tokencredit {__version__}\n")


def test_descriptions_are_whole_sentences(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "# @package _global_\n# A scheme that pays\n# twice. And more.\n# Else.\na: 1\n"
    )
    assert first_comment(path) == "A scheme that pays twice. And more."
    path.write_text("# For reviews:  dataset.path=x.jsonl\n# Then this.\na: 1\n# no comment\n")
    assert first_comment(path) == "For reviews:  dataset.path=x.jsonl"
    path.write_text("a: 1\n# cut where\n\n# it ends\n")
    assert first_comment(path) == "cut where"
    for option in conf_dir().glob("*/**/*.yaml"):
        about = first_comment(option)
        assert SENTENCE_END.search(about), (option, about)


def test_a_narrow_terminal_gets_all_words_of_a_description() -> None:
    wide, narrow = (help_text([conf_dir()], width=width) for width in (None, 80))
    assert narrow.split() == wide.split()
    lines = narrow.partition("Keys (set")[0].partition("Groups (choose")[2].splitlines()
    assert max(map(len, lines)) <= 80


def test_each_command_says_what_the_list_of_commands_says() -> None:
    """The list imports none of them, so it holds their first sentences a second time."""
    for name, place in COMMANDS.items():
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        said = command.info.help if isinstance(command, typer.Typer) else getdoc(command) or ""
        assert said.partition("\n\n")[0].replace("\n", " ") == ABOUT[name], name


def test_a_command_that_is_asked_for_later_ends_as_others_do(tmp_path: Path) -> None:
    for arguments, code, word in (
        (["table", "--format", "tex"], 2, "markdown"),
        (["judge", "winrate"], 2, "--annotations"),
        (["judge", "llm", "--help"], 0, "Ask an LLM"),
        (["nothing"], 2, "No such command"),
        (["page"], 2, "Missing argument"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code and word in done.output, arguments
    with pytest.raises(UserError, match="is no run folder"):
        CliRunner().invoke(app, ["report", str(tmp_path)], catch_exceptions=False)


def test_every_key_of_no_group_is_named(entry: Command) -> None:
    told = " ".join(entry("--help").out.split())
    for name in ("steps", "store", "dpo.*", "sft.*", "sweep.*", "run.*"):
        assert f" {name} " in told
    assert "plugins " not in told.partition("Keys (set")[2].partition("Commands")[0]
    assert "{keys}" not in told
