"""What is built from the repository works in an empty folder, away from the clone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from case_data import SHORT, review, write_jsonl
from case_machine import SMALL
from pages import shown_file

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(*command: str, folder: Path, **environment: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT), folder=out)
    (built,) = out.glob("tokencredit-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as pip installs it, without its dependencies."""
    place = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", str(place), str(wheel), folder=place)
    return place


def relative(folder: str, pattern: str) -> set[str]:
    """Files of the clone that match, relative to `folder`."""
    return {
        str(p.relative_to(ROOT / folder)) for p in (ROOT / folder).rglob(pattern) if p.is_file()
    }


def test_the_wheel_holds_everything_the_app_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"tokencredit/conf/{name}" for name in relative("conf", "*.yaml")}
    sources = {
        name for pattern in ("*.py", "*.html", "*.yaml") for name in relative("src", pattern)
    }
    assets = {f"tokencredit/assets/{name}" for name in relative("src/tokencredit/assets", "*")}
    assert len(configs) > 20
    assert len(sources) > 40
    assert "tokencredit/assets/tiny_base/model.safetensors" in names
    assert configs | sources | assets | {"tokencredit/py.typed"} <= names


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert len(tops) == 2
    assert "tokencredit" in tops


def test_the_app_composes_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = "import tokencredit; print(tokencredit.__file__)"
    path = str(installed)
    found = run(sys.executable, "-c", where, folder=tmp_path, PYTHONPATH=path)
    assert Path(found.strip()).is_relative_to(installed)
    command = (sys.executable, "-m", "tokencredit.train", "--cfg", "job", "reward_scheme=uniform")
    composed = run(*command, folder=tmp_path, PYTHONPATH=path)
    assert "reward_scheme:" in composed
    assert list(tmp_path.iterdir()) == []


def test_the_app_plans_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tokencredit.train", "--plan")
    planned = run(*command, folder=tmp_path, PYTHONPATH=str(installed), TOKENCREDIT_STORE="store")
    assert "miss  sft" in planned
    assert "0 hits" in planned


def test_the_judge_of_the_how_to_page_trains_its_stage_and_pays(
    installed: Path, tmp_path: Path
) -> None:
    """docs/write-a-judge.md, from an empty folder: its stage is trained once, then reused."""
    (tmp_path / "my_judge.py").write_text(shown_file("write-a-judge.md", "my_judge.py"))
    write_jsonl(tmp_path / "reviews.jsonl", (review(number, 50) for number in range(200)))
    flags = ("--plugin", "my_judge.py", "dataset=file", "dataset.path=reviews.jsonl", "judge=Mood")
    paid = ("scorer=judge", "reward_scheme=attribution", "reward_scheme.normalise=raw", "steps=2")
    environment = {"PYTHONPATH": str(installed), "TOKENCREDIT_STORE": "store"}

    def said(command: str, *more: str) -> str:
        program = (sys.executable, "-m", "tokencredit.cli", command)
        given = (*flags, *paid, *SMALL, *SHORT, *more)
        return run(*program, *given, folder=tmp_path, **environment)

    assert "causal: no reward depends on later tokens" in said("train", "run.figures=true")
    (folder,) = tmp_path.glob("runs/attribution/*")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert rows and all(any(row["rewards"][:-1]) for row in rows)
    figures = json.loads((folder / "manifest.json").read_text())["figures"]["moods"]
    assert figures["steps"] >= 1 and figures["loss"] > 0
    assert "causal: no reward depends on later tokens" in (folder / "report.html").read_text()
    assert "0 misses" in said("plan")
    later = said("plan", "judge.training.epochs=2")
    assert re.findall(r"^miss  (\w+)", later, re.MULTILINE) == ["moods", "rl"]
    other = said("plan", "algorithm.gamma=0.9")
    assert re.findall(r"^miss  (\w+)", other, re.MULTILINE) == ["rl"]
