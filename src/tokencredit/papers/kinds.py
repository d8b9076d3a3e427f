"""The kinds of tables and figures, and the entry of a name: of the catalogue, or one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.papers.answers import AnswersEntry
from tokencredit.papers.entries import FOLDER, Entry
from tokencredit.papers.figure_data import FigureEntry
from tokencredit.papers.figure_kinds import ByBeta, Curves, Frontier, OnTheWay, Tradeoff
from tokencredit.papers.formats import TableEntry
from tokencredit.papers.held_out import HeldOutEntry
from tokencredit.papers.judge_stages import JudgeStages
from tokencredit.papers.judged import JudgedEntry
from tokencredit.papers.mean_scores import MeanScoreEntry
from tokencredit.papers.pair_maps import PairMap
from tokencredit.papers.tables import CurveTable
from tokencredit.papers.token_maps import TokenMap
from tokencredit.papers.win_report import WinEntry
from tokencredit.store.files import read_yaml, reading

KINDS: Final[Mapping[str, type[Entry]]] = {
    kind.kind: kind
    for kind in (
        *(CurveTable, Curves, Tradeoff, Frontier, OnTheWay, ByBeta),
        *(
            HeldOutEntry,
            WinEntry,
            MeanScoreEntry,
            JudgedEntry,
            AnswersEntry,
            TokenMap,
            PairMap,
            JudgeStages,
        ),
    )
}


def find_table(name: str) -> TableEntry:
    """The table of that name."""
    entry = _find(name, TableEntry.command)
    assert isinstance(entry, TableEntry)
    return entry


def find_figure(name: str) -> FigureEntry:
    """The figure of that name, which is drawn from runs."""
    entry = find_any_figure(name)
    assert isinstance(entry, FigureEntry)
    return entry


def find_any_figure(name: str) -> FigureEntry | TokenMap:
    """The figure of that name, drawn from runs or from the texts of a file."""
    entry = _find(name, FigureEntry.command)
    assert isinstance(entry, FigureEntry | TokenMap)
    return entry


def _find(name: str, command: str) -> Entry:
    """The entry of that name in the catalogue, or in a YAML file of one's own."""
    path = Path(name) if is_own(name) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        named = ", ".join(listing(command))
        raise UserError(f"{name}: there is no such entry; there are {named}")
    entry = read_entry(path)
    entry.own = is_own(name)
    if entry.command != command:
        what = entry.command
        raise UserError(f"{name}: is a {what}; `tokencredit {what} {name}` makes it")
    return entry


def is_own(name: str) -> bool:
    """Whether a name is that of a file of one's own, not of the catalogue."""
    return name.endswith((".yaml", ".yml"))


def listing(command: str) -> dict[str, Entry]:
    """The entries that a command makes, by name."""
    paths = [path for path in sorted(FOLDER.glob("*/*.yaml")) if path.stem != "claims"]
    entries = {
        path.relative_to(FOLDER).with_suffix("").as_posix(): read_entry(path) for path in paths
    }
    return {name: entry for name, entry in entries.items() if entry.command == command}


def read_entry(path: Path) -> Entry:
    """The entry in a YAML file; a key that it cannot have, or lacks, is an error."""
    tree = dict(read_yaml(path))
    with reading(path):
        kind = tree.pop("kind", None)
        if kind not in KINDS:
            raise UserError(f"{path}: kind = {kind!r}: must be one of {', '.join(KINDS)}")
        return KINDS[kind].read(tree, path)
