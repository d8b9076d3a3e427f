"""The import contracts of pyproject.toml hold, and each of them can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

UPSTAIRS = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from tokencredit.train import main
"""

INTRUDERS = {
    "floors": ("rewards/uniform.py", UPSTAIRS),
    "science knows no machinery": ("rewards/sparse.py", "import transformers"),
    "composing is the business of the entry point": ("store/artifacts.py", "import omegaconf"),
    "one file knows accelerate": ("store/artifacts.py", "import accelerate"),
    "who starts DeepSpeed and who reads it know it": ("store/artifacts.py", "import deepspeed"),
    "one file knows W&B": ("store/jsonl.py", "import wandb"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the package in `folder`/src."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, ready to be broken."""
    folder = tmp_path_factory.mktemp("layers")
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "src" / "tokencredit", folder / "src" / "tokencredit", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_contracts_hold_and_each_of_them_fires(copy: Path) -> None:
    before = lint(copy)
    assert before.returncode == 0, before.stdout + before.stderr
    for name in INTRUDERS:
        assert f"{name} KEPT" in before.stdout
    for place, line in INTRUDERS.values():
        with (copy / "src" / "tokencredit" / place).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    after = lint(copy)
    assert after.returncode == 1
    for name in INTRUDERS:
        assert f"{name} BROKEN" in after.stdout
