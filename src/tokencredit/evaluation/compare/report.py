"""What a comparison leaves: answers, win matrices, results, and a page to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokencredit.errors import UserError
from tokencredit.evaluation.compare.prompts import Prompting
from tokencredit.evaluation.compare.scores import Spoken, by_method, equal_length
from tokencredit.papers.scores import FACTS, SCORES, write_scores
from tokencredit.papers.win_tables import long_csv, markdown, plain, seeds_markdown, table, wide_csv
from tokencredit.statistics.bradley_terry import strengths
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import rounded, with_error
from tokencredit.statistics.win_rates import WinMatrix
from tokencredit.store.files import write_json, write_rows, write_text

PLACES: Final = ("source", "other_data")
"""Facts that are paths of one machine."""


def write_answers(prompting: Prompting, spoken: Sequence[Spoken], out: Path) -> Path:
    """Write answers.jsonl, a line for each model and prompt; `judge llm` and `export` read it.

    A second seed of a method is called name#2.
    """
    rows = []
    for one, label in zip(spoken, _labels([one.player.name for one in spoken]), strict=True):
        for k, (item, said) in enumerate(zip(prompting.items, one.answers, strict=True)):
            row: dict[str, Any] = {
                "generator": label,
                "row": item.row,
                "instruction": item.text,
                "output": said.response,
                "tokens": said.tokens,
                "finished": said.finished,
            }
            if one.scores is not None:
                row["score"] = one.scores[k]
            rows.append(row)
    path = out / "answers.jsonl"
    write_rows(path, rows)
    return path


def _labels(names: Sequence[str]) -> list[str]:
    """Names in their order, a second one of a name as name#2, if nobody has that name already."""
    found: list[str] = []
    for place, name in enumerate(names):
        number = names[:place].count(name) + 1
        label = name if number == 1 else f"{name}#{number}"
        while label in found or (number > 1 and label in names):
            number += 1
            label = f"{name}#{number}"
        found.append(label)
    return found


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


def strength_summary(matrix: WinMatrix, prior: float = 0.0) -> dict[str, Any]:
    """Bradley–Terry strengths of the methods, or why there are none."""
    try:
        found = strengths(matrix.wins(), matrix.names, prior)
    except UserError as error:
        return {"none": str(error)}
    return {
        name: {"b": float(found.b[i]), "se": float(found.se[i])}
        for i, name in enumerate(matrix.names)
    }


def report(spoken: Sequence[Spoken], matrix: WinMatrix) -> str:
    """What the command prints: matrices, seeds, scores and lengths, strengths."""
    ranks = strength_summary(matrix)
    rows = []
    for name, own in by_method(spoken).items():
        # The mean of a prompt over seeds first: its answers are not independent.
        runs = list(own.values())
        scores = mean_ci(np.mean([one.rated for one in runs], axis=0).tolist())
        characters = np.mean([one.characters for one in runs])
        tokens = np.mean([[said.tokens for said in one.answers] for one in runs])
        b = ranks.get(name)
        rows.append(
            [
                name,
                str(len(runs)),
                with_error(scores.mean, scores.se),
                f"{characters:.1f}",
                f"{tokens:.1f}",
                "–" if b is None else with_error(b["b"], b["se"], signed=True),
            ]
        )
    head = ["method", "runs", "oracle's score", "characters", "tokens", "strength b"]
    lengths = [
        [f"{row} against {column}", rounded(matrix.rate(row, column)), with_error(x.rate, x.se)]
        for (row, column), x in equal_length(spoken).items()
    ]
    parts = [
        markdown(matrix, errors=True),
        seeds_markdown(matrix),
        table(head, rows),
        table(["", "win rate", "at equal length"], lengths),
        f"strengths: {ranks['none']}" if "none" in ranks else "",
    ]
    return "\n\n".join(part for part in parts if part)


def write_results(
    spoken: Sequence[Spoken], matrix: WinMatrix, facts: Mapping[str, Any], out: Path
) -> Path:
    """Write results.json."""
    path = out / "results.json"
    lengths = [{"row": r, "column": c, **asdict(x)} for (r, c), x in equal_length(spoken).items()]
    write_json(
        path,
        {
            "schema_version": 1,
            **facts,
            "models": [
                {"name": s.player.name, "model": s.player.identity, **_origin(s)} for s in spoken
            ],
            "win_rates": plain(matrix),
            "at_equal_length": lengths,
            "strengths": strength_summary(matrix),
        },
    )
    return path


def keep(
    prompting: Prompting, spoken: Sequence[Spoken], facts: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Write scores.csv and comparison.json: what win rates are computed from, without texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        (one.player.name, one.player.seed, item.row, score)
        for one in spoken
        for item, score in zip(prompting.items, one.rated, strict=True)
    ]
    write_scores(lines, folder / SCORES)
    models = [
        {"name": s.player.name, "model": s.player.identity, "seed": s.player.seed} for s in spoken
    ]
    runs = [one.player.run for one in spoken if one.player.run is not None]
    named = {" ".join(filter(None, (run.config.run.scale, run.config.model.name))) for run in runs}
    kept = {name: value for name, value in facts.items() if name not in PLACES}
    oracle = {**facts["oracle"], "name": _without_folder(facts["oracle"]["name"])}
    kept |= {"about": ", ".join(sorted(named)), "oracle": oracle, "models": models}
    write_json(folder / FACTS, {"schema_version": 1, **kept})
    return [folder / SCORES, folder / FACTS]


def _without_folder(oracle: str) -> str:
    """The last part of a path; other names as they are."""
    return Path(oracle).name if Path(oracle.rpartition(":")[0] or oracle).exists() else oracle


def _origin(spoken: Spoken) -> dict[str, Any]:
    run = spoken.player.run
    if run is None:
        return {"run": None, "seed": None}
    return {"run": run.manifest.get("key"), "seed": run.config.seed}
