"""The peers' own virtual environments: made where they are missing, kept where they are right."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
VARIABLE = "TOKENCREDIT_PEER_ENVS"
PEERS = {"trl-0.11.4": "serve_trl_0_11_4.py", "trl-0.29.1": "serve_trl_0_29_1.py"}
"""Environments and the scripts that run in them."""


class SetupFailed(Exception):
    """An environment could not be made."""


def default_folder() -> Path:
    """Where environments lie: $TOKENCREDIT_PEER_ENVS, or .envs beside this file."""
    return Path(os.environ.get(VARIABLE) or HERE / ".envs").expanduser()


def requirements(name: str) -> Path:
    """The pins of an environment."""
    return HERE / f"requirements-{name}.txt"


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of an environment, there or not."""
    return folder / name / "bin" / "python"


def is_complete(name: str, folder: Path) -> bool:
    """Whether the environment was made from the pins of today."""
    stamp = folder / name / "complete"
    return (
        stamp.is_file()
        and stamp.read_text(encoding="ascii") == _wanted(name)
        and python_of(name, folder).exists()
    )


def ensure(name: str, folder: Path) -> Path:
    """Make the environment unless it is complete; its interpreter. Raises `SetupFailed`."""
    python = python_of(name, folder)
    if is_complete(name, folder):
        return python
    print(f"setting up {folder / name}, some minutes", file=sys.stderr)
    stamp = folder / name / "complete"
    stamp.unlink(missing_ok=True)
    if not python.exists():
        _run(name, sys.executable, "-m", "venv", str(folder / name))
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    pins = requirements(name).read_text(encoding="utf-8").splitlines()
    _run(name, *pip, next(line for line in pins if line.startswith("torch==")))
    _run(name, *pip, "-r", str(requirements(name)))
    stamp.write_text(_wanted(name), encoding="ascii")
    return python


def _wanted(name: str) -> str:
    return sha256(requirements(name).read_bytes()).hexdigest()


def _run(name: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SetupFailed(f"{name}: {' '.join(command[:4])} failed: {last[0]}")


if __name__ == "__main__":
    for each in sys.argv[1:] or PEERS:
        print(ensure(each, default_folder()))
