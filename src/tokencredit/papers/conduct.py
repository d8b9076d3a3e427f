"""How runs were trained: what a reader must know before comparing what they came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tokencredit.papers.formats import markdown
from tokencredit.papers.frontier import DASH, named_cells
from tokencredit.papers.measures import mean
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.sources import Source

MEANS: Final = {
    "clip_fraction": ("tokens clipped", "{:.0%}"),
    "explained_variance": ("explained variance", "{:.2f}"),
    "return_sd": ("sd of returns", "{:.2f}"),
    "kl_share": ("KL's share of rewards", "{:.0%}"),
}
"""Columns of runs whose mean over all steps is shown, their heads, and how they are written."""
LEGEND: Final = (
    "Means over all steps of training, then over runs: tokens whose ratio left the clip range; the "
    "share of the returns' variance that the critic explains; the standard deviation of returns; "
    "Σ|KL penalty| of all that is paid. Scored samples and operations (2 N for "
    f"each token that a model of N parameters reads, 6 N where it is trained) are sums. {DASH}: "
    "the cells do not hold it."
)


def conduct_table(source: Source, task: str) -> str:
    """Markdown: for every setting how its runs were trained, as far as they say so."""
    head = ["method", "β", "tokens", "n", *(name for name, _ in MEANS.values())]
    head += ["scored samples", "operations"]
    rows = []
    for setting, runs in source.of(task).items():
        row = [*named_cells(setting), str(len(runs))]
        row += [
            _over(runs, lambda run, column=column: _mean(run, column), form)  # type: ignore[misc]
            for column, (_, form) in MEANS.items()
        ]
        rows.append([*row, _over(runs, scored, "{:,.0f}"), _over(runs, operations, "{:.2g}")])
    return f"{LEGEND}\n\n{markdown(head, rows)}"


def scored(run: LoggedRun) -> float | None:
    """Responses that were scored to train a run; None where its cell does not say so."""
    if run.origin.scored is not None:
        return float(run.origin.scored)
    identity: Mapping[str, Mapping[str, object]] = run.origin.made.identity or {}
    algorithm = identity.get("inputs", {}).get("algorithm")
    if not isinstance(algorithm, Mapping) or "dpo" in identity.get("parents", {}):
        return None  # a DPO model's pairs were scored too, and how many is not known here
    if algorithm.get("normalise") != "none" or algorithm.get("class") == "ReMax":
        return None
    return float(len(run) * int(algorithm["batch_size"]))


def operations(run: LoggedRun) -> float | None:
    """The operations that all steps of a run needed; None where they were not logged."""
    logged = run.columns.get("flops", ())
    return sum(logged) if len(logged) == len(run) > 0 else None


def _mean(run: LoggedRun, column: str) -> float | None:
    logged = run.first(len(run), column)
    return mean(logged) if logged else None


def _over(runs: Sequence[LoggedRun], of: Callable[[LoggedRun], float | None], form: str) -> str:
    """The mean over the runs that have the number; how many they are, if not all."""
    known = [value for run in runs if (value := of(run)) is not None]
    some = f" ({len(known)})" if 0 < len(known) < len(runs) else ""
    return form.format(mean(known)) + some if known else DASH
