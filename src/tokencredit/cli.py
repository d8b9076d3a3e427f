"""`tokencredit COMMAND`: training and planning go to Hydra, the rest are small tools on results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tokencredit import __version__
from tokencredit.bench.command import bench
from tokencredit.console import USER_ERROR, say, show, speaking, visible
from tokencredit.environment import take_over
from tokencredit.errors import UserError
from tokencredit.evaluation.command import judge
from tokencredit.evaluation.options import Plugins
from tokencredit.faults import fault, users_own
from tokencredit.redaction import redacted
from tokencredit.reports import command as reports
from tokencredit.scratch import temporary_folder

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.add_typer(judge, name="judge")
reports.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        show(f"tokencredit {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Token-level credit in RLHF: which tokens earned the preference?"""


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train SFT → reward model → RL from one configuration; `train --help` lists all groups."""
    _train(context.args)


@app.command(context_settings=PASS_ON)
def plan(context: typer.Context) -> None:
    """Say which stages of `train` with the same arguments would be reused or run, and why.

    `plan --help` explains what it prints.
    """
    _train(["--plan", *context.args])


@app.command()
def generate(  # noqa: PLR0913, PLR0917 - one for each option
    run: Annotated[Path, typer.Argument(help="A run folder, or any Hugging Face model folder.")],
    prompt: Annotated[list[str], typer.Option(help="Text to continue; repeatable.")],
    samples: Annotated[int, typer.Option(min=1, help="Continuations of each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest continuation.")] = 32,
    temperature: Annotated[float, typer.Option(min=0.01, help="Logits are divided by this.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    plugin: Plugins = None,
) -> None:
    """Try a trained policy: continue prompts with it."""
    from tokencredit.config import load_plugins
    from tokencredit.try_policy import continuations

    load_plugins(plugin or [])
    for text, replies in continuations(run, prompt, samples, max_new_tokens, temperature, seed):
        for reply in replies:
            asked = visible(text)
            show((typer.style(asked, bold=True) if sys.stdout.isatty() else asked) + visible(reply))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")], plugin: Plugins = None
) -> None:
    """Print the summary of a run and draw its figures and report.html again."""
    from tokencredit.config import load_plugins
    from tokencredit.reports.side_by_side import print_continuations
    from tokencredit.reports.stage_report import (
        is_stage_folder,
        stage_summary,
        write_stage_report,
    )
    from tokencredit.reports.summary import closing_summary, write_report
    from tokencredit.trust import check_folder

    if is_stage_folder(run):
        write_stage_report(run)
        show(stage_summary(run))
        return
    if not (run / "metrics.jsonl").is_file():
        raise UserError(f"{run}: is no run folder (it has no metrics.jsonl)")
    load_plugins(plugin or [])
    check_folder(run)
    write_report(run)
    show(closing_summary(run))
    print_continuations(run)


@app.command("check-scheme")
def check(
    name: Annotated[
        str, typer.Argument(help="A reward scheme: rto_v2, abc, …, or the name of a class.")
    ],
    plugin: Annotated[list[str] | None, typer.Option(help="Import this first; repeatable.")] = None,
    config_dir: Annotated[
        list[Path] | None, typer.Option(help="More YAML groups, laid out like conf/; repeatable.")
    ] = None,
) -> None:
    """Check that a reward scheme, your own included, keeps the promises that training relies on."""
    from tokencredit.check_scheme import broken_promises, examine
    from tokencredit.config import load_plugins
    from tokencredit.train import named_scheme

    load_plugins(plugin or [])
    scheme = named_scheme(name, config_dir or [])
    found = examine(scheme)
    for promise, problem in found.items():
        if not problem:
            show(f"ok  {promise}")
    broken_promises(scheme, found)


@app.command()
def profile(
    run: Annotated[Path, typer.Argument(help="A run folder whose judge gives weights to tokens.")],
    rollouts: Annotated[int, typer.Option(min=1, help="Responses of its SFT model.")] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    write: Annotated[
        Path | None, typer.Option(help="A YAML file that is to have the ten weights.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Measure what a run's judge gives to each tenth of a response: reward_scheme=position."""
    from tokencredit import profile as profiles
    from tokencredit.config import load_plugins

    load_plugins(plugin or [])
    found = profiles.measure(run, rollouts, seed)
    show(found.text())
    if write is not None:
        profiles.write(found, write)
        say(f"wrote {write}")


def _train(arguments: list[str]) -> None:
    from tokencredit import train as entry

    sys.argv = ["tokencredit train", *arguments]
    entry.main()


def main() -> None:
    """The console script; exit code 2 for a user's mistake."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with speaking(), temporary_folder():
            take_over(os.environ)
            app()
    except (Exception, SystemExit) as error:
        ended = isinstance(error, SystemExit)  # by ourselves, or by code of the user's
        known = error if isinstance(error, UserError) else None if ended else fault(error)
        mistake = known or users_own(error)
        if mistake is None:
            raise
        say(f"error: {redacted(str(mistake))}")
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
