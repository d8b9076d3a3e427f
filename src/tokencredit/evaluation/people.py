"""People as judges: blind sheets to fill in, and what their answers come to.

Every annotator sees the same samples, in an order of their own, and under each prompt the answers
of all methods as A, B, …, shuffled anew; which letter is which method stands in a key file alone.
Methods that give the same answer share a letter, and a vote for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Final

import numpy as np

from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.evaluation.formats import Answers, matched
from tokencredit.papers.win_tables import table
from tokencredit.statistics.crossed import crossed
from tokencredit.statistics.intervals import wilson
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.store.artifacts import make_folder
from tokencredit.store.files import csv_rows, read_json, reading, write_json, write_text
from tokencredit.store.sheets import csv_text
from tokencredit.streams import permutation, stream_key

KEY: Final = "key.json"
BEST: Final = "best"
FIXED: Final = ("sheet", "sample")
MARK: Final = "\ufeff"
"""Without it, spreadsheets take UTF-8 for something else."""

Letters = dict[str, list[str]]
"""The methods behind each letter: one, or several that gave the same answer."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which letter is which method, by sheet and sample."""

    methods: list[str]
    sheets: dict[str, dict[str, Letters]]

    @classmethod
    def read(cls, path: Path) -> Key:
        """The key in a file that `write_sheets` has left; raises `UserError` for another file."""
        require(path.is_file(), "--key", str(path), "there is no such file")
        found = read_json(path, methods=list, sheets=dict)
        with reading(path):
            sheets = {
                str(sheet): {
                    str(sample): {str(letter): list(names) for letter, names in own.items()}
                    for sample, own in rows.items()
                }
                for sheet, rows in found["sheets"].items()
            }
        return cls(found["methods"], sheets)


def write_sheets(
    answers: Answers, samples: int, annotators: int, seed: int, out: Path
) -> list[Path]:
    """Write a sheet for each annotator and the key; their paths, the key last.

    `samples` prompts are drawn by `seed` of those that all methods answered, and not all alike.
    Raises `UserError` where there are fewer, and rather than overwrite a key.
    """
    methods = list(answers)
    most = len(ascii_uppercase)
    require(2 <= len(methods) <= most, "--answers", ", ".join(methods), f"2 to {most} are compared")
    path = out / KEY
    require(not path.exists(), "--out", str(out), "holds a key already, whose sheets may be out")
    items, left = matched(answers)
    differing = [i for i in items if len({answers[name][i].output for name in methods}) > 1]
    require(
        len(differing) >= samples,
        "--samples",
        samples,
        f"only {len(differing)} prompts have answers of all methods that are not all the same",
    )
    if left:
        say(f"{left} prompts were not answered by all and are left out")
    order = permutation(stream_key(seed, "people", "samples"), len(differing))
    chosen = [differing[place] for place in order[:samples]]
    make_folder(out)
    paths, sheets = [], {}
    for sheet in map(str, range(1, annotators + 1)):
        rows, sheets[sheet] = _sheet(answers, chosen, sheet, seed)
        paths.append(out / f"sheet_{sheet}.csv")
        write_text(paths[-1], MARK + csv_text(rows, strict=True))
    places = {_name(n): answers[methods[0]][item].row for n, item in enumerate(chosen)}
    key = {"seed": seed, "methods": methods, "rows": places, "sheets": sheets}
    write_json(path, {"schema_version": 1, **key})
    return [*paths, path]


def _sheet(
    answers: Answers, chosen: Sequence[str], sheet: str, seed: int
) -> tuple[list[list[str]], dict[str, Letters]]:
    """The rows of one annotator's sheet, and its key by sample."""
    methods, key = list(answers), {}
    columns = [f"answer {letter}" for letter in ascii_uppercase[: len(methods)]]
    rows = [[*FIXED, "prompt", *columns, BEST]]
    for number in permutation(stream_key(seed, "people", "order", sheet), len(chosen)):
        item, sample = chosen[number], _name(int(number))
        by_text: dict[str, list[str]] = {}
        for place in permutation(stream_key(seed, "people", "letters", sheet, item), len(methods)):
            name = methods[place]
            by_text.setdefault(answers[name][item].output, []).append(name)
        key[sample] = dict(zip(ascii_uppercase, by_text.values(), strict=False))
        texts = [*by_text, *[""] * (len(methods) - len(by_text))]
        rows.append([sheet, sample, answers[methods[0]][item].prompt, *texts, ""])
    return rows, key


def _name(number: int) -> str:
    return f"s{number + 1:03d}"


def read_sheets(
    paths: Sequence[Path], key: Key, without: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The letter that was chosen, by sheet and sample.

    Raises `UserError`, one line for the first thing found, for a sheet or sample that the key does
    not know, one that comes twice or not at all, and a choice that is none of the row's letters.
    Sheets in `without` never came back.
    """
    unknown = sorted(set(without) - key.sheets.keys())
    require(not unknown, "--without", ", ".join(unknown), f"sheets are {', '.join(key.sheets)}")
    found: dict[str, dict[str, str]] = {}
    for path in paths:
        rows = _rows(path)
        for sheet in dict.fromkeys(row["sheet"] for _, row in rows):
            if sheet in found:
                raise UserError(f"--sheets {path}: sheet {sheet} was given already")
            found[sheet] = _choices(rows, path, sheet, key)
    missing = [sheet for sheet in key.sheets if sheet not in found and sheet not in without]
    if missing:
        raise UserError(
            f"--sheets: sheet {missing[0]} is missing; give it, or, if it never came back, "
            f"--without {missing[0]}"
        )
    return {sheet: own for sheet, own in found.items() if sheet not in without}


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a file that hold something, with the number of the line."""
    require(path.is_file(), "--sheets", str(path), "there is no such file")
    rows = [(line, row) for line, row in csv_rows(path) if any(row.values())]
    if not rows or not {*FIXED, BEST} <= rows[0][1].keys():
        raise UserError(
            f"--sheets {path}: needs rows and the columns {', '.join((*FIXED, BEST))}, "
            "separated by commas"
        )
    return rows


def _choices(
    rows: Sequence[tuple[int, Mapping[str, str]]], path: Path, sheet: str, key: Key
) -> dict[str, str]:
    """The choices of one sheet."""
    if sheet not in key.sheets:
        raise UserError(f"--sheets {path}: sheet {sheet!r} is not in the key of these samples")
    known, found = key.sheets[sheet], {}
    for line, row in rows:
        if row["sheet"] != sheet:
            continue
        where, sample = f"--sheets {path}, line {line}", row["sample"]
        if sample not in known:
            raise UserError(f"{where}: sample {sample!r} is none of sheet {sheet}")
        if sample in found:
            raise UserError(f"{where}: sample {sample} comes twice in sheet {sheet}")
        best = (row[BEST] or "").strip().upper()
        letters = ", ".join(known[sample])
        if not best:
            raise UserError(f"{where}: sample {sample} has no answer in {BEST}; one of {letters}")
        if best not in known[sample]:
            raise UserError(f"{where}: {BEST} = {row[BEST]!r} of sample {sample}: not {letters}")
        found[sample] = best
    left = [sample for sample in known if sample not in found]
    if left:
        raise UserError(f"--sheets {path}: sample {left[0]} of sheet {sheet} is missing")
    return found


@dataclass(frozen=True, slots=True)
class Preferred:
    """How often one method was the most preferred."""

    method: str
    share: float
    low: float
    high: float
    """95 % interval, over annotators and samples."""
    by_sheet: dict[str, float]


def preferred(choices: Mapping[str, Mapping[str, str]], key: Key) -> list[Preferred]:
    """The share of each method, the highest first; they sum to 1."""
    samples = list(next(iter(choices.values())))
    found = []
    for method in key.methods:
        votes = np.array(
            [
                [_vote(key.sheets[sheet][sample], own[sample], method) for sample in samples]
                for sheet, own in choices.items()
            ]
        )
        low, high = _interval(votes)
        by_sheet = dict(zip(choices, votes.mean(axis=1).tolist(), strict=True))
        found.append(Preferred(method, float(votes.mean()), low, high, by_sheet))
    return sorted(found, key=lambda own: -own.share)


def _vote(letters: Letters, chosen: str, method: str) -> float:
    names = letters[chosen]
    return 1 / len(names) if method in names else 0.0


def _interval(votes: np.ndarray) -> tuple[float, float]:
    """Of annotators crossed with samples; Wilson's over samples where there is one annotator, or
    one sample, or nothing varies."""
    if min(votes.shape) > 1:
        both = crossed(votes)
        if both.se > 0:
            return max(0.0, both.low), min(1.0, both.high)
    return wilson(float(votes.mean()), votes.shape[1])


def agreement(choices: Mapping[str, Mapping[str, str]], key: Key) -> float | None:
    """The share of samples on which two annotators chose the same, mean over pairs; None of one."""
    chosen = [{x: key.sheets[s][x][own[x]] for x in own} for s, own in choices.items()]
    pairs = [
        sum(sorted(one[x]) == sorted(two[x]) for x in one) / len(one)
        for one, two in combinations(chosen, 2)
    ]
    return sum(pairs) / len(pairs) if pairs else None


def count(paths: Sequence[Path], key_file: Path, without: Sequence[str], out: Path | None) -> str:
    """The table of the methods' shares; with `out` also that JSON file."""
    key = Key.read(key_file)
    choices = read_sheets(paths, key, without)
    require(bool(choices), "--sheets", "none", "no sheet is left to count")
    found, same = preferred(choices, key), agreement(choices, key)
    letters = Counter(letter for own in choices.values() for letter in own.values())
    if out is not None:
        make_folder(out.parent)
        write_json(
            out,
            {
                "schema_version": 1,
                "samples": len(next(iter(choices.values()))),
                "sheets": list(choices),
                "most_preferred": [asdict(own) for own in found],
                "agreement": same,
                "letters": dict(sorted(letters.items())),
            },
        )
    rows = []
    for own in found:
        each = [rounded(100 * end(own.by_sheet.values()), 1) for end in (min, max)]
        ends = interval(100 * own.low, 100 * own.high, 2)
        rows.append([own.method, rounded(100 * own.share, 2), ends, "–".join(each)])
    head = ["method", "most preferred %", "95 % interval", "single annotators"]
    told = "" if same is None else f"; two annotators agree on {100 * same:.1f} % of samples"
    places = ", ".join(f"{letter} {n}" for letter, n in sorted(letters.items()))
    samples = len(next(iter(choices.values())))
    return (
        f"{table(head, rows)}\n\n{len(choices)} annotators, {samples} samples{told}\n"
        f"votes by letter: {places}"
    )
