"""Answers of models to prompts: read from files, matched prompt by prompt, and written in the forms
that AlpacaEval and MT-Bench read; and win matrices as files."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.papers.win_tables import long_csv, markdown, wide_csv
from tokencredit.statistics.win_rates import WinMatrix
from tokencredit.store.files import write_json, write_rows, write_text
from tokencredit.store.jsonl import read_objects

PROMPT: Final = ("instruction", "prompt", "question")
OUTPUT: Final = ("output", "response", "answer", "completion")
GENERATOR: Final = ("generator", "name", "model", "model_id")
SEVERAL: Final = "/response"
"""Ending of the columns of a run's evaluation.jsonl, which holds answers of two models a row."""

LONGEST: Final = 55
"""Characters of a stem, of up to four bytes each; a file's name has at most 255 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to a prompt."""

    generator: str
    prompt: str
    output: str
    row: int
    """The prompt's row in its data set, else its place in the file."""
    score: float | None = None
    """An oracle's, where the file has one."""

    @property
    def length(self) -> int:
        """Characters: the only length that does not depend on a tokenizer."""
        return len(self.output)


Answers = dict[str, dict[str, Answer]]
"""By generator, then by the prompt's id: a hash of its text and how often it came before."""


def read_answers(paths: Sequence[Path], names: Sequence[str] | None = None) -> Answers:
    """All answers of all files. `names` renames the generators, in the order they come in.

    Raises `UserError` for a file without answers, and for two generators of one name.
    """
    found: list[tuple[str, dict[str, Answer]]] = []
    for path in paths:
        own: Answers = {}
        seen: Counter[tuple[str, str]] = Counter()
        for number, row in enumerate(read_objects(path, "--answers")):
            for answer in _answers(row, number, path):
                place = (answer.generator, answer.prompt)
                item = digest([answer.prompt, seen[place]])
                seen[place] += 1
                own.setdefault(answer.generator, {})[item] = answer
        require(bool(own), "--answers", str(path), "holds no answers")
        both = [name for name, _ in found if name in own]
        found += own.items()
        if both and names is None:
            raise UserError(
                f"--answers {path}: an earlier file also has answers of {both[0]!r}; tell them "
                f"apart with --names, a name for each of {', '.join(name for name, _ in found)}"
            )
    if names is None:
        return dict(found)
    require(
        len(names) == len(found) == len(set(names)),
        "--names",
        ",".join(names),
        f"name each of {', '.join(name for name, _ in found)}, each differently",
    )
    return {name: own for name, (_, own) in zip(names, found, strict=True)}


def matched(answers: Answers) -> tuple[list[str], int]:
    """The prompts that every generator answered, in the order of the first, and how many others
    there are. Raises `UserError` if none is left.
    """
    everything = [set(own) for own in answers.values()]
    common = set.intersection(*everything)
    if not common:
        raise UserError(
            f"--answers: {' and '.join(answers)} have no prompt in common; their prompts must be "
            "equal to the letter"
        )
    first = next(iter(answers.values()))
    return [item for item in first if item in common], len(set.union(*everything)) - len(common)


def _answers(row: Mapping[str, Any], number: int, path: Path) -> Iterator[Answer]:
    prompt = _first(row, PROMPT)
    several = [key for key in row if key.endswith(SEVERAL)]
    output = _first(row, OUTPUT)
    if prompt is None or (output is None and not several):
        raise UserError(
            f"--answers {path}, row {number + 1}: needs a prompt ({', '.join(PROMPT)}) and an "
            f"answer ({', '.join(OUTPUT)}); it has {', '.join(row)}"
        )
    place = row.get("row", number)
    index = place if isinstance(place, int) else number
    if several:
        for key in several:
            name = key.removesuffix(SEVERAL)
            yield Answer(generator=name, prompt=prompt, output=str(row[key]), row=index)
        return
    score = row.get("score")
    yield Answer(
        generator=_first(row, GENERATOR) or path.stem,
        prompt=prompt,
        output=str(output),
        row=index,
        score=float(score) if isinstance(score, int | float) else None,
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((str(row[name]) for name in names if row.get(name) is not None), None)


def model_outputs(answers: Mapping[str, Answer], name: str) -> list[dict[str, Any]]:
    """Rows of AlpacaEval's model_outputs.json."""
    return [
        {"instruction": answer.prompt, "output": answer.output, "generator": name}
        for answer in answers.values()
    ]


def mt_bench_answers(
    answers: Mapping[str, Answer], name: str, seconds: float
) -> list[dict[str, Any]]:
    """Rows of MT-Bench's model_answer/<model>.jsonl, one turn each; the question's id is the row.

    `seconds` is the time that is written, since the epoch.
    """
    return [
        {
            "question_id": answer.row,
            "answer_id": digest([name, item, answer.output]),
            "model_id": name,
            "choices": [{"index": 0, "turns": [answer.output]}],
            "tstamp": seconds,
        }
        for item, answer in answers.items()
    ]


def write_model_outputs(answers: Mapping[str, Answer], name: str, path: Path) -> Path:
    """Write the file of one generator for AlpacaEval."""
    write_json(path, model_outputs(answers, name))
    return path


def write_mt_bench(answers: Mapping[str, Answer], name: str, path: Path, seconds: float) -> Path:
    """Write the file of one generator for MT-Bench."""
    rows = mt_bench_answers(answers, name, seconds)
    write_rows(path, rows)
    return path


def file_names(names: Sequence[str]) -> dict[str, str]:
    """By name, the stem of its file: that of `file_name`, with a hash behind where another has it
    too. Some systems take capitals, and other forms of a letter, for equal.
    """
    stems = {name: file_name(name) for name in names}
    hashed = {name: f"{stem}-{digest(name)}" for name, stem in stems.items()}
    alike = Counter(map(_folded, stems.values()))
    found = {n: s if alike[_folded(s)] == 1 else hashed[n] for n, s in stems.items()}
    distinct = len(set(map(_folded, found.values()))) == len(found)
    return found if distinct else hashed  # a name may look like another's hash


def file_name(name: str) -> str:
    """`name` as the stem of a file."""
    return re.sub(r"[^\w.+-]+", "_", name).strip(".")[:LONGEST] or "model"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()


def write_matrix(matrix: WinMatrix, out: Path) -> list[Path]:
    """Write the table of the paper in Markdown and CSV, and every number in a long CSV."""
    texts = {
        "win_matrix.md": markdown(matrix) + "\n\n" + markdown(matrix, errors=True) + "\n",
        "win_matrix.csv": wide_csv(matrix),
        "win_pairs.csv": long_csv(matrix),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]
