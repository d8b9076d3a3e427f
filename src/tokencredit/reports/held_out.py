"""What the policies of committed cells came to on held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tokencredit.reports.formats import markdown
from tokencredit.reports.runs import LoggedRun
from tokencredit.reports.sources import Source, lengths
from tokencredit.reports.statistics import mean_ci

MEASURES: Final = {
    "score": "score",
    "oracle": "oracle's rating",
    "kl": "KL (nats)",
    "distinct_2": "distinct-2",
    "length": "length",
}


def held_out_table(source: Source, task: str) -> str:
    """Markdown: mean over runs of each measure with its 95 % t interval; SFT's mean below."""
    groups = source.of(task)
    known = [r for runs in groups.values() for r in runs if r.origin.evaluation]
    present = [m for m in MEASURES if any(f"policy/{m}" in r.origin.evaluation for r in known)]
    head = ["method", "β", "tokens", "n", *(MEASURES[m] for m in present)]
    rows = []
    for setting, runs in groups.items():
        finished = [run for run in runs if run.origin.evaluation]
        beta = "" if setting.beta is None else f"{setting.beta:g}"
        fixed = [setting.method, beta, lengths(setting), str(len(finished))]
        rows.append([*fixed, *(_cell(finished, f"policy/{m}") for m in present)])
    if known:
        reference = [_cell(known, f"sft/{m}", spread=False) for m in present]
        rows.append(["SFT", "", "", "", *reference])
    return markdown(head, rows)


def _cell(runs: Sequence[LoggedRun], name: str, *, spread: bool = True) -> str:
    values = [r.origin.evaluation[name]["mean"] for r in runs if name in r.origin.evaluation]
    if not values:
        return ""
    x = mean_ci(values)
    return f"{x.mean:.2f} [{x.low:.2f}, {x.high:.2f}]" if spread and x.n > 1 else f"{x.mean:.2f}"
