"""From rounds to medians, a table, and files."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from tokencredit.bench.workload import PHASES, Work, cores
from tokencredit.console import aligned
from tokencredit.store.artifacts import environment
from tokencredit.store.run_folder import git_commit

SHOWN: Final = (*PHASES, "whole")
HEADER: Final = (
    "",
    "seconds (least–greatest)",
    "tokens/s",
    "padding",
    "GFLOP/s",
    "ceiling",
    "share of it",
)
LEGEND: Final = """\
tokens/s: response tokens. padding: share of the tokens in forward passes that are padding.
GFLOP/s: matrix products that the work needs (trunk over prompt and response, head over response
positions, backward twice forward), without padding. ceiling: the same products alone, at the shapes
of the passes, timed in the same round; the share is taken within a round, then the median."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least, and greatest of some numbers."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """At least one number."""
        return cls(median(numbers), min(numbers), max(numbers))

    def text(self, digits: int = 2, factor: float = 1.0) -> str:
        """`median (least–greatest)`."""
        low, high = self.least * factor, self.greatest * factor
        return f"{self.median * factor:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Medians of a result, by phase and for the whole iteration."""
    rounds = result["rounds"]
    peaks = [row["peak_above_idle_mb"] for row in [*result["warm_up"], *rounds]]
    return {
        **{phase: _phase(result, phase) for phase in SHOWN},
        "idle_mb": result["idle_mb"],
        "peak_above_idle_mb": None if None in peaks else max(peaks),
        "parameters": result["parameters"],
    }


def _phase(result: Mapping[str, Any], phase: str) -> dict[str, Any]:
    rounds = result["rounds"]
    seconds = Spread.of([row[phase] for row in rounds])
    needed = _of(result["needed_flops"], phase)
    found: dict[str, Any] = {
        "seconds": asdict(seconds),
        "tokens_per_second": median(row["response_tokens"] / row[phase] for row in rounds),
        "padding": median(row["padding"][phase] for row in rounds),
        "flops_per_second": median(needed / row[phase] for row in rounds),
        "ceiling_flops_per_second": None,
        "share_of_ceiling": None,
    }
    if rounds[0]["ceiling"] is not None:
        rates = [_of(row["executed_flops"], phase) / _of(row["ceiling"], phase) for row in rounds]
        shares = [needed / row[phase] / rate for row, rate in zip(rounds, rates, strict=True)]
        found["ceiling_flops_per_second"] = median(rates)
        found["share_of_ceiling"] = asdict(Spread.of(shares))
    return found


def _of(values: Mapping[str, float], phase: str) -> float:
    return sum(values.values()) if phase == "whole" else values[phase]


def table(result: Mapping[str, Any]) -> str:
    """The summary of one result in lines."""
    found = summary(result)
    rows = [HEADER, *(_row(phase, found[phase]) for phase in SHOWN)]
    count = len(result["rounds"])
    memory = found["peak_above_idle_mb"]
    lines = [
        "",
        Work.of(result["request"]["work"]).text(),
        f"{found['parameters'] / 1e6:.1f} M parameters; "
        + ("one iteration" if count == 1 else f"medians of {count} iterations"),
        "",
        *aligned(rows),
        "",
        "peak resident memory above the idle process: "
        + ("not told by this system" if memory is None else f"{memory:.0f} MB")
        + ("" if found["idle_mb"] is None else f" (idle: {found['idle_mb']:.0f} MB)"),
        "",
        LEGEND,
    ]
    return "\n".join(lines)


def _row(phase: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    rate, share = found["ceiling_flops_per_second"], found["share_of_ceiling"]
    return (
        phase,
        Spread(**found["seconds"]).text(3),
        f"{found['tokens_per_second']:,.0f}",
        f"{100 * found['padding']:.1f} %",
        f"{found['flops_per_second'] / 1e9:.1f}",
        "–" if rate is None else f"{rate / 1e9:.1f}",
        "–" if share is None else Spread(**share).text(0, 100) + " %",
    )


def provenance() -> dict[str, Any]:
    """What the numbers depend on beside the request."""
    return {
        "schema_version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": cores(),
        "load_before": os.getloadavg()[0],
        "environment": environment(),
        "git_commit": git_commit(),
    }


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"
