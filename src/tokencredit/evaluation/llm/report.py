"""What `judge llm` writes and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokencredit.canonical import digest
from tokencredit.endpoint.settings import without_user
from tokencredit.evaluation.annotations import annotation
from tokencredit.evaluation.formats import Answers, matched, write_matrix
from tokencredit.evaluation.llm.ask import too_short
from tokencredit.evaluation.llm.outcomes import Cost, Judged, Pair, lengths, outcomes, position
from tokencredit.evaluation.llm.questions import Asking
from tokencredit.evaluation.llm.verdicts import Verdict
from tokencredit.papers.win_tables import markdown, plain, table
from tokencredit.statistics.bradley_terry import strengths_or_why
from tokencredit.statistics.length_control import AtEqualLength
from tokencredit.statistics.rounding import rounded, with_error
from tokencredit.statistics.win_rates import WinMatrix
from tokencredit.store.files import write_json, write_text


def report(
    answers: Answers,
    found: Judged,
    verdicts: Sequence[Verdict],
    asking: Asking,
    costs: Mapping[str, Cost],
    out: Path,
) -> str:
    """Write results.json, annotations.json, matrices, and report.md; return the text to print."""
    notes = _notes(verdicts, asking)
    matrix, order = found.matrix(notes), position(verdicts)
    equal = lengths(answers, found.shares)
    counts = outcomes(verdicts)
    judge = f"{asking.endpoint.model} ({asking.template.name})"
    write_json(
        out / "results.json",
        {
            "schema_version": 1,
            "judge": _settings(asking),
            "prompts": len(matched(answers)[0]),
            "win_rates": plain(matrix),
            "at_equal_length": [
                {"row": row, "column": column, **asdict(x)} for (row, column), x in equal.items()
            ],
            "strengths": strengths_or_why(matrix.wins(), matrix.names),
            "outcomes": counts,
            **_oddities(verdicts),
            "left_out": dict(found.left_out),
            "identical_answers": found.identical,
            "position": order.plain(),
            "cost": {name: asdict(cost) for name, cost in costs.items()},
        },
    )
    rows = _annotation_rows(answers, found, judge)
    write_json(out / "annotations.json", rows)
    paths = [out / "results.json", out / "annotations.json", *write_matrix(matrix, out)]
    told = [f"{count} {name}" for name, count in counts.items()]
    text = "\n\n".join(
        [
            f"judged by {judge}",
            markdown(matrix, errors=True),
            _length_table(equal, matrix),
            table(["order of the answers", "95 % Wilson interval"], order.rows()),
            f"verdicts: {', '.join(told)}; identical answers: {found.identical}",
            f"prompts of a pair left out: {sum(found.left_out.values())}",
            *notes,
            f"cost: {costs['all'].text()}\nof that now: {costs['now'].text()}",
        ]
    )
    write_text(out / "report.md", text + "\n")
    return "\n\n".join([text, "\n".join(map(str, [out / "report.md", *paths]))])


def _oddities(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many replies were cut, odd, or made without the temperature that was asked for."""
    rows = {verdict.key: verdict for verdict in verdicts}.values()
    return {
        "cut": sum(verdict.cut for verdict in rows),
        "odd": sum(verdict.odd for verdict in rows),
        "own_temperature": sum(verdict.own_temperature for verdict in rows),
    }


def _notes(verdicts: Sequence[Verdict], asking: Asking) -> list[str]:
    """What must be said of the replies, a line each."""
    found = _oddities(verdicts)
    told = {
        "cut": f"replies that did not end are no verdicts: {too_short(asking)}",
        "odd": "answers were no chat completion; the questions were put again",
        "own_temperature": f"replies at the endpoint's own temperature: it takes none, so "
        f"--temperature = {asking.endpoint.temperature:g} was left out",
    }
    return [f"{count} {told[name]}" for name, count in found.items() if count]


def _settings(asking: Asking) -> dict[str, Any]:
    """How the judge was asked; neither the key nor anything that could hold one."""
    endpoint = asking.endpoint
    return {
        "base_url": without_user(endpoint.base_url),
        "model": endpoint.model,
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
        "template": asking.template.name,
        "template_hash": digest(asking.template.text),
        "seed": asking.seed,
        "both_orders": asking.both_orders,
    }


def _length_table(found: Mapping[Pair, AtEqualLength], matrix: WinMatrix) -> str:
    """Markdown: raw rate, rate at equal length, and mean lengths."""
    rows = [
        [
            f"{row} against {column}",
            rounded(matrix.rate(row, column)),
            with_error(reading.rate, reading.se),
            f"{reading.length:.1f}",
            f"{reading.other_length:.1f}",
        ]
        for (row, column), reading in found.items()
    ]
    head = ["", "win rate", "at equal length", "mean length", "mean length of the other"]
    return table(head, rows)


def _annotation_rows(answers: Answers, found: Judged, judge: str) -> list[dict[str, Any]]:
    """AlpacaEval's annotations.json; of each pair the second generator is its model, output 2."""
    rows = []
    for (first, second), decided in found.shares.items():
        for item, share in decided.items():
            a, b = answers[first][item], answers[second][item]
            rows.append(
                annotation(a.prompt, (a.output, b.output), (first, second), 1 - share, judge)
            )
    return rows
