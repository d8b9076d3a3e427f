"""What a paper says of win rates, and what comparisons say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tokencredit.errors import require
from tokencredit.papers.scores import Comparison
from tokencredit.papers.verdicts import Finding, Verdict, all_of, judge, nothing
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.win_rates import Against

HALF: Final = 0.5


@dataclass(slots=True, kw_only=True)
class WinClaim:
    """That one method wins more than half of the prompts against others."""

    name: str
    """Short name."""
    says: str
    """The claim."""
    where: str
    """Where the paper has it."""
    method: str
    """Of whom it is said."""
    others: list[str]
    """Against whom; all must be beaten."""
    task: str = "win_rates"
    """The experiment with the comparison."""
    margin: float | None = None
    """A distance from one half that counts as none, stated before the runs; null: none was."""

    def __post_init__(self) -> None:
        """Check the margin."""
        possible = self.margin is None or 0 < self.margin < HALF
        require(possible, "margin", self.margin, "must lie in (0, 0.5), or be null")


def judge_wins(claim: WinClaim, comparison: Comparison) -> Finding:
    """The verdict of a comparison: all t intervals over seeds must lie above one half."""
    wanted = [claim.method, *claim.others]
    missing = [name for name in wanted if name not in comparison.methods]
    if missing:
        return nothing(f"no {', '.join(missing)} in this comparison")
    cells = comparison.matrix(wanted).cells
    return all_of(
        [_over(cells.get((claim.method, other)), other, claim.margin) for other in claim.others]
    )


def _over(found: Against | None, other: str, margin: float | None) -> Finding:
    if found is None:
        return nothing(f"against {other}: no seed in common")
    seeds = found.seeds
    if seeds is None:
        return Finding(
            Verdict.undecided, f"against {other}: {rounded(found.rate.mean)}, one run", 1
        )
    verdict = judge(seeds.low, seeds.high, HALF, above=True, margin=margin)
    return Finding(verdict, f"against {other}: {with_interval(seeds)}", seeds.n)
