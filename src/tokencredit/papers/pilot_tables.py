"""A tuning as people read it: on an experiment's page, and where the command ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokencredit.papers.formats import markdown
from tokencredit.papers.pilot_files import read_pilots, read_terms
from tokencredit.papers.pilots import (
    FINALISTS,
    MOST_WHOLE,
    Means,
    Pilot,
    Terms,
    choose,
    ranking,
    trials,
)
from tokencredit.statistics.rounding import rounded

HEAD: Final = ("method", "point", "round", "runs", "oracle", "KL", "clipped", "distinct-2", "")


def tuning_text(rows: Path) -> str:
    """Terms and points of the tuning in that file, for a page.

    That there is none is said where the file is not there; while runs are missing, how many are.
    """
    if not rows.is_file():
        return "*No method was tuned: there are no pilot runs.*"
    found, terms = read_pilots(rows), read_terms(rows)
    controls = [f"{control} has the point of {leader}" for control, leader in terms.follows.items()]
    said = " ".join([*terms_text(terms), *([f"{', '.join(controls)}."] if controls else [])])
    missing = set(trials(found, terms)) - {row.trial for row in found}
    if missing:
        there = f"{len(found)} pilot runs have ended, at least {len(missing)} more are to come"
        return f"{said}\n\n*Tuning goes on: {there}, and no point is chosen.*"
    return f"{said}\n\n{pilots_table(found, terms)}"


def terms_text(terms: Terms) -> list[str]:
    """The two rounds, the extension, and the rule of the choice, each a line."""
    first, whole, start = terms.first_steps, terms.steps, terms.seeds[0]
    most = max(map(len, terms.grids.values()))
    others = " and ".join(map(str, terms.seeds[1:]))
    rounds = (
        f"Round 1: every point, seed {start}, {first} of {whole} steps. Round 2: the best "
        f"{FINALISTS} go on to step {whole}; where fewer than {FINALISTS} of any method keep the "
        f"bounds there, the next best of every method too, {MOST_WHOLE} points at most; then the "
        f"best {FINALISTS} with seeds {others}, {whole} steps."
    )
    edge = (
        f"Where a best point of round 1 lies at an edge: up to {most} more of {first} steps for "
        "every method, as many for each."
    )
    rule = (
        f"Chosen: the highest rating by the oracle with KL ≤ {terms.kl:g} nats (round 1: "
        f"{terms.largest_kl(1):.3g}, in proportion to its steps), clipped tokens ≤ "
        f"{terms.clip_fraction:.0%}, distinct-2 ≥ {terms.distinct_2:g} of SFT's; ties: lower KL."
    )
    return [rounds, edge, rule]


def pilots_table(rows: Sequence[Pilot], terms: Terms) -> str:
    """Every point of every method in Markdown: means over the seeds of a round, and the choice."""
    choices = choose(rows, terms)
    lines = []
    for method, choice in choices.items():
        for number in (1, 2):
            for means in ranking(rows, terms, method, number):
                final = number == 2 and means.point == choice.point
                said = "; ".join(filter(None, ["chosen", choice.remark()])) if final else ""
                lines.append([method, str(means.point), str(number), *_numbers(means), said])
    return markdown(HEAD, lines)


def _numbers(means: Means) -> list[str]:
    """A point's numbers as a table has them; one outside of the bounds says so."""
    if math.isnan(means.kl):
        return [str(means.runs), "failed", "–", "–", "–"]
    gold = rounded(means.gold) + " (out of bounds)" * (not means.within)
    return [
        str(means.runs),
        gold,
        rounded(means.kl, 2),
        f"{means.clip_fraction:.1%}",
        rounded(means.distinct_2),
    ]
