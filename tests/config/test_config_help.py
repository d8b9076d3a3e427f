"""`--help` explains the groups and shows real commands."""

from __future__ import annotations

import re
import shlex

from tokencredit.config import Config, field_names
from tokencredit.train import conf_dir

from .conftest import Command
from .make_snapshots import composed


def test_help_names_every_group_and_option(entry: Command) -> None:
    text = entry("--help").out
    folders = [
        p for p in sorted(conf_dir().iterdir()) if p.is_dir() and p.name not in {"hydra", "scaled"}
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
