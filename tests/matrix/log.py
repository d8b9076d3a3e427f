"""The committed log of the matrix: what was found, by what, and of which engine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from matrix.cells import HARDWARE, KINDS, RESUMED
from matrix.compare import HEAD, Finding
from tokencredit.store.artifacts import environment
from tokencredit.store.run_folder import git_commit

ROOT: Final = Path(__file__).parents[2]
LOG: Final = ROOT / "experiments" / "benchmarks" / "measured" / "matrix.txt"
ENGINE: Final = (
    "hardware.py",
    *(f"rl/{name}.py" for name in ("world", "zero", "engine", "slices", "collector", "update")),
    "rl/micro_batches.py",
)
"""What decides how several processes compute, below src/tokencredit/."""


def engine_sha256() -> str:
    """Of the contents of these files."""
    digest = hashlib.sha256()
    for name in ENGINE:
        digest.update((ROOT / "src" / "tokencredit" / name).read_bytes())
    return digest.hexdigest()


def resumed(kind: str) -> str:
    """The name of the cell that goes on in other processes."""
    return f"{kind}, {' → '.join(hardware for hardware, _ in RESUMED)}"


def names(kind: str | None = None) -> list[str]:
    """Of the cells of a kind, or of all."""
    if kind is None:
        return [name for each in KINDS for name in names(each)]
    return [*(f"{kind}, {hardware}" for hardware in HARDWARE[kind]), resumed(kind)]


def text(findings: Iterable[Finding]) -> str:
    """The log."""
    versions = environment()
    known = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return "\n".join(
        [
            "make matrix: two processes of one machine against one, largest differences",
            f"commit {git_commit()}, {platform.machine()}; {known}",
            f"engine {engine_sha256()}",
            "",
            HEAD,
            *(finding.line() for finding in findings),
            "",
        ]
    )
