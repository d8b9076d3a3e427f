"""The process that measures: `python -m tokencredit.bench.run < request.json > result.json`."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TextIO

import torch

from tokencredit.bench.ceiling import Ceiling
from tokencredit.bench.iteration import Loop
from tokencredit.bench.plan import Pass, executed, flops, padding, plan, unpadded
from tokencredit.bench.workload import Work
from tokencredit.console import say
from tokencredit.machine.child import die_with_parent
from tokencredit.machine.memory import peak_mb, reset_peak, resident_mb
from tokencredit.pipeline.worker import hush


def settle() -> None:
    """Collect garbage, and let the C library give freed memory back; in runs it keeps it.

    Otherwise what was used while models were built would hide as much of what iterations use.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


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


SETTINGS: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
"""Variables of the environment that speed and memory depend on."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be measured."""

    work: Work
    iterations: int = 5
    warm_up: int = 1
    """Iterations before those that count."""
    ceiling: bool = True
    """Whether the matrix products alone are timed as well, in every round."""
    progress: bool = True
    """Whether every round is told on standard error."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Request:
        """What `plain` was made from."""
        return cls(**{**plain, "work": Work.of(plain["work"])})


def claim_stdout() -> TextIO:
    """Standard output for results alone; what libraries print goes to standard error."""
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return out


def measure(request: Request, tell: Tell) -> dict[str, Any]:
    """Rounds of an iteration and, beside it, its matrix products; everything as plain data."""
    tell = tell if request.progress else _nothing
    work, size = request.work, request.work.size
    meter, loop = Meter(), Loop(work)
    meter.start()
    idle = meter.before_mb
    plans = [plan(work, executed(work, n)) for n in range(request.warm_up + request.iterations)]
    passes = [one for each in plans for phase in each.values() for one in phase]
    pair = Pair(loop, Ceiling(size, passes) if request.ceiling else None, meter)
    meter.start()  # the buffers of the products are no part of what an iteration takes
    tell(f"models of {loop.parameters / 1e6:.1f} M parameters; {len(plans)} rounds")
    clock = Clock(len(plans), tell)
    rounds = []
    for step, each in enumerate(plans):
        rounds.append(pair.round(step, each))
        clock.tick(rounds[-1], warm_up=step < request.warm_up)
    needed = plan(work, unpadded(work))
    return {
        "request": request.plain(),
        "parameters": loop.parameters,
        "needed_flops": {phase: flops(size, needed[phase]) for phase in needed},
        "idle_mb": idle,
        "peak_resets": meter.resets,
        "threads": torch.get_num_threads(),
        "settings": {name: os.environ.get(name) for name in SETTINGS},
        "warm_up": rounds[: request.warm_up],
        "rounds": rounds[request.warm_up :],
    }


def _nothing(_: str) -> None:
    """Say nothing of progress."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An iteration and its matrix products, timed one after the other."""

    loop: Loop
    ceiling: Ceiling | None
    meter: Meter

    def round(self, step: int, plans: Mapping[str, Sequence[Pass]]) -> dict[str, Any]:
        """Both; which comes first alternates, since a machine's speed drifts.

        Numbers of one round can be compared. Raises RuntimeError where the iteration did other work
        than was planned.
        """
        work = self.loop.work
        bound = self._bound(plans) if step % 2 else None
        self.meter.again()
        taken = self.loop.iterate(step)
        peak = self.meter.above_mb()
        if taken.response_tokens != work.response_tokens:
            raise RuntimeError(f"{taken.response_tokens} tokens, not {work.response_tokens}")
        return {
            "step": step,
            **taken.plain(),
            "padding": padding(work, plans),
            "peak_above_idle_mb": peak,
            "executed_flops": {phase: flops(work.size, plans[phase]) for phase in plans},
            "ceiling_first": bound is not None,
            "ceiling": bound or self._bound(plans),
        }

    def _bound(self, plans: Mapping[str, Sequence[Pass]]) -> dict[str, float] | None:
        if self.ceiling is None:
            return None
        return {phase: self.ceiling.seconds(passes) for phase, passes in plans.items()}


class Clock:
    """Tells how long a round took and how long the rest will take."""

    def __init__(self, count: int, tell: Tell) -> None:
        """`count` rounds, warm-up included."""
        self.count, self.tell, self.done = count, tell, 0
        self.began = time.perf_counter()

    def tick(self, found: Mapping[str, Any], *, warm_up: bool) -> None:
        """A round has ended."""
        self.done += 1
        each = (time.perf_counter() - self.began) / self.done
        bound = found["ceiling"]
        products = "" if bound is None else f", products alone {sum(bound.values()):.2f} s"
        self.tell(
            f"{'warm-up' if warm_up else 'round'} {self.done}/{self.count}: "
            f"{found['whole']:.2f} s (generation {found['generation']:.2f}, scoring "
            f"{found['scoring']:.2f}, optimisation {found['optimisation']:.2f}){products}; "
            f"about {each * (self.count - self.done):.0f} s left"
        )


def main() -> int:
    """Read a request, measure, write the result as one line."""
    die_with_parent()
    hush()
    out = claim_stdout()
    out.write(json.dumps(measure(Request.of(json.load(sys.stdin)), say)) + "\n")
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
