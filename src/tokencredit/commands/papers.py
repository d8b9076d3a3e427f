"""`tokencredit table`, `figure`, `claims`, and `page`: what papers show, from runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from tokencredit.commands.options import Plugins
from tokencredit.config import load_plugins
from tokencredit.console import say, show
from tokencredit.data.dataset import Dataset
from tokencredit.data.files import file_rows
from tokencredit.data.sources import Source as Where
from tokencredit.data.splits import Splits
from tokencredit.errors import UserError, require
from tokencredit.evaluation.opinions import read_opinions
from tokencredit.papers import claims
from tokencredit.papers.answers import ANSWERS
from tokencredit.papers.entries import PanelEntry
from tokencredit.papers.figures import write_figure
from tokencredit.papers.file_claims import judge_file_claims, read_file_claims
from tokencredit.papers.formats import SUFFIX, Format, Runs
from tokencredit.papers.judge_stages import there
from tokencredit.papers.kinds import find_any_figure, find_table, is_own, listing
from tokencredit.papers.ledger import write_ledger
from tokencredit.papers.opinions import Benchmark, Opinions
from tokencredit.papers.page import write_page
from tokencredit.papers.pair_maps import DATA, PairMap
from tokencredit.papers.runs import holds_runs
from tokencredit.papers.scores import Comparison, find_comparisons
from tokencredit.papers.sources import Source, read_sources
from tokencredit.papers.token_classes import SIDES
from tokencredit.papers.token_maps import Place, Text, TokenMap
from tokencredit.papers.token_sheets import write_token_map
from tokencredit.store.files import write_bytes

EXPERIMENTS = Path("experiments")
ALL_HELD_OUT = Splits(sft=0, reward=0, rl=0, oracle=0, eval=1)
"""All records in one split."""

Name = Annotated[
    str | None, typer.Argument(help="PAPER/NAME of the catalogue, or a YAML file of your own.")
]
Given = Annotated[
    list[Path] | None,
    typer.Option(
        help="A run CSV, a folder of them, or a folder of runs; repeatable. "
        "Default: the committed cells in experiments/."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder for the files.")]
Points = Annotated[
    int | None, typer.Option(min=1, help="Use this many first steps, not the paper's number.")
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        "--texts",
        help="File of the pairs whose rows a figure shows. Default: that in $TOKENCREDIT_DATA.",
    ),
]
Form = Annotated[Format, typer.Option("--format", help="What is printed.")]


def table(
    name: Name = None,
    runs: Given = None,
    out: Out = None,
    points: Points = None,
    form: Form = Format.markdown,
    plugin: Plugins = None,
) -> None:
    """Print a table of a paper with the numbers of runs; without a name, list the tables."""
    load_plugins(plugin or [])
    if name is None:
        _list("table")
        return
    made = find_table(name).made(
        Runs(
            lambda entry: sources(name, runs, entry),
            lambda task: comparisons(name, task, runs),
            lambda benchmark, task: opinions(name, benchmark, task, runs),
            lambda task: answers(name, task, runs),
            lambda task, names: there(beside(name, task, runs, f"{names[0]}.json"), names),
        ),
        points,
    )
    show(made.text(form), end="")
    if out is not None:
        for other in Format:
            path = out / f"{Path(name).stem}{SUFFIX[other]}"
            write_bytes(path, made.text(other).encode())
            say(f"wrote {path}")


def figure(
    name: Name = None,
    runs: Given = None,
    out: Out = Path("figures"),
    points: Points = None,
    pairs: Pairs = None,
) -> None:
    """Draw a figure of a paper from runs as PNG, PDF, and CSV; without a name, list the figures.

    One of texts, whose tokens are coloured, is a page (HTML) too.
    """
    if name is None:
        _list("figure")
        return
    entry = find_any_figure(name)
    require(out is not None, "--out", out, "name a folder")
    assert out is not None
    if isinstance(entry, PairMap):
        entry = with_texts(entry, pairs)
    else:
        rule = "only a figure of pairs of a data set, whose texts lie there, has texts from a file"
        require(pairs is None, "--texts", pairs, rule)
    if isinstance(entry, TokenMap):
        require(points is None, "--points", points, "these are texts, which have no steps")
        written, notes = write_token_map(entry, texts(name, entry, runs), out, Path(name).stem)
    else:
        found = sources(name, runs, entry)
        written, notes = write_figure(entry, found, out, Path(name).stem, points)
    for note in notes:
        show(f"Note: {note}.")
    for path in written:
        show(f"wrote {path}")


def paper_claims(
    paper: Annotated[str | None, typer.Argument(help="A paper of the catalogue, e.g. abc.")] = None,
    runs: Given = None,
    points: Points = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every claim, from the cells; writes CLAIMS.md.")
    ] = False,
) -> None:
    """Say of each claim of a paper whether runs support it; without a name, list the papers."""
    if everything:
        given = {"PAPER": paper, "--runs": runs, "--points": points}
        for name, value in given.items():
            require(value is None or value == [], name, value, "cannot be given with --all")
        show(f"wrote {write_ledger(EXPERIMENTS)}")
        return
    if paper is None:
        show("\n".join(claims.papers()))
        return
    wins = claims.read_win_claims(paper)
    made = {task: comparisons(paper, task, runs) for task in dict.fromkeys(c.task for c in wins)}
    won = [item for claim in wins for item in claims.judge_win_claim(claim, made[claim.task])]
    files = read_file_claims(paper)
    places = {claim.task: beside(paper, claim.task, runs, claim.file) for claim in files}
    won += judge_file_claims(files, places)
    try:
        found = sources(paper, runs)
    except UserError:
        if not any(item.source for item in won):
            raise
        found = []  # a comparison, or files, alone
    judged = claims.judge_claims(claims.read_claims(paper), found, points)
    show(claims.claims_text(claims.corrected_by_page([*judged, *won])), end="")
    for note in claims.unused(judged, found):
        show(f"Note: {note}")


def page(
    name: Annotated[str, typer.Argument(help="PAPER/EXPERIMENT with a template in experiments/.")],
    experiments: Annotated[Path, typer.Option(help="Folder of templates and cells.")] = EXPERIMENTS,
) -> None:
    """Write an experiment's page again, its numbers and figures from the committed cells."""
    for path in write_page(name, experiments, read_opinions):
        show(f"wrote {path}")


def sources(name: str, runs: list[Path] | None, entry: PanelEntry | None = None) -> list[Source]:
    """The runs that are named, or the committed ones of the paper.

    A folder of one's own runs may hold others that an entry does not show.
    """
    if runs:
        return read_sources(runs, entry.shows) if entry and entry.own else read_sources(runs)
    if is_own(name):
        raise UserError(
            f"--runs: {name} is of your own; name its runs: a folder of runs (--runs runs), a run "
            "CSV, or a folder of them"
        )
    folder = EXPERIMENTS / name.partition("/")[0]
    if not folder.is_dir():
        raise UserError(
            f"--runs: there are no committed cells here ({folder} is no folder); "
            "name a run CSV, a folder of them, or a folder of runs"
        )
    sheets = list(folder.rglob("*.csv"))
    if not any(map(holds_runs, sheets)):
        if not sheets:  # else the numbers come from scripts or stages, or each entry says so itself
            say(f"{folder}: no cell is committed yet")
        return []
    found = read_sources([folder])
    found[0].name = folder.as_posix()
    return found


def comparisons(name: str, task: str, runs: list[Path] | None) -> list[Comparison]:
    """The comparisons that are named, or the committed one of a paper's experiment."""
    folder = EXPERIMENTS / name.partition("/")[0] / task
    return find_comparisons(runs or ([folder] if folder.is_dir() else []))


def opinions(name: str, benchmark: Benchmark, task: str, runs: list[Path] | None) -> Opinions:
    """What was said of a task's answers: in what is named, or beside the committed cells."""
    folder = EXPERIMENTS / name.partition("/")[0] / task / benchmark.value
    return read_opinions(benchmark, runs or ([folder] if folder.is_dir() else []))


def answers(name: str, task: str, runs: list[Path] | None) -> list[Path]:
    """The files that are named, or in folders that are; or that of a paper's experiment."""
    if runs:
        return [path / ANSWERS if path.is_dir() else path for path in runs]
    path = EXPERIMENTS / name.partition("/")[0] / task / ANSWERS
    return [path] if path.is_file() else []


def with_texts(entry: PairMap, file: Path | None) -> PairMap:
    """The figure with the texts of the pairs in a file, or in that of $TOKENCREDIT_DATA; as it is
    where there is none. A file with a column `prompt` has answers, one without it transcripts,
    which a run may have read as conversations or as texts.
    """
    folder = os.environ.get(DATA)
    path = file or Path(folder or "", entry.texts)
    if file is None and not (folder and path.is_file()):
        return entry
    answered = "prompt" in next(file_rows(path), {})
    layouts = ("preference",) if answered else ("hh_chat", "hh")
    return entry.with_texts([_read_texts(path, layout) for layout in layouts], path)


def _read_texts(path: Path, layout: str) -> dict[Place, Text]:
    """What each answer of the pairs in a file says."""
    given: dict[str, Any] = {"path": str(path), "format": layout, "splits": ALL_HELD_OUT}
    data, found = Dataset(source=Where.path, label_column=None, **given), dict[Place, Text]()
    for record in data.read().records():
        if record.rejected is not None:
            asked = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in record.asked)
            said = (record.answer, record.rejected)
            for answer, text in zip(SIDES, said, strict=True):
                found.setdefault((record.row, answer), Text(record.prompt or asked, text))
    return found


def texts(name: str, entry: TokenMap, runs: list[Path] | None) -> Path:
    """The folder that is named, or that of the figure's experiment; the files lie in it."""
    if not runs and is_own(name):
        raise UserError(f"--runs: {name} is of your own; name the folder of {entry.numbers}")
    return beside(name, entry.task, runs, entry.numbers)


def beside(name: str, task: str, runs: list[Path] | None, file: str) -> Path:
    """The folder that is named, or that of a paper's experiment, in which a file lies."""
    require(len(runs or []) < 2, "--runs", runs, f"name one folder, in which {file} lies")
    return runs[0] if runs else EXPERIMENTS / name.partition("/")[0] / task


def _list(command: str) -> None:
    entries = listing(command)
    width = max(map(len, entries))
    for name, entry in entries.items():
        show(f"{name:<{width}}  {entry.title} ({entry.source}): {', '.join(entry.tasks)}")
