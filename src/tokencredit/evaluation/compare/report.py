"""What a comparison leaves: answers, win matrices, results, and a page to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Prompting
from tokencredit.evaluation.compare.scores import Comparison, ScoredAnswers
from tokencredit.papers.scores import FACTS, SCORES, write_scores
from tokencredit.papers.win_tables import (
    crossed_markdown,
    markdown,
    plain,
    seeds_markdown,
    table,
)
from tokencredit.statistics.intervals import mean_ci
from tokencredit.statistics.rounding import rounded, with_error
from tokencredit.store.files import write_json, write_rows

PLACES: Final = ("source", "other_data")
"""Facts that are paths of one machine."""


def write_answers(prompting: Prompting, scored: Sequence[ScoredAnswers], out: Path) -> Path:
    """Write answers.jsonl, a line for each model and prompt; `judge llm` and `export` read it.

    A second seed of a method is called name#2.
    """
    rows = []
    for one, label in zip(scored, _labels([one.player.name for one in scored]), strict=True):
        for k, (item, answer) in enumerate(zip(prompting.items, one.answers, strict=True)):
            row: dict[str, Any] = {
                "generator": label,
                "row": item.row,
                "instruction": item.text,
                "output": answer.text,
                "tokens": answer.tokens,
                "finished": answer.finished,
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


def report(found: Comparison) -> str:
    """What the command prints: matrices, seeds, scores and lengths, strengths."""
    rows = []
    for name, own in found.methods.items():
        # The mean of a prompt over seeds first: its answers are not independent.
        runs = list(own.values())
        scores = mean_ci(np.mean([one.rated for one in runs], axis=0).tolist())
        characters = np.mean([one.characters for one in runs])
        tokens = np.mean([[answer.tokens for answer in one.answers] for one in runs])
        b = found.strengths.get(name)
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
        [
            f"{row} against {column}",
            rounded(found.matrix.rate(row, column)),
            with_error(x.rate, x.se),
        ]
        for (row, column), x in found.at_equal_length.items()
    ]
    parts = [
        markdown(found.matrix, errors=True),
        seeds_markdown(found.matrix),
        crossed_markdown(found.matrix),
        table(head, rows),
        table(["", "win rate", "at equal length"], lengths),
        f"strengths: {found.strengths['none']}" if "none" in found.strengths else "",
    ]
    return "\n\n".join(part for part in parts if part)


def write_results(found: Comparison, facts: Mapping[str, Any], out: Path) -> Path:
    """Write results.json."""
    path = out / "results.json"
    lengths = [{"row": r, "column": c, **asdict(x)} for (r, c), x in found.at_equal_length.items()]
    write_json(
        path,
        {
            "schema_version": 1,
            **facts,
            "models": [
                {"name": s.player.name, "model": s.player.identity, **_origin(s.player)}
                for s in found.scored
            ],
            "win_rates": plain(found.matrix),
            "at_equal_length": lengths,
            "strengths": found.strengths,
        },
    )
    return path


def keep(
    prompting: Prompting, scored: Sequence[ScoredAnswers], facts: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Write scores.csv and comparison.json: what win rates are computed from, without texts."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        (one.player.name, one.player.seed, item.row, score)
        for one in scored
        for item, score in zip(prompting.items, one.rated, strict=True)
    ]
    write_scores(lines, folder / SCORES)
    models = [
        {"name": s.player.name, "model": s.player.identity, "seed": s.player.seed} for s in scored
    ]
    runs = [one.player.run for one in scored if one.player.run is not None]
    named = {" ".join(filter(None, (run.config.run.scale, run.config.model.name))) for run in runs}
    kept = {name: value for name, value in facts.items() if name not in PLACES}
    oracle = {**facts["oracle"], "name": _without_folder(facts["oracle"]["name"])}
    kept |= {"about": ", ".join(sorted(named)), "oracle": oracle, "models": models}
    write_json(folder / FACTS, {"schema_version": 1, **kept})
    return [folder / SCORES, folder / FACTS]


def _without_folder(oracle: str) -> str:
    """The last part of a path; other names as they are."""
    return Path(oracle).name if Path(oracle.rpartition(":")[0] or oracle).exists() else oracle


def _origin(player: Player) -> dict[str, Any]:
    run = player.run
    if run is None:
        return {"run": None, "seed": None}
    return {"run": run.manifest.get("key"), "seed": run.config.seed}
