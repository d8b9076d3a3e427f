"""A small run folder with numbers that can be added up by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """A function that writes metrics.jsonl of the given columns."""

    def write(folder: Path, **columns: list[float]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        names = [name.replace("__", "/") for name in columns]
        rows = [
            {"step": step} | dict(zip(names, values, strict=True))
            for step, values in enumerate(zip(*columns.values(), strict=True))
        ]
        (folder / "metrics.jsonl").write_text(_lines(rows))
        return folder

    return write


@pytest.fixture
def sample_rows() -> list[dict[str, Any]]:
    """Two responses, one with text that would be markup if it were not escaped."""
    first = {
        "step": 0,
        "row": 3,
        "prompt": "I <i>saw</i>",
        "response": " <script>alert(1)</script> [red]fine[/red]",
        "score": 1.25,
        "tokens": [" <script>alert(1)</script>", " [red]fine[/red]"],
        "rewards": [0.5, -1.0],
        "shaped": [0.45, -1.1],
        "kl": [0.05, 0.1],
        "values": [0.2, 0.3],
        "advantages": [0.7, -0.7],
    }
    second = first | {
        "step": 50,
        "row": 4,
        "score": -0.5,
        "tokens": ["\x1b[2J", '"&'],
        "prompt": "B",
    }
    return [first, second]


@pytest.fixture
def complete_run(
    tmp_path: Path, write_run: Callable[..., Path], sample_rows: list[dict[str, Any]]
) -> Path:
    """Twenty-four steps: scores 0, 1, 0, 1, ... rise to 4, 5, 4, 5, ... in the second half."""
    scores = [float(t % 2 + 4 * (t >= 12)) for t in range(24)]
    run = write_run(
        tmp_path / "abc" / "key",
        score__mean=scores,
        kl__k1=[t / 2 for t in range(24)],
        kl__coef=[0.1] * 24,
    )
    timings = [
        {"step": t, "time/generate_seconds": 2.0, "time/update_seconds": 4.0, "memory/peak_mb": 9}
        for t in range(24)
    ]
    (run / "timings.jsonl").write_text(_lines(timings))
    (run / "samples.jsonl").write_text(_lines(sample_rows))
    results = {
        "scheme": "abc",
        "seeds": {"seed": 3, "stage_seed": 0},
        "status": "complete",
        "wall_seconds": 150.0,
        "metrics": {},
        "evaluation": {
            "policy/score": {"mean": 1.5, "se": 0.3, "n": 256},
            "sft/score": {"mean": 0.5, "se": 0.4, "n": 256},
            "policy/distinct_2": {"mean": 0.7, "se": 0.0, "n": 1},
            "sft/distinct_2": {"mean": 0.9, "se": 0.0, "n": 1},
            "policy/kl": {"mean": 9.5, "se": 0.2, "n": 256},
        },
        "scorers": {
            "reward_model": {
                "mean": 0.75,
                "se": 0.027,
                "low": 0.693,
                "high": 0.799,
                "n": 256,
                "tokens": 19.5,
            }
        },
    }
    (run / "results.json").write_text(json.dumps(results))
    (run / "manifest.json").write_text(
        json.dumps({"state": "complete", "key": "key", "identity": {}})
    )
    (run / "policy").mkdir()
    return run
