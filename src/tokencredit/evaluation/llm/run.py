"""`judge llm`, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokencredit.canonical import digest
from tokencredit.console import say
from tokencredit.endpoint.client import Endpoint
from tokencredit.endpoint.settings import without_user
from tokencredit.errors import require
from tokencredit.evaluation.answers import Answers, matched, read_answers
from tokencredit.evaluation.compare.report import strength_summary, write_matrix
from tokencredit.evaluation.llm.ask import ask_all, known, too_short
from tokencredit.evaluation.llm.outcomes import (
    Cost,
    Judged,
    annotation_rows,
    judged,
    length_table,
    lengths,
    outcomes,
)
from tokencredit.evaluation.llm.position import position
from tokencredit.evaluation.llm.questions import Asking, Question, questions
from tokencredit.evaluation.llm.verdicts import Verdict, VerdictFile
from tokencredit.papers.win_tables import markdown, plain, table
from tokencredit.store.artifacts import check_writable
from tokencredit.store.files import write_json, write_text
from tokencredit.tracking.progress import Progress


def run(
    files: Sequence[Path],
    names: Sequence[str] | None,
    limit: int | None,
    asking: Asking,
    prices: tuple[float, float] | None,
    out: Path,
) -> str:
    """Ask what has not been asked, write all results; what is to be printed."""
    check_writable(out, "--out")
    answers, left = _chosen(read_answers(files, names), limit)
    if left:
        say(f"{left} prompts were not answered by all and are left out")
    asked = questions(answers, asking)
    with VerdictFile(out) as file:
        verdicts, fresh = _ask(asked, asking, file)
    found = judged(answers, verdicts, both_orders=asking.both_orders)
    costs = {"all": Cost.of(verdicts, prices), "now": Cost.of(fresh, prices)}
    return _write(answers, found, verdicts, asking, costs, out)


def _chosen(answers: Answers, limit: int | None) -> tuple[Answers, int]:
    """The answers to the first prompts that all generators answered, and how many others exist."""
    require(len(answers) >= 2, "--answers", ", ".join(answers), "answers of two models are needed")
    items, left = matched(answers)
    return {
        name: {item: own[item] for item in items[:limit]} for name, own in answers.items()
    }, left


def _ask(
    asked: Sequence[Question], asking: Asking, file: VerdictFile
) -> tuple[list[Verdict], list[Verdict]]:
    total = len({question.key for question in asked})
    there = total - len({q.key for q in asked if known(file, q, asking) is None})
    say(f"{total} questions, {there} of them answered before")
    endpoint = Endpoint(asking.endpoint)
    try:
        with Progress(max(total, 1), there, "judge") as bar:
            return ask_all(asked, asking, endpoint, file, lambda n: bar.update(n - 1, {}))
    except KeyboardInterrupt:
        say("interrupted; what was answered is kept, and the same command goes on from there")
        raise
    finally:
        endpoint.close()


def _write(
    answers: Answers,
    found: Judged,
    verdicts: Sequence[Verdict],
    asking: Asking,
    costs: Mapping[str, Cost],
    out: Path,
) -> str:
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
            "strengths": strength_summary(matrix),
            "outcomes": counts,
            **_oddities(verdicts),
            "left_out": dict(found.left_out),
            "identical_answers": found.identical,
            "position": order.plain(),
            "cost": {name: asdict(cost) for name, cost in costs.items()},
        },
    )
    write_json(out / "annotations.json", annotation_rows(answers, found, judge))
    paths = [out / "results.json", out / "annotations.json", *write_matrix(matrix, out)]
    told = [f"{count} {name}" for name, count in counts.items()]
    text = "\n\n".join(
        [
            f"judged by {judge}",
            markdown(matrix, errors=True),
            length_table(equal, matrix),
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
