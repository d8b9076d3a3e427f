"""Watching a borrowed trainer: how far it is, and its loss at every step."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tokencredit.console import say
from tokencredit.tracking.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback

POINTS: Final = 200
"""Most points of a curve that is kept; of longer stages each is a mean over several steps."""


class LossCurve:
    """The training loss of each optimizer step.

    It looks on: the trainer's own logging would add its losses up in another order.
    """

    def __init__(self, trainer: Any) -> None:
        """Watch `trainer`, which has not begun."""
        self._losses: dict[int, Tensor] = {}
        inner = trainer.training_step

        def training_step(*arguments: Any, **options: Any) -> Tensor:
            loss: Tensor = inner(*arguments, **options)
            step = int(trainer.state.global_step)  # a step has as many losses as passes
            part = loss.detach()
            self._losses[step] = self._losses[step] + part if step in self._losses else part
            return loss

        trainer.training_step = training_step

    def points(self) -> Mapping[str, list[Any]]:
        """`step`, the number of steps done, and `loss`, the mean since the point before."""
        losses = [float(self._losses[step]) for step in sorted(self._losses)]
        width = -(-len(losses) // POINTS) or 1
        parts = [losses[start : start + width] for start in range(0, len(losses), width)]
        ends = [min((place + 1) * width, len(losses)) for place in range(len(parts))]
        return {"step": ends, "loss": [sum(part) / len(part) for part in parts]}


def progress_callback(label: str, seconds_between: float = 5.0) -> TrainerCallback:
    """A callback that shows a trainer's progress: a live bar on a terminal, else a line with the
    time left every few seconds."""
    from transformers import TrainerCallback

    class Shown(TrainerCallback):  # type: ignore[misc]
        """Steps done, of how many, and the time left."""

        started = last = 0.0
        bar: Progress | None = None

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
            self.started = self.last = time.monotonic()
            bar = Progress(state.max_steps, 0, label)
            if bar.is_live:
                self.bar = bar.__enter__()
                atexit.register(bar.close)  # an error must not leave the terminal without cursor

        def on_step_end(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
            if self.bar is not None:
                self.bar.update(state.global_step - 1, {})
                return
            now = time.monotonic()
            if now - self.last < seconds_between and state.global_step < state.max_steps:
                return
            self.last = now
            left = (now - self.started) / state.global_step * (state.max_steps - state.global_step)
            say(f"{label}: step {state.global_step}/{state.max_steps}, {left:.0f} s left")

        def on_train_end(self, *_: Any, **__: Any) -> None:
            if self.bar is not None:
                self.bar.close()

    return Shown()
