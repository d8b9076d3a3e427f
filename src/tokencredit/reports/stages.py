"""What the stages before RL learnt, and what of the data was left out, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Figures = Mapping[str, Mapping[str, Any]]
"""The figures of stages, by role."""
Table = list[list[str]]

COUNTED: Final = {
    "noted": "training records",
    "pairs_noted": "training pairs",
    "held_out_noted": "held-out pairs",
}
"""Figures that count records by reason."""
ENDS: Final = 10
"""Parts of a curve of which the first and the last are shown."""


def stage_table(figures: Figures) -> Table:
    """Return steps, training loss, and held-out numbers of each stage that has any, header first.

    The loss is the mean over the first and over the last tenth of the steps.
    """
    head = ["", "steps", "training loss", "on held-out records", "records"]
    rows = [
        [
            role.replace("_", " "),
            str(numbers.get("steps", "-")),
            _course(numbers),
            _held_out(numbers) or "-",
            str(numbers.get("held_out", "-")),
        ]
        for role, numbers in figures.items()
        if "curve" in numbers or _held_out(numbers)
    ]
    return [head, *rows] if rows else []


def left_out(
    dropped: Mapping[str, int], filtered: Mapping[str, int], figures: Figures, prompts: Any = None
) -> Table:
    """Return how many rows were left out, cut, or noted, where and for what reason, header first.

    `dropped` are unusable rows of the data, `filtered` those that a setting leaves out, `prompts`
    records that became no prompt of the RL stage.
    """
    found = [["dataset", reason, str(count)] for reason, count in dropped.items()]
    found += [["dataset", f"left out by {key}", str(count)] for key, count in filtered.items()]
    found += [row for role, numbers in figures.items() for row in _noted(role, numbers)]
    found += [["rl prompts", reason, str(count)] for reason, count in (prompts or {}).items()]
    rows = [row for row in found if row[2] != "0"]
    return [["where", "reason", "rows"], *rows] if rows else []


def curves_of(figures: Figures) -> dict[str, Mapping[str, list[float]]]:
    """Return the loss curves that the stages have: `step` and `loss`, by role."""
    return {role: numbers["curve"] for role, numbers in figures.items() if "curve" in numbers}


def _noted(role: str, numbers: Mapping[str, Any]) -> Iterator[list[str]]:
    name = role.replace("_", " ")
    for key, what in COUNTED.items():
        for reason, count in (numbers.get(key) or {}).items():
            yield [f"{name}, {what}", str(reason), str(count)]
    if numbers.get("cut"):
        yield [f"{name}, training records", "answer cut at max_length", str(numbers["cut"])]


def _course(numbers: Mapping[str, Any]) -> str:
    losses = numbers.get("curve", {}).get("loss", [])
    if not losses:
        return f"{numbers['loss']:.3f}" if "loss" in numbers else "-"
    count = max(1, len(losses) // ENDS)
    first, last = sum(losses[:count]) / count, sum(losses[-count:]) / count
    return f"{first:.3f} → {last:.3f}" if len(losses) > 1 else f"{last:.3f}"


def _held_out(numbers: Mapping[str, Any]) -> str:
    parts = []
    if "held_out_loss" in numbers:
        parts.append(f"loss {numbers['held_out_loss']:.3f}")
    if "accuracy" in numbers:
        parts.append(f"accuracy {numbers['accuracy']:.3f}{_interval(numbers, 'accuracy')}")
    margin = numbers.get("margin", numbers.get("margin_mean"))
    if margin is not None:
        parts.append(f"margin {margin:+.3f}{_interval(numbers, 'margin')}")
    return ", ".join(parts)


def _interval(numbers: Mapping[str, Any], name: str) -> str:
    low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
    return "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
