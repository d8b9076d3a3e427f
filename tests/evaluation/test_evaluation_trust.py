"""A run's folder names code; it is run only where the command line names it, too."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tokencredit import config as configuration
from tokencredit.canonical import file_sha256
from tokencredit.cli import app
from tokencredit.config import load_plugins
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge
from tokencredit.store.files import read_json, write_json
from tokencredit.user_code.kept import keep_code, unchanged
from tokencredit.user_code.plugins import NAMED

PLUGIN = """\
from pathlib import Path

from trusted_helper import FACTOR
from tokencredit.config import register_component

Path({mark!r}).touch()
WORDS = Path(__file__).parent / "words.txt"
KEY = Path(__file__).parent / "api_key.txt"
"""


@dataclass
class Case:
    """A run whose configuration names a plug-in that leaves a mark when it is imported."""

    run: Path
    mark: Path
    other: Path
    """A run without plug-ins."""

    def invoke(self, *arguments: object) -> Result:
        """A command, which must not run the plug-in unless it names it."""
        self.mark.unlink(missing_ok=True)
        load_plugins([])
        return CliRunner().invoke(app, list(map(str, arguments)))

    def commands(self, out: Path) -> dict[str, list[object]]:
        """Commands that read the run's configuration."""
        compare = ["--oracle", "none", "--prompts", 2, "--batch", 2, "--out", out]
        return {
            "generate": ["generate", self.run, "--prompt", "the"],
            "report": ["report", self.run],
            "judge compare": ["judge", "compare", self.run, self.other, *compare],
            "judge compare, second": ["judge", "compare", self.other, self.run, *compare],
        }


COMMANDS = ["generate", "report", "judge compare", "judge compare, second"]


@pytest.fixture
def case(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A copy of a run as it lies on another machine: its code is gone but for the copy in it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    mark, run = tmp_path / "mark", tmp_path / "run"
    shutil.copytree(place / "sparse", run)
    names = {"mine": PLUGIN.format(mark=str(mark)), "trusted_helper": "FACTOR = 2\n"}
    for name, text in names.items():
        (work / f"{name}.py").write_text(text)
    (work / "words.txt").write_text("good")
    (work / "api_key.txt").write_text("sk-of-mine")
    (work / "pay.py").write_text("def score(prompts, responses):\n    return [1.0]\n")
    load_plugins([])
    config = configuration.read(run / "config.yaml")
    config.plugins = ["mine.py"]
    config.scorer = FunctionJudge(function="pay.py:score")
    load_plugins(config.plugins)
    (run / "config.yaml").write_text(configuration.dump(config))
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", manifest | {"code": keep_code(config.named_code(), run)})
    (run / "metrics.jsonl").write_text("")
    for name in [name for name in sys.modules if "mine" in name or name == "trusted_helper"]:
        del sys.modules[name]
    shutil.rmtree(work)
    work.mkdir()
    monkeypatch.chdir(work)
    yield Case(run, mark, place / "abc")
    load_plugins([])


def test_case_14_a_runs_folder_holds_its_code_but_no_secret(case: Case) -> None:
    plugin, function = read_json(case.run / "manifest.json")["code"]
    assert (plugin["named"], plugin["file"]) == ("mine.py", "code/0_mine/mine.py")
    names = {Path(name).name for name in plugin["sha256"]}
    assert names == {"mine.py", "trusted_helper.py", "words.txt"}
    assert plugin["left_out"] == ["api_key.txt"]
    assert not list(case.run.rglob("api_key.txt"))
    assert list(function["sha256"]) == ["code/1_pay/pay.py"] == [function["file"]]
    for entry in (plugin, function):
        for name, checksum in entry["sha256"].items():
            assert file_sha256(case.run / name) == checksum
    assert "code" not in read_json(case.other / "manifest.json")


@pytest.mark.parametrize("name", COMMANDS)
def test_case_14_a_plugin_that_the_command_does_not_name_is_not_run(
    case: Case, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(part) for part in case.commands(tmp_path / "out")[name]]
    monkeypatch.setattr(sys, "argv", ["/somewhere/tokencredit", *command])
    answer = case.invoke(*command)
    copy = case.run / "code" / "0_mine" / "mine.py"
    assert isinstance(answer.exception, UserError), answer.output
    said = str(answer.exception)
    assert f"`tokencredit {' '.join(command)} --plugin {copy}`" in said
    assert "mine.py" in said and not case.mark.exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_case_14_a_plugin_that_is_named_is_run_from_the_runs_copy(
    case: Case, name: str, tmp_path: Path
) -> None:
    copy = case.run / "code" / "0_mine" / "mine.py"
    answer = case.invoke(*case.commands(tmp_path / "out")[name], "--plugin", copy)
    assert "--plugin" not in str(answer.exception), answer.exception
    assert case.mark.exists()
    if name != "report":  # there are no steps to report of
        assert answer.exit_code == 0, answer.output


def test_case_14_naming_another_plugin_does_not_open_the_door(case: Case, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("")
    for name, command in case.commands(tmp_path / "out").items():
        answer = case.invoke(*command, "--plugin", tmp_path / "other.py")
        assert "names the plug-in mine.py" in str(answer.exception), name
        assert not case.mark.exists()


def test_case_14_a_copy_that_was_changed_is_not_offered(case: Case) -> None:
    manifest = read_json(case.run / "manifest.json")
    (case.run / "code" / "0_mine" / "trusted_helper.py").write_text("FACTOR = 3\n")
    assert not unchanged(manifest["code"][0], case.run)
    answer = case.invoke("generate", case.run, "--prompt", "the")
    assert "--plugin mine.py" in str(answer.exception)


def test_case_14_the_users_own_file_is_offered_first(case: Case) -> None:
    copy = case.run / "code" / "0_mine" / "mine.py"
    shutil.copy(copy, "mine.py")
    assert "--plugin mine.py" in str(case.invoke("report", case.run).exception)
    Path("mine.py").write_text("# another\n")
    assert f"--plugin {copy}" in str(case.invoke("report", case.run).exception)


def test_case_14_tables_take_plugins_and_run_no_others(case: Case, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(f"import pathlib\npathlib.Path({str(case.mark)!r}).touch()")
    assert case.invoke("table").exit_code == 0 and not case.mark.exists()
    case.invoke("table", "abc/table1", "--runs", case.run)
    assert not case.mark.exists()
    assert case.invoke("table", "--plugin", tmp_path / "other.py").exit_code == 0
    assert case.mark.exists()


def test_case_14_the_function_that_paid_a_run_is_known_without_running_it(
    case: Case, place: Path, tmp_path: Path
) -> None:
    """Its content is in the manifest; the file that the configuration names is only read."""
    trap = f"import pathlib\npathlib.Path({str(case.mark)!r}).touch()\n"
    Path("pay.py").write_text(trap + "def score(prompts, responses):\n    return [1.0]\n")
    copy = case.run / "code" / "1_pay" / "pay.py"
    flags = ["--plugin", case.run / "code" / "0_mine" / "mine.py", "--prompts", 2]
    own = tmp_path / "own.py"
    own.write_text("def score(prompts, responses):\n    return [0.0] * len(responses)\n")

    def compare(oracle: Path) -> Result:
        command = ["judge", "compare", case.run, case.other, "--oracle", f"{oracle}:score"]
        return case.invoke(*command, *flags, "--out", tmp_path / "out")

    manifest: dict[str, Any] = read_json(case.run / "manifest.json")
    identity = FunctionJudge(function=f"{copy}:score").identity()
    write_json(
        case.run / "manifest.json", manifest | {"identity": {"inputs": {"scorer": identity}}}
    )
    assert "was trained on it" in str(compare(copy).exception)
    case.mark.unlink(missing_ok=True)
    (case.run / "code" / "0_mine" / "mine.py").write_text("")
    assert compare(own).exit_code == 0
    assert not case.mark.exists(), "pay.py of the working folder was run"


def test_case_14_a_process_of_our_own_is_handed_its_list(case: Case) -> None:
    """What a command passes to a worker needs no naming a second time."""
    copy = str(case.run / "code" / "0_mine" / "mine.py")
    text = (case.run / "config.yaml").read_text("utf-8").replace("- mine.py", f"- {copy}")
    load_plugins([])
    assert configuration.read(io.StringIO(text)).plugins == [copy] == NAMED
    assert case.mark.exists()


def test_case_14_a_run_goes_on_with_its_own_copy(case: Case) -> None:
    copy = str(case.run / "code" / "0_mine" / "mine.py")
    load_plugins([copy])
    config = configuration.read(case.run / "config.yaml")
    config.plugins, config.scorer = [copy], config.judge
    (entry,) = keep_code(config.named_code(), case.run)
    assert unchanged(entry, case.run) and "FACTOR" in Path(copy).read_text("utf-8")
