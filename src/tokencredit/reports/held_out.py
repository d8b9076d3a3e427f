"""What results.json says of held-out prompts, as tables of text."""

from __future__ import annotations

from typing import Final

from tokencredit.statistics.intervals import Interval, apart
from tokencredit.statistics.rounding import interval, rounded, with_error
from tokencredit.store.files import reading
from tokencredit.store.run_folder import RESULTS, RunFolder

MEASURES: Final = "on held-out prompts, mean ± standard error"
SCORERS: Final = "scorers on held-out texts cut to the length of responses, mean ± standard error"


def measured(run: RunFolder) -> list[tuple[str, list[list[str]]]]:
    """Return the tables that there are, each below its title; none without an evaluation."""
    tables = [(MEASURES, evaluation_table(run)), (SCORERS, scorer_table(run))]
    return [(title, table) for title, table in tables if table]


def evaluation_table(run: RunFolder) -> list[list[str]]:
    """Return policy beside SFT on held-out prompts, header first; empty without evaluation."""
    with reading(run.path / RESULTS):
        evaluation = {
            name: Interval(*(float(x["mean"]),) * 3, float(x["se"]), int(x["n"]))
            for name, x in run.results.get("evaluation", {}).items()
        }
    if not evaluation:
        return []
    rows = [["", "SFT", "policy", "standard errors apart"]]
    for measure in dict.fromkeys(name.partition("/")[2] for name in evaluation):
        sft, policy = evaluation.get(f"sft/{measure}"), evaluation.get(f"policy/{measure}")
        known = sft and policy and min(sft.n, policy.n) > 1 and sft.se + policy.se > 0
        distance = f"{apart(policy, sft):+.1f}" if sft and policy and known else "-"
        rows.append([measure, _with_error(sft), _with_error(policy), distance])
    return rows


def scorer_table(run: RunFolder) -> list[list[str]]:
    """Return how often the scorers are right of short texts, header first; empty if unknown."""
    with reading(run.path / RESULTS):
        rows = [
            [
                name.replace("_", " "),
                with_error(x["mean"], x["se"]),
                interval(x["low"], x["high"]),
                str(x["n"]),
                f"{x['tokens']:.1f}",
            ]
            for name, x in run.results.get("scorers", {}).items()
        ]
    return [["", "accuracy", "95 % interval", "n", "tokens"], *rows] if rows else []


def _with_error(x: Interval | None) -> str:
    if x is None:
        return "-"
    return with_error(x.mean, x.se) if x.n > 1 and x.se > 0 else rounded(x.mean)
