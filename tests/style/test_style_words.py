"""What no file of the repository may say: paths of a machine, hosts of a network, loose ends."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BINARY = {".safetensors", ".png", ".gz", ".pdf"}

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:root|work|home|Users)/\w|/tmp/\w",
    "a registry's address": r"https?://[^\s\"']*(?:pypi|artifactory|registry|nexus)[^\s\"']*",
    "a loose end": r"\b(?:TODO|FIXME|XXX)\b",
    "how it was made": r"\b(?:Claude|ChatGPT|Copilot|AI-generated)\b",
}


def tracked() -> list[Path]:
    """Files of the repository; without git, those in its source folders."""
    found = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        paths = [ROOT / name for name in found.stdout.split("\0") if name]
    else:
        paths = [p for top in ("src", "conf", "tests", "docs") for p in (ROOT / top).rglob("*")]
    return [p for p in paths if p.is_file() and p.suffix not in BINARY and p != Path(__file__)]


def offences(text: str) -> list[str]:
    """Each forbidden phrase, with what is wrong with it."""
    return [f"{why}: {m[0]}" for why, rule in FORBIDDEN.items() for m in re.finditer(rule, text)]


@pytest.mark.parametrize(
    "text",
    ["cd /ro" + "ot/x", "open('/tm" + "p/x')", "# TO" + "DO later", "https://py" + "pi.org/simple"],
)
def test_offences_are_found(text: str) -> None:
    assert len(offences(text)) == 1


@pytest.mark.parametrize(
    "text", ["a/root/b", "../data", "https://arxiv.org/abs/2402.00782", "$TMP/x"]
)
def test_harmless_text_passes(text: str) -> None:
    assert offences(text) == []


def test_no_file_says_what_none_may_say() -> None:
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in tracked()
        if (wrong := offences(path.read_text(encoding="utf-8")))
    }
    assert found == {}
