"""Memory of this process in MiB, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

PROCESS = Path("/proc/self")


def resident_mb() -> float | None:
    """What this process holds now; None where the system does not tell."""
    return _status("VmRSS")


def peak_mb() -> float | None:
    """The most it has held since `reset_peak`, or since its start; None where that is not told."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let the peak start again from now; False where the system does not permit it."""
    try:
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> float | None:
    try:
        lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) / 1024 if found else None
