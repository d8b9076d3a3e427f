"""What the numbers depend on beside the programs."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import workload


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else "unknown processor"


def describe(iterations: int) -> dict[str, Any]:
    """The machine and the day."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": workload.THREADS,
        "load_before": os.getloadavg()[0],
        "iterations": iterations,
        "date": datetime.now(UTC).date().isoformat(),
    }
