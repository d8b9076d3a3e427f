"""Users' code: what its identity is made of, where it may import from, and which names are taken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokencredit.config import load_plugins
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge
from tokencredit.user_code.files import Root
from tokencredit.user_code.imports import FINDER, import_file
from tokencredit.user_code.plugins import plugin_identity

SCORE = "def score(prompts, responses):\n    return [bonus(r) for r in responses]\n"
RULES = "def bonus(text):\n    return 1.0\n"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working folder, and no module of another test's."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    for name in FINDER.served:
        for other in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[other]
    FINDER.served.clear()
    FINDER.roots.clear()


def write(folder: Path, **files: str) -> Path:
    """The folder with Python files; names are paths without their ending."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def content(function: str) -> object:
    identity = FunctionJudge(function=function).identity()
    assert isinstance(identity, dict)
    return identity["content"]


IMPORTS = {
    "beside": ("from reward_rules import bonus\n", {"reward_rules": RULES}),
    "relative": ("from .reward_rules import bonus\n", {"reward_rules": RULES}),
    "package": ("from pkg.inner import bonus\n", {"pkg/__init__": "", "pkg/inner": RULES}),
    "relative in a package": (
        "import pkg.mid\nbonus = pkg.mid.bonus\n",
        {"pkg/__init__": "", "pkg/mid": "from .deep import bonus\n", "pkg/deep": RULES},
    ),
    "its folder is the package": (
        "import pkg\nbonus = pkg.bonus\n",
        {"pkg/__init__": "from .deep import *\n", "pkg/deep": RULES},
    ),
    "through another": (
        "from first import bonus\n",
        {"first": "from second import bonus\n", "second": RULES},
    ),
    "namespace folder": ("from space.rules import bonus\n", {"space/rules": RULES}),
    "lazily": ("def bonus(t):\n    import late\n    return late.bonus(t)\n", {"late": RULES}),
    "by importlib": (
        "import importlib\nbonus = importlib.import_module('named').bonus\n",
        {"named": RULES},
    ),
    "by a name that is made": (
        "import importlib\nbonus = importlib.import_module('ma' + 'de').bonus\n",
        {"made": RULES},
    ),
    "a way of its own": (
        "import sys, os\nsys.path.insert(0, os.path.dirname(__file__) + '/lib')\nfrom far import *\n",
        {"lib/far": RULES},
    ),
}


@pytest.mark.parametrize("kind", IMPORTS)
def test_case_4_every_file_that_a_function_imports_is_part_of_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    head, files = IMPORTS[kind]
    write(tmp_path / "rf", main=head + SCORE)
    write(tmp_path / "rf", **files)
    function = f"{tmp_path / 'rf' / 'main.py'}:score"
    before = content(function)
    assert content(function) == before
    assert FunctionJudge(function=function).load()(["p"], ["r"]) == [1.0]
    changed = [name for name, text in files.items() if text == RULES]
    for name in changed:
        path = tmp_path / "rf" / f"{name}.py"
        path.write_text(RULES.replace("1.0", "2.0"))
        assert content(function) != before, name


def test_case_4_identity_follows_neither_place_nor_order_nor_strangers(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write(tmp_path / place, main="from rules import bonus\n" + SCORE, rules=RULES)
        write(tmp_path / place, stranger="x = 1\n")
    first = content(f"{tmp_path}/a/main.py:score")
    write(tmp_path / "a", stranger="x = 2\n")
    assert content(f"{tmp_path}/b/main.py:score") == first
    assert content(f"{tmp_path}/a/main.py:score") == first
    assert isinstance(first, dict) and set(first) == {"(file)", "rules"}


def test_case_4_a_single_file_keeps_the_identity_it_has_always_had(tmp_path: Path) -> None:
    import hashlib

    source = RULES + "import os, json, torch\n" + SCORE
    write(tmp_path, main=source)
    (Path.cwd() / "data.txt").write_text("not named")
    sha = hashlib.sha256(source.encode()).hexdigest()
    assert content(f"{tmp_path}/main.py:score") == sha
    assert plugin_identity([f"{tmp_path}/main.py"]) == [sha]


@pytest.mark.parametrize(
    "named",
    [
        "open('words.txt').read()",
        "(Path(__file__).parent / 'words.txt').read_text()",
        "(Path(__file__).parent / 'lists' / 'words.txt').read_text()",
        "open(os.path.join(os.path.dirname(__file__), 'lists', 'words.txt')).read()",
        "open(os.path.dirname(__file__) + '/words.txt').read()",
        "open(f'{os.path.dirname(__file__)}/words.txt').read()",
        "open('HERE/words.txt').read()",
    ],
)
def test_case_4_a_data_file_that_is_named_is_part_of_it(tmp_path: Path, named: str) -> None:
    folder = tmp_path / "rf"
    head = "import os\nfrom pathlib import Path\n"
    code = f"def words():\n    return {named.replace('HERE', str(folder))}\n"
    write(folder, main=head + code)
    (folder / "lists").mkdir()
    files = [folder / "words.txt", folder / "lists" / "words.txt"]
    for path in files:
        path.write_text("good")
    before = content(f"{folder}/main.py:words")
    files["lists" in named].write_text("better")
    assert content(f"{folder}/main.py:words") != before


@pytest.mark.parametrize(
    "written",
    [
        "open('log.txt', 'a').write('x')",
        "Path('log.txt').write_text('x')",
        "open(LOG, mode='w').write('x')",
        "logging.FileHandler(LOG)",
    ],
)
def test_case_4_a_file_that_is_written_is_not(tmp_path: Path, written: str) -> None:
    head = "import logging\nfrom pathlib import Path\nLOG = 'log.txt'\n"
    write(tmp_path / "rf", main=f"{head}def f(p, r):\n    {written.replace('LOG', 'LOG')}\n")
    before = content(f"{tmp_path}/rf/main.py:f")
    (tmp_path / "rf" / "log.txt").write_text("a line")
    (Path.cwd() / "log.txt").write_text("a line")
    assert content(f"{tmp_path}/rf/main.py:f") == before


def test_case_4_a_plugin_and_a_module_are_made_of_their_helpers_too(tmp_path: Path) -> None:
    plug = write(tmp_path / "plug", my_plugin="from plug_rule import F\n", plug_rule="F = 100.0\n")
    plugin = [str(plug / "my_plugin.py")]
    write(Path.cwd(), my_module="from module_rule import F\n", module_rule="F = 1\n")
    for named, rule in ((plugin, plug / "plug_rule.py"), (["my_module"], Path("module_rule.py"))):
        load_plugins(named)
        before = plugin_identity(named)
        rule.write_text("F = 7\n")
        assert plugin_identity(named) != before


def test_case_5_two_folders_may_have_helpers_of_one_name(tmp_path: Path) -> None:
    for place, number in (("a", 1), ("b", 2)):
        late = "def late(p, r):\n    import rules\n    return rules.N\n"
        write(tmp_path / place, main=f"from rules import N\n{late}", rules=f"N = {number}\n")
    modules = [import_file(tmp_path / place / "main.py") for place in ("a", "b")]
    assert [module.N for module in modules] == [1, 2]
    assert [import_file(tmp_path / x / "main.py").late(0, 0) for x in ("a", "b")] == [1, 2]


def test_case_5_a_module_of_the_working_folder_and_helpers_there(tmp_path: Path) -> None:
    write(Path.cwd(), my_scores="from my_rules import bonus\n" + SCORE, my_rules=RULES)
    write(Path.cwd(), **{"deep/er": "from my_rules import bonus\n" + SCORE})
    assert FunctionJudge(function="my_scores:score").load()(["p"], ["r"]) == [1.0]
    assert FunctionJudge(function="deep.er:score").load()(["p"], ["r"]) == [1.0]
    write(tmp_path / "rf", main="from my_rules import bonus\n" + SCORE)
    assert FunctionJudge(function=f"{tmp_path}/rf/main.py:score").load()(["p"], ["r"]) == [1.0]
    assert str(Path.cwd()) not in sys.path and "" not in sys.path[:1]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("nowhere:score", r"nowhere does not import.*installed modules and in the working folder"),
        ("lost.py:score", r"No module named 'lost_rules'.*put lost_rules\.py beside lost\.py"),
        ("there.py:scor", r"has no function 'scor'; it has: score"),
        ("there.py:one", r"one\(prompts, responses\)"),
        ("there.py:three", r"three\(prompts, responses\)"),
        ("there.py:later", r"is async"),
        ("leaves.py:score", r"leaves\.py does not import: raised SystemExit.*leaves\.py, line 1"),
    ],
)
def test_case_5_a_function_that_cannot_be_used_is_refused_by_its_check(
    function: str, said: str
) -> None:
    there = "def score(p, r): ...\ndef one(p): ...\ndef three(p, r, c, /): ...\n"
    write(Path.cwd(), lost="from lost_rules import bonus\n", leaves="exit()\n")
    write(Path.cwd(), there=f"{there}async def later(p, r): ...\n")
    with pytest.raises(UserError, match=said) as caught:
        FunctionJudge(function=function).check()
    assert str(caught.value).startswith(f"judge.function = {function!r}: ")


@pytest.mark.parametrize("name", ["datasets", "torch", "random", "types", "yaml"])
def test_case_6_a_file_with_the_name_of_an_installed_module_is_refused(name: str) -> None:
    write(Path.cwd(), **{name: SCORE, "mine": f"import {name}\n" + RULES + SCORE, "clean": SCORE})
    write(
        Path.cwd(), helped="from helper import bonus\n" + SCORE, helper=f"import {name}\n" + RULES
    )
    here = Path.cwd() / f"{name}.py"
    for file in (f"{name}.py", "mine.py", "helped.py"):
        with pytest.raises(UserError) as caught:
            FunctionJudge(function=f"{file}:score").identity()
        assert str(here) in str(caught.value) and "installed" in str(caught.value)
        assert "rename" in str(caught.value)
        with pytest.raises(UserError, match=name):
            load_plugins([file])
    FunctionJudge(function="clean.py:score").check()


def test_case_6_a_library_that_looks_for_another_does_not_find_a_file_of_the_users() -> None:
    import importlib.util

    write(Path.cwd(), vllm="raise SystemExit", clean=RULES + SCORE, uses="import vllm\n")
    FunctionJudge(function="clean.py:score").load()
    asks = "import importlib.util\nFOUND = importlib.util.find_spec('vllm')\n"
    write(Path.cwd(), asks=asks)
    assert import_file(Path("asks.py")).FOUND is not None
    library: dict[str, object] = {}
    file = str(Path(importlib.util.__file__).with_name("of_a_library.py"))
    exec(compile(asks, file, "exec"), library)  # noqa: S102 (as a library's own code would ask)
    assert library["FOUND"] is None


def test_case_6_files_that_only_lie_there_change_no_command(tmp_path: Path) -> None:
    """As a module and as a script; `types.py` would end Python itself before any code of ours."""
    for name in ("datasets", "torch", "yaml", "omegaconf", "typer", "click", "rich", "numpy"):
        write(tmp_path, **{name: "raise RuntimeError('taken for the library')\n"})
    free = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    script = "import sys; sys.argv = ['tokencredit', 'check-scheme', 'uniform']\n"
    script += "from tokencredit.cli import main; main()"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tokencredit").write_text(script)
    root = str(Path(__file__).parents[2] / "src")
    for command, path in (
        ([sys.executable, "-m", "tokencredit.cli", "check-scheme", "uniform"], root),
        ([sys.executable, "bin/tokencredit"], f":{root}"),
    ):
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env={**free, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("ok  ") == 11 and "Error" not in ended.stderr


def test_case_6_the_folders_come_behind_what_is_installed(tmp_path: Path) -> None:
    write(tmp_path, main="import json\nimport tokencredit\n")
    (tmp_path / "json").mkdir()  # a folder without __init__.py is no module that could be meant
    assert Root.of_file(tmp_path / "main.py").files() == {}
    module = import_file(tmp_path / "main.py")
    assert module.json.__file__ != str(tmp_path / "json")
