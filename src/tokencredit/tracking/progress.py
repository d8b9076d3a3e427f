"""How far a run is: a live bar on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from tokencredit.closing import Closing

_STEPS_A_LINE = 10
_SECONDS_A_LINE = 10.0
_LEAST_SECONDS = 1.0
_SHOWN = {"score/mean": "score", "kl/k1": "kl"}


class Progress(Closing):
    """The progress of steps `start` to `total` - 1, shown on stderr.

    On a terminal one live line with bar, time left, score, KL, and throughput; otherwise a plain
    line every 10 steps or 10 seconds, at most one a second, and always the first and the last.
    """

    def __init__(self, total: int, start: int, label: str) -> None:
        """Prepare the display of steps `start` to `total` - 1 under `label`."""
        self.total = total
        self.label = label
        self._marks: deque[tuple[int, float]] = deque([(start, time.monotonic())], maxlen=21)
        """How much was done at which time, of the last twenty updates and before them."""
        self._line_time = -float("inf")
        self._line_step = start - _STEPS_A_LINE
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = _bar(console)
            self._task = self._bar.add_task(label, total=total, completed=start, facts="")

    @property
    def is_live(self) -> bool:
        """Whether standard error is a terminal, on which one line is drawn again and again."""
        return self._bar is not None

    def __enter__(self) -> Self:
        """Start the display."""
        if self._bar is not None:
            self._bar.start()
        return self

    def close(self) -> None:
        """Leave the terminal as it was; closing twice is allowed."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1) -> None:
        """Show that so many more are done."""
        done, _ = self._marks[-1]
        self.update(done + count - 1, {})

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` is done; of `metrics`, score, KL, and tokens per second are shown."""
        done, now = step + 1, time.monotonic()
        self._marks.append((done, now))
        facts = "  ".join([*_facts(metrics), f"{self._eta()} left"])
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=facts)
        elif self._line_is_due(step):
            width = len(str(self.total))
            print(
                f"{self.label}  {done:>{width}}/{self.total}  {facts}",
                file=sys.stderr,
                flush=True,
            )
            self._line_time, self._line_step = now, step

    def seconds_left(self) -> float:
        """Return the time left in seconds, at the mean speed of the last twenty updates."""
        (before, began), (done, now) = self._marks[0], self._marks[-1]
        if done <= before:
            return 0.0
        return (now - began) / (done - before) * max(self.total - done, 0)

    def _eta(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left()), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

    def _line_is_due(self, step: int) -> bool:
        done, now = self._marks[-1]
        if done >= self.total:
            return True
        waited = now - self._line_time
        enough = step - self._line_step >= _STEPS_A_LINE or waited >= _SECONDS_A_LINE
        return enough and waited >= _LEAST_SECONDS


def _bar(console: Console) -> Bar:
    return Bar(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
    )


def _facts(metrics: Mapping[str, float]) -> list[str]:
    shown = [f"{name} {metrics[key]:.3f}" for key, name in _SHOWN.items() if key in metrics]
    speeds = [value for key, value in metrics.items() if key.endswith("tokens_per_second")]
    return [*shown, *(f"{speed:,.0f} tokens/s" for speed in speeds[:1])]
