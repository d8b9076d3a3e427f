"""`tokencredit judge …`."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.later import add_later
from tokencredit.commands.options import Apart, named
from tokencredit.console import show
from tokencredit.errors import require
from tokencredit.evaluation import formats, verdict_report
from tokencredit.store.artifacts import make_folder

judge = typer.Typer(
    help="Who wins: win rates, strengths, and an LLM as judge.",
    no_args_is_help=True,
    add_completion=False,
)

AnswerFiles = Annotated[
    list[Path],
    typer.Argument(
        help="answers.jsonl of `judge compare`, evaluation.jsonl of a run, AlpacaEval's "
        "model_outputs.json, or JSONL with instruction and output.",
    ),
]
Prior = Annotated[
    float,
    typer.Option(min=0, help="Drawn games added between every two players; 0: none."),
]


class Form(str, Enum):
    """A file format of a benchmark."""

    alpaca_eval = "alpaca_eval"
    mt_bench = "mt_bench"


@judge.callback()
def group() -> None:
    """Who wins: win rates, strengths, and an LLM as judge."""


@judge.command()
def winrate(
    annotations: Annotated[
        list[Path],
        typer.Option(
            help="AlpacaEval verdicts, repeatable: CSV with baseline, model, preference (1: "
            "baseline better, 2: model better, 0: draw), or annotations.json."
        ),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further such files.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for winrate.json and annotations.json.")
    ] = None,
    equal_length: Annotated[
        bool,
        typer.Option(
            "--equal-length",
            help="Also the rates at equal length; needs instruction, output_1, and output_2. Where "
            "three models met one baseline, with the difficulty of each instruction.",
        ),
    ] = False,
) -> None:
    """Win rates ± standard errors from verdicts that are there already.

    A draw is half a win; the standard error is that of the mean over prompts.
    """
    files = [*annotations, *(more or [])]
    show(verdict_report.winrate(files, out, equal_length=equal_length))


@judge.command()
def strengths(
    games: Annotated[
        Path | None,
        typer.Option(help="CSV with first, second, first_wins, second_wins, and perhaps draws."),
    ] = None,
    annotations: Annotated[
        list[Path] | None, typer.Option(help="Instead: verdicts as `judge winrate` reads them.")
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further verdicts.")
    ] = None,
    prior: Prior = 0.0,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """Bradley–Terry strengths: how good players are, whoever they happened to play.

    Raw win rates mislead where schedules differ. Strengths are on the log scale and sum to 0; each
    has the standard error and 95 % interval of the Fisher information.
    """
    files = [*(annotations or []), *(more or [])]
    require((games is None) != (not files), "--games", str(games), "give --games or --annotations")
    show(verdict_report.strength_table(games, files, prior, out))


@judge.command()
def export(
    answers: AnswerFiles,
    form: Annotated[Form, typer.Option("--format", help="Whose files to write.")],
    out: Annotated[Path, typer.Option(help="Folder; one file a generator.")] = Path("export"),
    names: Apart = None,
) -> None:
    """Write answers as AlpacaEval's model_outputs.json or MT-Bench's answer files (one turn)."""
    make_folder(out)
    found = formats.read_answers(answers, named(names))
    stems = formats.file_names(list(found))
    for name, own in found.items():
        if form is Form.alpaca_eval:
            show(formats.write_model_outputs(own, name, out / f"{stems[name]}.json"))
        else:
            show(formats.write_mt_bench(own, name, out / f"{stems[name]}.jsonl", time.time()))


add_later(
    judge,
    "compare",
    "tokencredit.commands.judge_compare:compare",
    "Win rates of models over the same held-out prompts, scored by an oracle.",
)
add_later(
    judge,
    "llm",
    "tokencredit.commands.judge_llm:llm",
    "Ask an LLM which answers are better; every pair of models, prompt by prompt.",
)
add_later(
    judge,
    "mt-bench",
    "tokencredit.commands.judge_mt_bench:mt_bench",
    "MT-Bench: models answer two turns, an LLM grades them, scores by turn and category.",
)
add_later(
    judge,
    "people",
    "tokencredit.commands.judge_people:people",
    "People as judges: blind sheets for annotators, and what their answers come to.",
)
