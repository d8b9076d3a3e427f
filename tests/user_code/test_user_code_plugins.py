"""Users' own components: imported, keyed by content, and told apart from mistakes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokencredit.config import load_plugins
from tokencredit.errors import UserError
from tokencredit.user_code.imports import import_file
from tokencredit.user_code.plugins import plugin_identity


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import itertools\nCALLS = []\nCALLS.append(1)\nVALUE = 7\n")
    module = import_file(path)
    load_plugins([str(path)])
    assert import_file(path) is module
    assert module.VALUE == 7 and module.CALLS == [1]


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"VALUE = {value}\n")
    assert import_file(tmp_path / "a" / "mine.py").VALUE == 1
    assert import_file(tmp_path / "b" / "mine.py").VALUE == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such Python file"),
        ("def broken(:\n", "SyntaxError"),
        ("import a_module_that_is_nowhere\n", "a_module_that_is_nowhere"),
        ("raise ValueError('out of order')\n", "ValueError: out of order"),
    ],
    ids=["missing", "syntax", "import", "raises"],
)
def test_a_plugin_that_does_not_import(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    modules = set(sys.modules)
    with pytest.raises(UserError) as caught:
        load_plugins([str(path)])
    assert f"--plugin {path}" in str(caught.value) and said in str(caught.value)
    assert not [name for name in set(sys.modules) - modules if "mine" in name]


def test_a_module_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"--plugin no_such_module_here: does not import"):
        load_plugins(["no_such_module_here"])


def test_identity_is_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "one.py", tmp_path / "two.py"
    first.write_text("VALUE = 1\n")
    second.write_text("VALUE = 1\n")
    assert plugin_identity([str(first)]) == plugin_identity([str(second)])
    second.write_text("VALUE = 2\n")
    assert plugin_identity([str(first)]) != plugin_identity([str(second)])
    module = tmp_path / "plugged_in_module.py"
    module.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = plugin_identity(["plugged_in_module"])
    module.write_text("VALUE = 2\n")
    assert before != plugin_identity(["plugged_in_module"])
