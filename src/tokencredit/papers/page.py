"""The page of an experiment: text by hand in a template, every number from the committed cells."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.papers.answers import ANSWERS
from tokencredit.papers.claims import (
    Claim,
    Judged,
    claims_table,
    corrected_by_page,
    judge_claims,
    judge_win_claim,
    read_claims,
    read_win_claims,
    unused,
)
from tokencredit.papers.conduct import conduct_table
from tokencredit.papers.fairness import fairness_table
from tokencredit.papers.figure_data import figure_marks
from tokencredit.papers.figures import pictures
from tokencredit.papers.file_claims import judge_file_claims, read_file_claims
from tokencredit.papers.formats import Runs
from tokencredit.papers.frontier import equal_kl_tables
from tokencredit.papers.held_out import held_out_table
from tokencredit.papers.judge_stages import there
from tokencredit.papers.kinds import find_any_figure, find_table
from tokencredit.papers.on_the_way import over_optimisation
from tokencredit.papers.opinions import Benchmark, Opinions
from tokencredit.papers.pilot_files import rows_file
from tokencredit.papers.pilot_tables import tuning_text
from tokencredit.papers.readings import readings_table
from tokencredit.papers.runs import holds_runs
from tokencredit.papers.scores import find_comparisons
from tokencredit.papers.sources import Source, read_sources
from tokencredit.papers.token_maps import TokenMap
from tokencredit.papers.token_sheets import drawn
from tokencredit.papers.win_tables import crossed_markdown
from tokencredit.store.files import write_bytes

NAME = "committed cells"
IMAGES = Path("docs") / "images"
Asked = Callable[[Benchmark, Sequence[Path]], Opinions]
"""Reads the opinions in the files of a benchmark, in some folders."""


def nobody(benchmark: Benchmark, folders: Sequence[Path]) -> Opinions:
    """No opinions."""
    del benchmark, folders
    return {}


def write_page(name: str, experiments: Path, asked: Asked = nobody) -> list[Path]:
    """Write the page of an experiment and its figures; their paths.

    The template is `<name>.md.j2` in the folder of experiments, the cells lie in `<name>/`. `asked`
    reads what people or a large model said of answers, from a benchmark's folder there.
    """
    template = experiments / f"{name}.md.j2"
    if not template.is_file():
        known = ", ".join(pages(experiments)) or "(none)"
        raise UserError(f"{name}: there is no {template}; pages: {known}")
    page = Page(name, experiments, asked)
    text = page.fill(template.read_text(encoding="utf-8"))
    path = experiments / f"{name}.md"
    write_bytes(path, text.encode())
    return [path, *page.images]


class Page:
    """What a template may call."""

    def __init__(self, name: str, experiments: Path, asked: Asked = nobody) -> None:
        """The page of one experiment, with the cells that are there."""
        self.name, self.experiments, self.asked = name, experiments, asked
        self.task = name.rpartition("/")[2]
        self.images: list[Path] = []
        self.folder = experiments / name
        there = self.folder.is_dir() and any(map(holds_runs, self.folder.glob("*.csv")))
        self.sources: list[Source] = read_sources([self.folder]) if there else []
        for source in self.sources:
            source.name = NAME
        self.comparisons = find_comparisons([self.folder]) if self.folder.is_dir() else []

    def fill(self, template: str) -> str:
        """The text of the page."""
        from jinja2 import Environment, StrictUndefined

        environment = Environment(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            autoescape=False,  # noqa: S701 - the page is Markdown, and its template our own
        )
        environment.globals |= {
            "cells": self.cells,
            "table": self.table,
            "figure": self.figure,
            "claims": self.claims,
            "held_out": self.held_out,
            "conduct": self.conduct,
            "equal_kl": self.equal_kl,
            "tuning": self.tuning,
            "readings": self.readings,
            "fairness": self.fairness,
            "over_optimisation": self.over_optimisation,
            "seeds_and_prompts": self.seeds_and_prompts,
        }
        return _notes_once(environment.from_string(template).render())

    def cells(self) -> str:
        """How many cells there are, in which state, and what computed them."""
        runs = [run for source in self.sources for run in source.runs]
        if not runs:
            return "No cell is committed yet."
        states = Counter(run.status for run in runs)
        listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        about = "; ".join(filter(None, (source.about() for source in self.sources)))
        return f"{len(runs)} cells: {listed}. {about[:1].upper()}{about[1:]}."

    def table(self, name: str, points: int | None = None) -> str:
        """A table of the catalogue: what is of this experiment, with everything to be said."""
        kept = [path for path in [self.folder / ANSWERS] if path.is_file()]
        runs = Runs(
            sources=lambda _: self.sources,
            comparisons=lambda _: self.comparisons,
            opinions=lambda benchmark, _: self._said(benchmark),
            answers=lambda _: kept,
            judges=lambda _, names: there(self.folder, names),
        )
        return find_table(name).of_task(self.task).made(runs, points).on_page()

    def _said(self, benchmark: Benchmark) -> Opinions:
        folder = self.folder / benchmark.value
        return self.asked(benchmark, [folder]) if folder.is_dir() else {}

    def figure(
        self, name: str, file: str, points: int | None = None, smooth: int | None = None
    ) -> str:
        """A figure of the catalogue in docs/images, and the Markdown that shows it."""
        entry = find_any_figure(name)
        if isinstance(entry, TokenMap):
            missing = entry.missing(self.folder)
            if missing:
                return f"*{entry.title}: no figure: {missing}.*"
            picture, _ = drawn(entry.coloured(self.folder))
            return self._shown(entry.title, file, picture, entry.remarks(self.folder))
        entry = entry.of_task(self.task)
        entry = replace(entry, smooth=entry.smooth if smooth is None else smooth)
        runs = [run for source in self.sources for run in source.runs if not run.stepless]
        if not any(entry.shows(run.setting) for run in runs):
            return f"*{entry.title}: no figure before there are cells.*"
        if entry.absent(self.sources):
            return f"*{entry.title}: no figure: {entry.absent(self.sources)}.*"
        marks, notes = figure_marks(entry, self.sources, points)
        return self._shown(entry.title, file, pictures(entry, marks)[0], notes)

    def _shown(self, title: str, file: str, picture: bytes, notes: Sequence[str]) -> str:
        """Write a picture; the Markdown that shows it."""
        path = self.experiments.parent / IMAGES / file
        write_bytes(path, picture)
        self.images.append(path)
        here = (self.experiments / self.name).parent
        link = f"![{title}]({Path(os.path.relpath(path, here)).as_posix()})"
        return "\n\n".join([link, *(f"*Note: {note}.*" for note in notes)])

    def claims(self, paper: str, points: int | None = None) -> str:
        """The claims of a paper that are about this experiment, judged."""
        judged = self.judged(paper, points)
        some = self.sources or self.comparisons or any(item.finding.data for item in judged)
        if not some:
            every = [item.claim for item in judged]
            return "\n".join(f"- {claim.says} ({claim.where}): no cells yet." for claim in every)
        said = [f"*Note: {note}.*" for note in unused(judged, self.sources)] if not points else []
        return "\n\n".join([claims_table(judged), *said])

    def judged(self, paper: str, points: int | None = None) -> list[Judged]:
        """The claims of a paper that are about this experiment, corrected for their number."""
        own = [claim for claim in map(self._of_claim, read_claims(paper)) if claim.panels]
        wins = [claim for claim in read_win_claims(paper) if claim.task == self.task]
        won = [item for claim in wins for item in judge_win_claim(claim, self.comparisons)]
        files = [claim for claim in read_file_claims(paper) if claim.task == self.task]
        said = judge_file_claims(files, {self.task: self.folder})
        return corrected_by_page([*won, *said, *judge_claims(own, self.sources, points)])

    def held_out(self) -> str:
        """What the policies came to on held-out prompts."""
        if not self.sources:
            return "*No cells yet.*"
        return held_out_table(self.sources[0], self.task)

    def conduct(self) -> str:
        """How the runs were trained."""
        if not self.sources:
            return "*No cells yet.*"
        return conduct_table(self.sources[0], self.task)

    def equal_kl(self, baseline: str, beta: float | None = None) -> str:
        """Paid scores at equal distances from the reference, and differences to a method there."""
        if not self.sources:
            return "*No cells yet.*"
        return equal_kl_tables(self.sources[0], self.task, baseline, beta)

    def tuning(self, scale: str = "cpu") -> str:
        """The terms of the experiment's tuning, every point that was tried, and the choices."""
        return tuning_text(rows_file(self.folder, scale))

    def readings(
        self,
        baseline: str,
        beta: float | None = None,
        primary: str | None = None,
        level: float | None = None,
    ) -> str:
        """Differences of the gold score to a method at equal steps, KL, samples, and operations.

        `primary`: the method whose comparison was declared before the runs, `level` the nats.
        """
        if not self.sources:
            return "*No cells yet.*"
        return readings_table(self.sources[0], self.task, baseline, beta, primary, level)

    def fairness(self, baseline: str | None = None) -> str:
        """Whether methods began with the same and were given the same; the baseline first."""
        if not self.sources:
            return "*No cells yet.*"
        return fairness_table(self.sources[0], self.task, self.folder, baseline)

    def over_optimisation(self) -> str:
        """When the gold score of each method was highest, and whether the paid one still rose."""
        if not self.sources:
            return "*No cells yet.*"
        said = over_optimisation(self.sources[0], self.task)
        return said or "*No cell holds evaluations on the way (evaluation.every).*"

    def seeds_and_prompts(self) -> str:
        """Win rates with intervals over seeds crossed with prompts, of each comparison."""
        several = len(self.comparisons) > 1
        tables = [
            f"By {comparison.measure}:\n\n{table}" if several else table
            for comparison in self.comparisons
            if (table := crossed_markdown(comparison.matrix(list(comparison.methods))))
        ]
        return "\n\n".join([CROSSED, *tables]) if tables else "*No comparison of several seeds.*"

    def _of_claim(self, claim: Claim) -> Claim:
        return replace(claim, panels=[p for p in claim.panels if self.task == p.tasks[0]])


def _notes_once(text: str) -> str:
    """The text without a note that it has already: tables and figures of the same cells have the
    same to say."""
    seen: set[str] = set()
    kept = []
    for paragraph in text.split("\n\n"):
        note = paragraph.strip().replace(f"{NAME}: ", "")
        if note.startswith("*Note: ") and note in seen:
            continue
        seen.add(note)
        kept.append(paragraph)
    return "\n\n".join(kept)


CROSSED: Final = (
    "Win rates once more, where seeds and prompts both are samples: each verdict is the mean, and "
    "an effect of the seed, of the prompt, and of the rest (two-way random effects; variances by "
    "the method of moments, degrees of freedom of Satterthwaite). Last, the shares of a verdict's "
    "variance."
)


def pages(experiments: Path) -> Sequence[str]:
    """The experiments that have a template."""
    return [
        path.relative_to(experiments).as_posix().removesuffix(".md.j2")
        for path in sorted(experiments.rglob("*.md.j2"))
    ]
