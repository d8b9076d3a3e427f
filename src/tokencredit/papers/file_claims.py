"""Claims that a file beside an experiment's page decides: of tokens, or of computed numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.errors import UserError
from tokencredit.papers.claims import FileClaim, Judged
from tokencredit.papers.entries import FOLDER, build
from tokencredit.papers.token_classes import ClassClaim
from tokencredit.papers.verdicts import Finding, judge, no_data, nothing
from tokencredit.statistics.intervals import mean_ci, p_value
from tokencredit.store.files import csv_rows, read_yaml

NUMBERS: Final = "numbers.csv"
COLUMNS: Final = ("claim", "seed", "value")


@dataclass(slots=True, kw_only=True)
class NumberClaim(FileClaim):
    """That a number computed for each of some drawn problems lies on one side of a bound: the t
    interval of its mean over the problems does."""

    kind: ClassVar[str] = "numbers"
    file: ClassVar[str] = NUMBERS

    bound: float
    """What the mean is compared with."""
    above: bool
    """Whether it is said to lie above the bound, else below."""

    def judged_by(self, path: Path) -> Finding:
        """The verdict of the numbers of this claim's name."""
        values = numbers_of(path).get(self.name, [])
        if len(values) < 2:
            return nothing(f"{len(values)} numbers of {self.name}")
        x = mean_ci(values)
        p = p_value(x, self.bound)
        span = f"{min(values):.2g} to {max(values):.2g}"
        text = f"mean {x.mean:.3g} [{x.low:.3g}, {x.high:.3g}], from {span}; bound {self.bound:g}"
        verdict = judge(x.low, x.high, self.bound, above=self.above, margin=self.margin)
        return Finding(verdict, f"{text}, p = {p:.2g}", x.n, p)


KINDS: Final[tuple[type[FileClaim], ...]] = (ClassClaim, NumberClaim)


def read_file_claims(paper: str) -> list[FileClaim]:
    """The claims of a paper that files decide."""
    path = FOLDER / paper / "claims.yaml"
    lists = read_yaml(path)
    return [build(kind, each, path) for kind in KINDS for each in lists.get(kind.kind, ())]


def judge_file_claims(claims: Sequence[FileClaim], folders: Mapping[str, Path]) -> list[Judged]:
    """Each claim by the file in the folder of its experiment, none corrected."""
    return [_judged(claim, folders[claim.task] / claim.file) for claim in claims]


def _judged(claim: FileClaim, path: Path) -> Judged:
    if not path.is_file():
        return Judged(claim, claim.task, "", "", no_data(f"no {claim.file} yet"), claim.task)
    found = claim.judged_by(path)
    return Judged(claim, claim.task, path.parent.as_posix(), "", found, claim.task)


def numbers_of(path: Path) -> dict[str, list[float]]:
    """The numbers of each claim, in their order; `UserError` names a line that has none."""
    found: dict[str, list[float]] = {}
    for number, line in csv_rows(path):
        try:
            value = float(line["value"])
            if not (line["claim"] and math.isfinite(value)):
                raise ValueError(f"{line['claim']!r}, {value}: is no number of a claim")
            found.setdefault(line["claim"], []).append(value)
        except (KeyError, TypeError, ValueError) as error:
            rule = f"the columns are {', '.join(COLUMNS)}"
            raise UserError(f"{path}, line {number}: {error}; {rule}") from None
    return found
