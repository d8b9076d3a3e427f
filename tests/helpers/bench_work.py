"""Iterations small enough to be measured in a test."""

from __future__ import annotations

from typing import Any

from tokencredit.bench.workload import Architecture, Size, Work


def small(architecture: str = "gpt2", **fields: Any) -> Work:
    """Two layers, 32 wide, and rows of equal lengths unless said otherwise."""
    rows = {"prompt_lengths": (5,) * 6, "response_lengths": (4,) * 6}
    size = Size(architecture=Architecture(architecture), layers=2, width=32, vocabulary=50)
    return Work(**{**rows, "size": size, "epochs": 2, "minibatch": 3, **fields})


def uneven(architecture: str = "gpt2") -> Work:
    """Rows of other lengths, in micro-batches."""
    return small(
        architecture,
        prompt_lengths=(3, 7, 5, 2, 6, 4, 7, 3, 5),
        response_lengths=(4, 1, 6, 2, 9, 3, 5, 8, 2),
        minibatch=5,
        micro_batch=2,
        seed=3,
    )


def timed_round(step: int, whole: float, **fields: Any) -> dict[str, Any]:
    """What a round says: a fifth generation, three tenths scoring, half optimisation."""
    parts = {"generation": 0.2 * whole, "scoring": 0.3 * whole, "optimisation": 0.5 * whole}
    return {
        "step": step,
        "whole": whole,
        **parts,
        "response_tokens": 100,
        "optimizer_steps": 4,
        "weight_change": 1e-5,
        "padding": {"generation": 0.0, "scoring": 0.1, "optimisation": 0.2, "whole": 0.15},
        "peak_above_idle_mb": 50.0 + step,
        "executed_flops": {"generation": 10, "scoring": 30, "optimisation": 120},
        "ceiling_first": False,
        "ceiling": {"generation": 0.1, "scoring": 0.1, "optimisation": 0.3},
        **fields,
    }


def result(*rounds: dict[str, Any]) -> dict[str, Any]:
    """A measurement with these rounds after a warm-up."""
    return {
        "request": {
            "work": small().plain(),
            "iterations": len(rounds),
            "warm_up": 1,
            "ceiling": True,
            "progress": True,
        },
        "parameters": 12_000_000,
        "needed_flops": {"generation": 10, "scoring": 27, "optimisation": 100},
        "idle_mb": 400.0,
        "peak_resets": True,
        "threads": 1,
        "settings": {},
        "warm_up": [timed_round(0, 9.0)],
        "rounds": list(rounds),
    }
