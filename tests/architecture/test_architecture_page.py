"""docs/architecture.md names what is there: its links lead somewhere, its rooms are the rooms."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from architecture.floors import ROOT
from architecture.measures import SOURCE

PAGE = ROOT / "docs" / "architecture.md"
LINK = re.compile(r"\[(`?)([^]\[]+)\1\]\(([^)#:]+)[^):]*\)")
ROOM = re.compile(r"^- \*\*`(\w+)/`\*\*:", re.MULTILINE)


def defined(path: Path) -> set[str]:
    """Names of classes, functions, and values that a file defines; a method as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names |= _named(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in _named(inner)}
    return names


def _named(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def wrong(text: str, folder: Path) -> list[str]:
    """Links of a page in `folder` that lead nowhere, or to a file without what the link says."""
    found = []
    for code, label, target in LINK.findall(text):
        path = folder / target
        if not path.exists():
            found.append(f"{target}: not there")
        elif code and path.suffix == ".py" and label != path.name and label not in defined(path):
            found.append(f"{target}: no {label}")
        elif code and path.is_dir() and label != f"{path.name}/":
            found.append(f"{target}: is not {label}")
    return found


def folders() -> set[str]:
    """The rooms of the package that are folders."""
    return {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name[0] not in "._"}


def test_every_link_leads_to_what_it_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(LINK.findall(text)) > 40
    assert wrong(text, PAGE.parent) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[`f`](a.py) [`C.g`](a.py) [`N`](a.py) [`M`](a.py) [why](a.py#top) [`a.py`](a.py)", []),
        ("[`b`](a.py)", ["a.py: no b"]),
        ("[`g`](a.py)", ["a.py: no g"]),
        ("[why](b.md) and ![a picture](c.svg)", ["b.md: not there", "c.svg: not there"]),
        ("[`room/`](room) [`hall/`](room)", ["room: is not hall/"]),
    ],
)
def test_links_that_are_wrong_are_found(tmp_path: Path, text: str, what: list[str]) -> None:
    source = "class C:\n    def g(self): ...\nasync def f(): ...\nN = 1\nM: int = 2\n"
    (tmp_path / "a.py").write_text(source, encoding="utf-8")
    (tmp_path / "room").mkdir()
    assert wrong(text, tmp_path) == what


def test_every_room_has_its_paragraph() -> None:
    described = ROOM.findall(PAGE.read_text(encoding="utf-8"))
    assert len(described) == len(set(described))
    assert set(described) == folders()
