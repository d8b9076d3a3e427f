"""Settings of the RL stage that are not the algorithm's: evaluation, and the cadence of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokencredit.errors import require


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """What is measured after training, on prompts that nothing was trained on."""

    prompts: int = 256
    """Held-out prompts, each continued once by the policy and once by the SFT model."""
    every: int | None = None
    """Steps between evaluations on these prompts during training, of which the best policy is kept
    in policy_best/; null: none."""
    stream: int = 0
    """Names the random numbers of the evaluation; the same for every `seed`, so runs are paired."""

    def __post_init__(self) -> None:
        """Check the counts."""
        require(self.prompts >= 2, "evaluation.prompts", self.prompts, "must be >= 2")
        require(
            self.every is None or self.every >= 1,
            "evaluation.every",
            self.every,
            "must be null (only at the end) or >= 1 step",
        )


@dataclass(slots=True, kw_only=True)
class Sweep:
    """What a sweep is for, and how it treats cells that are there; not part of any key."""

    recompute: bool = False
    """Run cells again that are kept in experiments_dir; what lies in runs_dir is still reused."""
    objective: Any = None
    """What Hydra's sweeper is told of a cell: the name of a number of results.json, such as
    policy/oracle, or a list of names; NaN for a cell that failed."""

    def __post_init__(self) -> None:
        """Check the kind of the objective; `tokencredit.objective` knows which names there are."""
        several = self.objective if isinstance(self.objective, list) else [self.objective]
        require(
            self.objective is None
            or (bool(several) and all(isinstance(name, str) and name for name in several)),
            "sweep.objective",
            self.objective,
            "must be null, the name of a number of results.json, or a list of such names",
        )


@dataclass(slots=True, kw_only=True)
class Run:
    """Cadences and names; nothing in here changes a result, so nothing is part of the key."""

    save_every: int = 25
    """Steps between checkpoints."""
    sample_every: int = 20
    """Steps between saved samples."""
    samples: int = 8
    """Responses saved each time."""
    resume_inexact: bool = False
    """Continue under other threads than the run began with; the result is marked."""
    function_seconds: float | None = 600.0
    """Longest time that one call of your own function or scheme may take; null: as long as it
    likes."""
    figures: bool = True
    """Draw figures and the HTML report at the end."""
    experiment: str | None = None
    """Filled in: the experiment's name."""
    scale: str | None = None
    """Filled in: the experiment's scale; null: a run of no experiment."""
    scheme: str = ""
    """Filled in: the reward scheme's name."""

    def __post_init__(self) -> None:
        """Check the counts."""
        require(self.save_every >= 1, "run.save_every", self.save_every, "must be >= 1 step")
        require(self.sample_every >= 1, "run.sample_every", self.sample_every, "must be >= 1 step")
        require(self.samples >= 0, "run.samples", self.samples, "must be >= 0")
        require(
            self.function_seconds is None or self.function_seconds > 0,
            "run.function_seconds",
            self.function_seconds,
            "must be null (as long as it likes) or > 0",
        )
