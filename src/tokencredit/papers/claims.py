"""What a paper claims, and what runs say of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.papers.claim_tests import JOINT, SHARES, TESTS
from tokencredit.papers.entries import FOLDER, STATISTICS, Panel, build, task_of
from tokencredit.papers.formats import markdown
from tokencredit.papers.measures import holds, in_words, measure
from tokencredit.papers.runs import LoggedRun
from tokencredit.papers.scores import Comparison
from tokencredit.papers.sources import Source
from tokencredit.papers.verdicts import (
    DEFINITIONS,
    Evidence,
    Finding,
    Verdict,
    all_of,
    corrected,
    judge,
    no_data,
    nothing,
)
from tokencredit.statistics.intervals import p_value
from tokencredit.statistics.rounding import rounded, with_interval
from tokencredit.statistics.win_rates import Against
from tokencredit.store.files import read_yaml, reading

HALF: Final = 0.5
GOLD: Final = "gold_at_equal_kl"


@dataclass(slots=True, kw_only=True)
class Stated:
    """What every claim states before its runs."""

    kind: ClassVar[str]
    """The list of claims.yaml that it stands in."""

    name: str
    """Short name."""
    says: str
    """The claim."""
    where: str
    """Where the paper has it."""
    hypothesis: str = ""
    """The claim as an inequality of numbers."""
    primary: list[str] = field(default_factory=list)
    """The experiments, by their names without the paper, whose one primary claim it is."""
    margin: float | None = None
    """A distance that counts as none, stated before the runs; null: none was."""


@dataclass(slots=True, kw_only=True)
class WinClaim(Stated):
    """That one method wins more than half of the prompts against others."""

    kind: ClassVar[str] = "win_rates"

    method: str
    """Of whom it is said."""
    others: list[str]
    """Against whom; all must be beaten."""
    task: str = "win_rates"
    """The experiment with the comparison."""
    measure: str | None = None
    """Of an experiment with several scorers: the one that decides; null: each by itself."""

    def __post_init__(self) -> None:
        """Check the margin, which is a distance from one half."""
        possible = self.margin is None or 0 < self.margin < HALF
        require(possible, "margin", self.margin, "must lie in (0, 0.5), or be null")


@dataclass(slots=True, kw_only=True)
class FileClaim(Stated, ABC):
    """A claim that one file beside an experiment's page decides."""

    file: ClassVar[str]
    """The file's name."""

    task: str
    """The experiment in whose folder it lies."""

    @abstractmethod
    def judged_by(self, path: Path) -> Finding:
        """The verdict of that file, not corrected for the number of claims."""


def judge_wins(claim: WinClaim, comparison: Comparison) -> Finding:
    """The verdict of a comparison: all t intervals over seeds must lie above one half."""
    wanted = [claim.method, *claim.others]
    missing = [name for name in wanted if name not in comparison.methods]
    if missing:
        return no_data(f"no {', '.join(missing)} in this comparison")
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
    text = f"against {other}: {with_interval(seeds)}"
    return Finding(verdict, text, seeds.n, p_value(seeds, HALF))


@dataclass(slots=True, kw_only=True)
class Claim(Stated):
    """A sentence of a paper, and the statistic that decides it."""

    kind: ClassVar[str] = "claims"

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
    level: float | None = None
    """With gold_at_equal_kl: the distance from the reference, in nats."""

    def __post_init__(self) -> None:
        """Check the names."""
        fits = (self.test == GOLD) == (self.level is not None)
        require(fits, "level", self.level, f"must be nats with test={GOLD}, and null with others")
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

    claim: Stated
    task: str
    source: str
    about: str
    finding: Finding
    page: str
    """The experiment whose claim it is."""

    @property
    def primary(self) -> bool:
        """Whether it is the one claim that the experiment was run to decide."""
        return self.page in self.claim.primary


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
    held = [c for c in comparisons if claim.measure in {None, c.measure}]
    judged = []
    for c in held:
        finding = judge_wins(claim, c)
        if len(held) > 1:
            finding = replace(finding, numbers=f"{c.measure}: {finding.numbers}")
        judged.append(Judged(claim, claim.task, c.place, c.about, finding, claim.task))
    missing = no_data("no comparison yet")
    return judged or [Judged(claim, claim.task, "", "", missing, claim.task)]


def judge_claims(
    claims: Sequence[Claim], sources: Sequence[Source], points: int | None = None
) -> list[Judged]:
    """Every claim against every source; one that has no such runs is said to have none."""
    found = []
    for given in claims:
        panels = [replace(p, points=points) if points is not None else p for p in given.panels]
        claim = replace(given, panels=panels)
        judged = [item for source in sources for item in _judge(claim, source)]
        task = claim.panels[0].tasks[0]
        missing = no_data("not in these runs")
        found += judged or [Judged(claim, task, "", "", missing, task)]
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
            claim.level,
        )
        every = [run for group in runs for of_method in group.values() for run in of_method]
        column = panels[0].column
        if not any(holds(run, column, claim.statistic) for run in every):
            finding = no_data(f"no {column} in these runs")
        else:
            finding = TESTS[claim.test](evidence)
        task, page = every[0].setting.task, panels[0].tasks[0]
        yield Judged(claim, task, source.name, _scale(every), finding, page)


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
    """Runs that lack the points of their claims, or did not end; they are part of no pair.

    A model that learnt without rollouts lacks none: only claims on held-out measures are about it.
    """
    found = []
    for source in sources:
        curves = (item.claim for item in judged if isinstance(item.claim, Claim))
        for panel in (panel for claim in curves for panel in claim.panels):
            for method, runs in _by_method(panel, source).items():
                stepped = [run for run in runs if not run.stepless]
                said = in_words(measure(stepped, replace(panel, column="mean_reward")).without)
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
        rank = " (primary)" if item.primary else ""
        lines.append(f"  {item.finding.word}{rank}: {_numbers(item)}")
    return "\n".join([*lines, "", DEFINITIONS.replace("*", "")]).strip() + "\n"


def _numbers(item: Judged) -> str:
    finding, where = item.finding, ", ".join(filter(None, (item.task, item.source, item.about)))
    n = f", n = {finding.n}" if finding.n else ""
    return f"{where}: {finding.text}{n}"


def corrected_by_page(judged: Sequence[Judged]) -> list[Judged]:
    """All with their p-values corrected for the number of claims of their page, in their order.

    The claims of a page on curves and on win rates are one family; with runs of several sources,
    which are told apart, those of each source.
    """
    curves = {item.source for item in judged if isinstance(item.claim, Claim) and item.source}
    several = len(curves) > 1
    families: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(judged):
        families.setdefault((item.page, item.source if several else ""), []).append(place)
    found = list(judged)
    for places in families.values():
        family = [judged[place] for place in places]
        findings = corrected([each.finding for each in family], [each.primary for each in family])
        for place, finding in zip(places, findings, strict=True):
            found[place] = replace(judged[place], finding=finding)
    return found


def claims_table(judged: Sequence[Judged]) -> str:
    """A Markdown table, for pages, below what its verdicts mean."""
    rows = [
        [
            f"{'**Primary:** ' * item.primary}{item.claim.says} ({item.claim.where})",
            f"**{item.finding.word}**",
            item.finding.text,
            str(item.finding.n or ""),
        ]
        for item in sorted(judged, key=lambda item: not item.primary)
    ]
    return f"{DEFINITIONS}\n\n{markdown(['claim', 'verdict', 'numbers', 'n'], rows)}"
