"""What a paper claims, and what runs say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tokencredit.errors import UserError, require
from tokencredit.papers.claim_tests import JOINT, SHARES, TESTS
from tokencredit.papers.entries import FOLDER, STATISTICS, Panel, build, task_of
from tokencredit.papers.formats import markdown
from tokencredit.papers.measures import in_words, measure
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.scores import Comparison
from tokencredit.papers.sources import Source
from tokencredit.papers.verdicts import (
    DEFINITIONS,
    Evidence,
    Finding,
    Verdict,
    all_of,
    judge,
    nothing,
)
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.win_rates import Against
from tokencredit.store.files import read_yaml, reading

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


@dataclass(slots=True, kw_only=True)
class Claim:
    """A sentence of a paper, and the statistic that decides it."""

    name: str
    """Short name."""
    says: str
    """The claim."""
    where: str
    """Where the paper has it."""
    test: str
    """Name of the statistic."""
    panels: list[Panel]
    """The runs that it is about; each is judged by itself unless the test takes all together."""
    method: str = "abc"
    """Of whom it is said."""
    baseline: str = "sparse"
    """In comparison with whom."""
    others: list[str] = field(default_factory=list)
    """Further methods of the comparison."""
    statistic: str = "mean"
    """The number of one run, as in tables."""
    share: float = 0.5
    """With passes_maximum: the share of steps that is claimed."""
    margin: float | None = None
    """A difference that counts as none, stated before the runs; null: none was."""

    def __post_init__(self) -> None:
        """Check the names."""
        require(self.test in TESTS, "test", self.test, f"must be one of {', '.join(TESTS)}")
        known = ", ".join(STATISTICS)
        require(
            self.statistic in STATISTICS, "statistic", self.statistic, f"must be one of {known}"
        )
        rule = f"must be > 0, and null with {' and '.join(SHARES)}"
        possible = self.margin is None or (self.margin > 0 and self.test not in SHARES)
        require(possible, "margin", self.margin, rule)


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim, the runs it was held against, and the finding."""

    claim: Claim | WinClaim
    task: str
    source: str
    about: str
    finding: Finding


def papers() -> list[str]:
    """The papers whose claims are in the catalogue."""
    return sorted(path.parent.name for path in FOLDER.glob("*/claims.yaml"))


def read_claims(paper: str) -> list[Claim]:
    """The claims of a paper."""
    path = FOLDER / paper / "claims.yaml"
    if not path.is_file():
        raise UserError(f"{paper}: there are no claims of it; there are those of {papers()}")
    found = []
    with reading(path):
        for given in read_yaml(path).get("claims", ()):
            panels = [build(Panel, panel, path) for panel in given["panels"]]
            found.append(build(Claim, {**given, "panels": panels}, path))
    return found


def read_win_claims(paper: str) -> list[WinClaim]:
    """The claims of a paper on win rates."""
    path = FOLDER / paper / "claims.yaml"
    return [build(WinClaim, given, path) for given in read_yaml(path).get("win_rates", ())]


def judge_win_claim(claim: WinClaim, comparisons: Sequence[Comparison]) -> list[Judged]:
    """A claim on win rates against every comparison."""
    judged = [
        Judged(claim, claim.task, c.place, c.about, judge_wins(claim, c)) for c in comparisons
    ]
    return judged or [Judged(claim, claim.task, "", "", nothing("no comparison yet"))]


def judge_claims(
    claims: Sequence[Claim], sources: Sequence[Source], points: int | None = None
) -> list[Judged]:
    """Every claim against every source; one that has no such runs is said to have none."""
    found = []
    for given in claims:
        panels = [replace(p, points=points) if points is not None else p for p in given.panels]
        claim = replace(given, panels=panels)
        judged = [item for source in sources for item in _judge(claim, source)]
        missing = nothing("not in these runs")
        found += judged or [Judged(claim, claim.panels[0].tasks[0], "", "", missing)]
    return found


def _judge(claim: Claim, source: Source) -> Iterator[Judged]:
    """The findings of a claim in a source: one for each task, or one for all panels."""
    parts = [claim.panels] if claim.test in JOINT else [[panel] for panel in claim.panels]
    for panels in parts:
        runs = [_by_method(panel, source) for panel in panels]
        if not any(runs):
            continue
        evidence = Evidence(
            panels,
            runs,
            claim.method,
            claim.baseline,
            claim.others,
            claim.statistic,
            claim.share,
            claim.margin,
        )
        every = [run for group in runs for of_method in group.values() for run in of_method]
        column = panels[0].column
        if all(column not in run.columns for run in every):
            finding = nothing(f"no {column} in these runs")
        else:
            finding = TESTS[claim.test](evidence)
        yield Judged(claim, every[0].setting.task, source.name, _scale(every), finding)


def _by_method(panel: Panel, source: Source) -> dict[str, list[LoggedRun]]:
    found: dict[str, list[LoggedRun]] = {}
    for setting, runs in source.of(task_of(panel, source)).items():
        if panel.takes(setting):
            found.setdefault(setting.method, []).extend(runs)
    return found


def _scale(runs: Sequence[LoggedRun]) -> str:
    """At which scale, with which model the runs were made; empty where that is not known."""
    known = {" ".join(filter(None, (run.origin.scale, run.origin.model))) for run in runs}
    return ", ".join(sorted(known - {""}))


def unused(judged: Sequence[Judged], sources: Sequence[Source]) -> list[str]:
    """Runs that lack the points of their claims, or did not end; they are part of no pair."""
    found = []
    for source in sources:
        curves = (item.claim for item in judged if isinstance(item.claim, Claim))
        for panel in (panel for claim in curves for panel in claim.panels):
            for method, runs in _by_method(panel, source).items():
                said = in_words(measure(runs, replace(panel, column="mean_reward")).without)
                task = task_of(panel, source)
                found += [f"{source.name}: {task}, {method}, {text}" for text in said]
    return list(dict.fromkeys(found))


def claims_text(judged: Sequence[Judged]) -> str:
    """A block for each claim, for the terminal."""
    lines, before = [], None
    for item in judged:
        if item.claim is not before and (before is None or item.claim.name != before.name):
            lines += ["", f"{item.claim.says} ({item.claim.where})"]
        before = item.claim
        lines.append(f"  {item.finding.verdict.value}: {_numbers(item)}")
    return "\n".join([*lines, "", DEFINITIONS.replace("*", "")]).strip() + "\n"


def _numbers(item: Judged) -> str:
    finding, where = item.finding, ", ".join(filter(None, (item.task, item.source, item.about)))
    n = f", n = {finding.n}" if finding.n else ""
    return f"{where}: {finding.numbers}{n}"


def claims_table(judged: Sequence[Judged]) -> str:
    """A Markdown table, for pages, below what its verdicts mean."""
    rows = [
        [
            f"{item.claim.says} ({item.claim.where})",
            f"**{item.finding.verdict.value}**",
            item.finding.numbers,
            str(item.finding.n or ""),
        ]
        for item in judged
    ]
    return f"{DEFINITIONS}\n\n{markdown(['claim', 'verdict', 'numbers', 'n'], rows)}"
