"""`tokencredit judge mt-bench …`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.judge_llm import (
    BaseURL,
    Concurrency,
    KeyVariable,
    ModelName,
    PerMinute,
    PriceIn,
    PriceOut,
    Retries,
    Temperature,
    Timeout,
    prices_of,
)
from tokencredit.commands.options import Plugins, named
from tokencredit.config import load_plugins
from tokencredit.console import show
from tokencredit.endpoint.settings import EndpointSettings
from tokencredit.evaluation.compare.generate import GenerationSettings
from tokencredit.evaluation.compare.players import check_distinct, players
from tokencredit.evaluation.formats import file_names
from tokencredit.evaluation.mt_bench.answer import converse
from tokencredit.evaluation.mt_bench.files import (
    REFERENCES,
    conversation_rows,
    read_conversations,
    read_judgements,
    read_questions,
    with_references,
)
from tokencredit.evaluation.mt_bench.grade import Grading, grade
from tokencredit.evaluation.mt_bench.scores import report
from tokencredit.store.artifacts import check_writable
from tokencredit.store.files import write_rows

mt_bench = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Questions = Annotated[
    Path,
    typer.Option(
        help="MT-Bench's question.jsonl: question_id, category, turns, and perhaps reference."
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first questions.")]
Out = Annotated[
    Path, typer.Option(help="Folder; model_answer/ and model_judgment/ in it are as FastChat's.")
]


@mt_bench.callback()
def group() -> None:
    """MT-Bench: models answer two turns, an LLM grades each answer, scores by turn and category."""


@mt_bench.command("answer")
def answers(  # noqa: PLR0913, PLR0917 - one for each option
    models: Annotated[
        list[str],
        typer.Argument(metavar="RUN_OR_MODEL...", help="Run folders, model folders, or hub:NAME."),
    ],
    questions: Questions,
    names: Annotated[
        str | None, typer.Option(help="Names in their order, with commas, no two alike.")
    ] = None,
    limit: Limit = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of all answers; 0: greedy. Default: by category, 0.7 for writing and roleplay, "
            "0.1 for stem and humanities, 0 for extraction, math, coding, and reasoning.",
        ),
    ] = None,
    top_p: Annotated[float, typer.Option(help="Nucleus of sampling; 1: all ids.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Questions at a time; changes no answer.")] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    store: Annotated[
        Path | None, typer.Option(help="Store of the runs. Default: the one in their config.yaml.")
    ] = None,
    out: Out = Path("mt_bench"),
    plugin: Plugins = None,
) -> None:
    """Answer every turn; the second follows on the model's own first answer.

    Answers are kept by content in generations.jsonl: what was cut short goes on where it stopped.
    """
    load_plugins(plugin or [])
    check_writable(out, "--out")
    asked = read_questions(questions)[:limit]
    found = players(models, named(names), store)
    check_distinct(found, named=True)
    settings = GenerationSettings(top_p=top_p, seed=seed, batch=batch, device=device)
    stems = file_names([player.name for player in found])
    for player in found:
        said = converse(player, asked, settings, max_new_tokens, temperature, out)
        path = out / "model_answer" / f"{stems[player.name]}.jsonl"
        write_rows(path, conversation_rows(player.name, said, time.time()))
        show(path)


@mt_bench.command("grade")
def grades(  # noqa: PLR0913, PLR0917 - one for each option
    questions: Questions,
    answers: Annotated[
        list[Path],
        typer.Option(help="Answers as `mt-bench answer` or FastChat writes them, repeatable."),
    ],
    base_url: BaseURL,
    model: ModelName,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further answers.")
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            help="Right answers, in a file like a model's (FastChat's reference_answer/). "
            "Default: those in --questions."
        ),
    ] = None,
    limit: Limit = None,
    temperature: Temperature = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longest reply.")] = 2048,
    key_variable: KeyVariable = "OPENAI_API_KEY",
    concurrency: Concurrency = 4,
    requests_per_minute: PerMinute = None,
    timeout: Timeout = 60.0,
    retries: Retries = 6,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    out: Out = Path("mt_bench"),
) -> None:
    """Ask an LLM to grade every answer from 1 to 10; what was graded before is not asked again.

    A reply that has no rating in double brackets, or two that differ, one off the scale, or no end
    within the length limit, is excluded and counted.
    """
    check_writable(out, "--out")
    asked = read_questions(questions)[:limit]
    if references is not None:
        asked = with_references(asked, read_conversations([references], REFERENCES))
    grading = Grading(
        endpoint=EndpointSettings(
            base_url=base_url,
            model=model,
            key_variable=key_variable,
            temperature=temperature,
            max_tokens=max_tokens,
            timeout=timeout,
            retries=retries,
            per_minute=requests_per_minute,
        ),
        concurrency=concurrency,
    )
    said = read_conversations([*answers, *(more or [])])
    show(grade(asked, said, grading, prices_of(price_in, price_out), out, time.time()))


@mt_bench.command("scores")
def table(
    questions: Questions,
    judgements: Annotated[
        list[Path],
        typer.Option(
            help="Judgements of one judge as `mt-bench grade` or FastChat writes them, repeatable."
        ),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further judgements.")
    ] = None,
) -> None:
    """Scores by turn and category from judgements that are there already."""
    show(report(read_judgements([*judgements, *(more or [])]), read_questions(questions))[0])
