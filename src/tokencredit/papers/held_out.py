"""What the policies of committed cells came to on held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tokencredit.papers.formats import markdown
from tokencredit.papers.frontier import DASH, named_cells
from tokencredit.papers.runs import LoggedRun, Setting
from tokencredit.papers.sources import Source, lengths
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import interval, rounded, with_error, with_interval

MEASURES: Final = {
    "score": "score",
    "oracle": "oracle's rating",
    "kl": "KL (nats)",
    "distinct_2": "distinct-2",
    "length": "length",
}

ROLES: Final = {"reward_model": "reward model", "oracle": "oracle"}
ACCURACY: Final = (
    "Accuracy on held-out texts or pairs, cut to the length of responses (ties count half; "
    f"{DASH}: not measured with these cells), at"
)


def held_out_table(source: Source, task: str) -> str:
    """Markdown: mean over runs of each measure with its 95 % t interval; SFT's mean below."""
    groups = source.of(task)
    known = [r for runs in groups.values() for r in runs if r.origin.evaluation]
    present = [m for m in MEASURES if any(f"policy/{m}" in r.origin.evaluation for r in known)]
    head = ["method", "β", "tokens", "n", *(MEASURES[m] for m in present)]
    rows = []
    for setting, runs in groups.items():
        finished = [run for run in runs if run.origin.evaluation]
        fixed = [*named_cells(setting), str(len(finished))]
        rows.append([*fixed, *(_cell(finished, f"policy/{m}") for m in present)])
    if known:
        reference = [_cell(known, f"sft/{m}", spread=False) for m in present]
        rows.append(["SFT", "", "", "", *reference])
    return f"{markdown(head, rows)}\n\n{scorers_line(groups)}"


def scorers_line(groups: Mapping[Setting, Sequence[LoggedRun]]) -> str:
    """How often the scorers of runs are right of texts as short as responses, by their lengths."""
    by_length: dict[str, list[LoggedRun]] = {}
    for setting, runs in groups.items():
        by_length.setdefault(lengths(setting), []).extend(runs)
    parts = []
    for tokens, runs in by_length.items():
        said = ", ".join(f"{name} {_right(runs, role)}" for role, name in ROLES.items())
        parts.append(f"{tokens} tokens: {said}")
    return f"{ACCURACY} {'; '.join(parts)}."


def _right(runs: Sequence[LoggedRun], role: str) -> str:
    """The accuracy of one scorer with Wilson's interval; of several the mean, with Student's."""
    origins = [run.origin for run in runs if role in run.origin.scorers]
    found = list({origin.made.stage_seed: origin.scorers[role] for origin in origins}.values())
    if not found:
        return DASH
    if len(found) == 1:
        x = found[0]
        return f"{with_error(x['mean'], x['se'])} {interval(x['low'], x['high'])} of {x['n']}"
    return f"{with_interval(mean_ci([x['mean'] for x in found]))} of {len(found)} models"


def _cell(runs: Sequence[LoggedRun], name: str, *, spread: bool = True) -> str:
    values = [r.origin.evaluation[name]["mean"] for r in runs if name in r.origin.evaluation]
    if not values:
        return ""
    x = mean_ci(values)
    return with_interval(x) if spread and x.n > 1 else rounded(x.mean)
