"""Frozen models between their uses: whole or in shards, on their device or beside it.

Reference and judges make passes in rollouts and evaluations alone, and not every process makes
equally many. So they are brought together as a whole for as long as one of these lasts, and need no
hooks in between; what a judge hooks into itself is as it is in one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from tokencredit.hardware import FrozenModels
from tokencredit.rl.world import World
from tokencredit.rl.zero import divide, gathered


class Frozen:
    """The frozen models of a run, each once."""

    def __init__(self, models: Sequence[torch.nn.Module], world: World) -> None:
        """`models` are whole, on their device, and are put away; called by every process."""
        self.models = list({id(model): model for model in models}.values())
        self.sharded = world.hardware.frozen is FrozenModels.sharded
        self.away = world.hardware.offload_frozen
        self.device, self._inside = world.device, False
        for model in self.models:
            if self.sharded:
                divide(model, world.hardware)
            elif self.away:
                model.to("cpu")

    @contextmanager
    def whole(self) -> Iterator[bool]:
        """All of them in this process and on its device while the context lasts; what it gives says
        whether they were brought there for it."""
        moved = (self.sharded or self.away) and bool(self.models) and not self._inside
        if not moved:
            yield False
            return
        self._inside = True
        try:
            with ExitStack() as together:
                for model in self.models:
                    if self.sharded:
                        together.enter_context(gathered(model))
                    else:
                        together.callback(model.to, "cpu")
                        model.to(self.device)
                yield True
        finally:
            self._inside = False
