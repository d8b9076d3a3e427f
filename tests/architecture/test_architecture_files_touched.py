"""The files that a change touched, counted in a repository that the test makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from architecture.files_touched import counted, listing, main, touched

BEFORE = ("src/a.py", "src/old.py", "src/gone.py", "README.md", "conf/train.yaml", "docs/page.md")
CHANGE = {
    "src/a.py": True,
    "src/new.py": True,
    "conf/judge/first.yaml": True,
    "conf/judge/second.yaml": False,
    "conf/judge/more/third.yaml": False,
    "conf/scheme/only.yaml": True,
    "conf/train.yaml": True,
    "src/papers/entry.yaml": True,
    "pyproject.toml": True,
    "README.md": False,
    "launch/README.md": False,
    "CHANGELOG.md": False,
    "docs/page.md": False,
    "tests/test_a.py": False,
    "tests/config/snapshots/a.yaml": False,
    "experiments/abc/a.csv": False,
}
"""What the made change writes, and whether it counts."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tags `base` and `change`; after `base` the main branch has moved on."""
    place = tmp_path_factory.mktemp("repository")

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
        subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)

    def commit(tag: str, *names: str) -> None:
        for name in names:
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{tag}\n" + "".join(f"{name} {n}\n" for n in range(9)))
        git("add", "-A")
        git("commit", "-q", "-m", tag)
        git("tag", tag)

    git("init", "-q")
    commit("base", *BEFORE)
    git("checkout", "-q", "-b", "branch")
    git("mv", "src/old.py", "src/moved.py")
    git("rm", "-q", "src/gone.py")
    commit("change", *CHANGE)
    git("checkout", "-q", "main")
    commit("later", "src/other.py")
    return place


def test_what_counts_of_a_change(repository: Path) -> None:
    found = touched("main", "change", repository)
    expected = {name for name, counts in CHANGE.items() if counts} | {"src/moved.py", "src/gone.py"}
    assert {file.path for file in counted(found)} == expected
    assert {file.path for file in found} == CHANGE.keys() | expected
    (moved,) = [file for file in found if file.before]
    assert (moved.before, moved.path) == ("src/old.py", "src/moved.py")


def test_the_list_marks_what_counts(repository: Path) -> None:
    lines = listing(touched("base", "change", repository)).splitlines()
    assert "* conf/judge/first.yaml" in lines and "  conf/judge/second.yaml" in lines
    assert "* src/moved.py (was src/old.py)" in lines and "  docs/page.md" in lines
    assert lines[-1].startswith("9 of 18 files count (not counted: tests, experiments, docs,")


def test_a_commit_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-commit"]) == 2
    assert "git cannot compare no-such-commit and HEAD" in capsys.readouterr().err
    assert main([]) == main([""]) == 2
    assert "BASE=COMMIT" in capsys.readouterr().err
