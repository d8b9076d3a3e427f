"""Answers of models to prompts: read from files, and matched prompt by prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.store.jsonl import read_objects

PROMPT: Final = ("instruction", "prompt", "question")
OUTPUT: Final = ("output", "response", "answer", "completion")
GENERATOR: Final = ("generator", "name", "model", "model_id")
SEVERAL: Final = "/response"
"""Ending of the columns of a run's evaluation.jsonl, which holds answers of two models a row."""


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
