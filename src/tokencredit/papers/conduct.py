"""What the methods of an experiment came to, how their runs were trained, and what that took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tokencredit.papers.formats import markdown
from tokencredit.papers.frontier import DASH, named_cells
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.sources import Source
from tokencredit.statistics.curves import mean
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import rounded, with_interval

OUTCOMES: Final = {
    "policy/oracle": "gold score",
    "policy/score": "paid score",
    "policy/kl": "KL (nats)",
}
"""Measures on held-out prompts after training that are shown with their intervals."""
TEXTS: Final = {"policy/distinct_2": "distinct-2", "policy/length": "length"}
"""Further ones, whose means alone are shown."""
MEANS: Final = {
    "clip_fraction": ("tokens clipped", "{:.0%}"),
    "explained_variance": ("explained variance", "{:.2f}"),
    "return_sd": ("sd of returns", "{:.2f}"),
    "kl_share": ("KL's share of rewards", "{:.0%}"),
}
"""Columns of runs whose mean over all steps is shown, their heads, and how they are written."""
LEGEND: Final = (
    "On held-out prompts after training, with 95 % t intervals over runs: gold score, the oracle's "
    "rating, of which training sees nothing; paid score, for which the policy was trained; KL to "
    "the model it began with; distinct-2 and length of responses. "
    "Means over all steps of training, then over runs: tokens whose ratio left the clip range; the "
    "share of the returns' variance that the critic explains; the standard deviation of returns; "
    "Σ|KL penalty| of all that is paid. Scored samples and operations (2 N for "
    f"each token that a model of N parameters reads, 6 N where it is trained) are sums. {DASH}: "
    "the cells do not hold it; in parentheses the runs that do, where not all do."
)


def conduct_table(source: Source, task: str) -> str:
    """Markdown: the method table, a row for every setting, as far as its runs say so."""
    head = ["method", "β", "tokens", "n", *OUTCOMES.values()]
    head += [*(name for name, _ in MEANS.values()), *TEXTS.values()]
    head += ["scored samples", "operations"]
    rows = []
    for setting, runs in source.of(task).items():
        row = [*named_cells(setting), str(len(runs))]
        row += [with_count(measured(runs, name), runs, name) for name in OUTCOMES]
        row += [
            over(runs, lambda run, column=column: _mean(run, column), form)  # type: ignore[misc]
            for column, (_, form) in MEANS.items()
        ]
        row += [with_count(measured(runs, name, spread=False), runs, name) for name in TEXTS]
        rows.append([*row, over(runs, scored, "{:,.0f}"), over(runs, operations, "{:.2g}")])
    return f"{LEGEND}\n\n{markdown(head, rows)}"


def measured(runs: Sequence[LoggedRun], name: str, *, spread: bool = True) -> str:
    """The mean over runs of a held-out measure, with its t interval; empty without any."""
    values = _values(runs, name)
    if not values:
        return ""
    x = mean_ci(values)
    return with_interval(x) if spread and x.n > 1 else rounded(x.mean)


def with_count(text: str, runs: Sequence[LoggedRun], name: str) -> str:
    """A measure as it is shown, and of how many runs it is if not of all; a dash without any."""
    known = len(_values(runs, name))
    return (f"{text} ({known})" if known < len(runs) else text) if known else DASH


def over(runs: Sequence[LoggedRun], of: Callable[[LoggedRun], float | None], form: str) -> str:
    """The mean over the runs that have the number; how many they are, if not all."""
    known = [value for run in runs if (value := of(run)) is not None]
    some = f" ({len(known)})" if 0 < len(known) < len(runs) else ""
    return form.format(mean(known)) + some if known else DASH


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


def scored_before(run: LoggedRun) -> tuple[float, float] | None:
    """Responses that were scored before the first step, and in each step; None where unknown.

    Before it: the pairs of a DPO model that the run reads, and reference scores.
    """
    total, steps = scored(run), len(run)
    if total is None or steps == 0:
        return None
    identity: Mapping[str, Mapping[str, object]] = run.origin.made.identity or {}
    algorithm = identity.get("inputs", {}).get("algorithm")
    if not isinstance(algorithm, Mapping) or "batch_size" not in algorithm:
        return 0.0, total / steps
    each = float(algorithm["batch_size"])
    if algorithm.get("class") == "ReMax":  # a greedy response beside those of each prompt
        each += each // float(algorithm.get("samples_per_prompt", 1))
    before = total - steps * each
    return (before, each) if before >= 0 else None


def operations(run: LoggedRun) -> float | None:
    """The operations that all steps of a run needed; None where they were not logged."""
    logged = run.columns.get("flops", ())
    return sum(logged) if len(logged) == len(run) > 0 else None


def _mean(run: LoggedRun, column: str) -> float | None:
    logged = run.first(len(run), column)
    return mean(logged) if logged else None


def _values(runs: Sequence[LoggedRun], name: str) -> list[float]:
    found = [run.origin.evaluation[name] for run in runs if name in run.origin.evaluation]
    return [float(measure["mean"]) for measure in found]
