"""`judge llm`: read the answers, ask about each pair, work out who won, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokencredit.console import say
from tokencredit.endpoint.client import Endpoint
from tokencredit.errors import require
from tokencredit.evaluation.formats import Answers, matched, read_answers
from tokencredit.evaluation.llm.ask import ask_all, known
from tokencredit.evaluation.llm.outcomes import Cost, judged
from tokencredit.evaluation.llm.questions import Asking, Question, questions
from tokencredit.evaluation.llm.report import report
from tokencredit.evaluation.llm.verdicts import Verdict, VerdictFile
from tokencredit.store.artifacts import check_writable
from tokencredit.tracking.progress import Progress


def run(
    files: Sequence[Path],
    names: Sequence[str] | None,
    limit: int | None,
    asking: Asking,
    prices: tuple[float, float] | None,
    out: Path,
) -> str:
    """Ask what has not been asked, write all results, and return the text to print."""
    check_writable(out, "--out")
    answers, left = _chosen(read_answers(files, names), limit)
    if left:
        say(f"{left} prompts were not answered by all and are left out")
    asked = questions(answers, asking)
    with VerdictFile(out) as file:
        verdicts, fresh = _ask(asked, asking, file)
    found = judged(answers, verdicts, both_orders=asking.both_orders)
    costs = {"all": Cost.of(verdicts, prices), "now": Cost.of(fresh, prices)}
    return report(answers, found, verdicts, asking, costs, out)


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
