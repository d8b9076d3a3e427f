"""Resident memory of this process, where the system tells (Linux)."""

from __future__ import annotations

import ctypes
import gc
import sys
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")


def resident_mb() -> float | None:
    """What this process holds now."""
    return _status("VmRSS")


def peak_mb() -> float | None:
    """The most it has held since `reset_peak`, or since its start where that is refused."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let the peak start again from now; False where the system does not permit it."""
    try:
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def settle() -> None:
    """Collect garbage, and let the C library give freed memory back, which it else keeps in runs.

    Otherwise what was used while models were built would hide as much of what iterations use.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


def _status(name: str) -> float | None:
    try:
        lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) / 1024 if found else None


@dataclass(slots=True)
class Meter:
    """The memory that iterations take above what stood before them."""

    before_mb: float | None = None
    resets: bool = False

    def start(self) -> None:
        """What is held from here on counts; what was held before and freed is given back."""
        settle()
        self.before_mb = resident_mb()
        self.again()

    def again(self) -> None:
        """Let the peak start again; where that is refused, it stays that of the whole process."""
        self.resets = reset_peak()

    def above_mb(self) -> float | None:
        """The peak since `again`, above what was held at `start`; None where it is not told."""
        peak = peak_mb()
        return None if peak is None or self.before_mb is None else peak - self.before_mb
