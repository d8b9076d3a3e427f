"""`tokencredit judge people …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Apart, named
from tokencredit.console import show
from tokencredit.evaluation.formats import read_answers
from tokencredit.evaluation.people import count, write_sheets

people = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@people.callback()
def group() -> None:
    """People as judges: blind sheets for annotators, and what their answers come to."""


@people.command()
def sheets(  # noqa: PLR0913, PLR0917 - one for each option
    answers: Annotated[
        list[Path],
        typer.Option(
            help="Answers of the methods, repeatable: answers.jsonl of `judge compare`, "
            "evaluation.jsonl of a run, model_outputs.json, or JSONL with instruction and output."
        ),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further such files.")
    ] = None,
    names: Apart = None,
    samples: Annotated[int, typer.Option(min=1, help="Prompts, drawn by the seed.")] = 100,
    annotators: Annotated[int, typer.Option(min=1, help="Sheets, one for each.")] = 5,
    seed: Annotated[
        int, typer.Option(help="Of the choice of prompts, their order, and the letters.")
    ] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for sheet_1.csv, …, and key.json, which nobody else sees.")
    ] = Path("people"),
) -> None:
    """Write a blind sheet for each annotator: same prompts, order and letters of their own.

    Whoever fills it in writes the letter of the best answer into the column `best`.
    """
    found = read_answers([*answers, *(more or [])], named(names))
    for path in write_sheets(found, samples, annotators, seed, out):
        show(path)


@people.command("count")
def votes(
    key: Annotated[Path, typer.Option(help="The key.json of these sheets.")],
    sheets: Annotated[
        list[Path],
        typer.Option(help="Sheets that came back, repeatable; one may hold several of them."),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further sheets.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Number of a sheet that never came back; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for all numbers.")] = None,
) -> None:
    """The share of samples at which each method was the most preferred, with its interval.

    Every sheet must be complete: what is unknown, missing, doubled, or no letter of its row is
    refused, and nothing is counted.
    """
    show(count([*sheets, *(more or [])], key, without or [], out))
