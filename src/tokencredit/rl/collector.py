"""Rollouts and judgements of a whole batch; its chunks are dealt to the processes of the run.

A chunk is generated, scored, and judged by one process as a whole, with padding of its own, so its
tokens and numbers are the same to the bit whichever process gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tokencredit.judges.judge import OpenJudge
from tokencredit.ops import without_gradient
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Prompts, Rollout

Speaker = Callable[[Prompts], Rollout]


@dataclass(slots=True)
class Collector:
    """Deals chunks of prompts and gathers what became of them."""

    world: World
    judge: OpenJudge
    chunk: int

    def collect(self, prompts: Prompts, speak: Speaker) -> tuple[Rollout, Judgement]:
        """The responses of `speak` to all prompts, judged; the same in every process, on the CPU.

        `speak` is called once a chunk, without gradient.
        """
        own = [
            (number, *self._one(prompts[rows].to(self.world.device), speak))
            for number, rows in enumerate(torch.arange(len(prompts)).split(self.chunk))
            if number % self.world.size == self.world.rank
        ]
        parts = sorted(self.world.gather(own), key=lambda part: part[0])
        rollouts = [rollout for _, rollout, _ in parts]
        judgements = [judgement for _, _, judgement in parts]
        return Rollout.concatenate(rollouts), Judgement.concatenate(judgements)

    @without_gradient
    def _one(self, prompts: Prompts, speak: Speaker) -> tuple[Rollout, Judgement]:
        rollout = speak(prompts)
        return rollout.to("cpu"), self.judge(rollout).to("cpu")
