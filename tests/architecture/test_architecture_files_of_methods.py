"""The files of each method are listed by part: all that name it, all that are there, each once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from architecture.files_of_methods import METHODS, ROOT, WANTED, Method, listing, main, naming
from architecture.files_touched import counted

HELD = {"tlcr": 16}
"""What judge, stage, labels, and schemes cost; above the wanted number it may only fall."""
every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_each_file_that_names_a_method_is_listed(name: str) -> None:
    method = METHODS[name]
    listed = {file.path for part in (*method.parts, *method.apart) for file in method.files(part)}
    assert [found for found in naming(method) if found not in listed] == []


@every_method
def test_what_is_listed_is_there_and_in_one_part(name: str) -> None:
    method = METHODS[name]
    patterns = [p for each in (*method.parts.values(), *method.apart.values()) for p in each]
    optional = {"conf/tuned/tlcr/*/*.yaml"}  # before its tuning there is none
    assert [p for p in patterns if p not in optional and not any(ROOT.glob(p))] == []
    parts = (*method.parts, *method.apart)
    times = Counter(file.path for part in parts for file in method.files(part))
    assert {path: count for path, count in times.items() if count > 1} == {}


@every_method
def test_a_method_costs_what_it_did_at_most(name: str) -> None:
    cost = len(counted(METHODS[name].together()))
    assert cost <= HELD[name], f"{cost} files; wanted are {WANTED}"


def test_a_file_that_is_not_listed_is_found(tmp_path: Path) -> None:
    made = Method(
        names=re.compile("mine"),
        parts={"judge": ("src/mine.py",), "schemes": ("conf/scheme/mine*.yaml",)},
        apart={"pages": ("src/page.py",)},
    )
    for name, text in (
        ("src/mine.py", ""),
        ("src/page.py", "import mine"),
        ("src/other.py", "x = 'mine'"),
        ("src/nothing.py", "x = 1"),
        ("conf/scheme/mine.yaml", ""),
        ("conf/scheme/mine_too.yaml", ""),
        ("docs/mine.md", "mine"),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    listed = {
        file.path for part in (*made.parts, *made.apart) for file in made.files(part, tmp_path)
    }
    assert set(naming(made, tmp_path)) - listed == {"src/other.py"}
    lines = listing("m", made, tmp_path).splitlines()
    assert "schemes: 1" in lines and "* conf/scheme/mine.yaml" in lines
    assert "  conf/scheme/mine_too.yaml" in lines, "of one group the first counts"
    assert lines[-2].startswith("judge + schemes: 2 files (wanted: at most 12;")
    assert lines[-1] == "apart: pages 1"


def test_the_listing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert "tlcr, by part:" in printed and "labels + schemes + judge + stage:" in printed
