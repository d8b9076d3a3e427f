"""`tokencredit COMMAND`: the list of commands; the file of each is read when it is asked for."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from tokencredit.commands.later import add_later
from tokencredit.console import USER_ERROR, say, show, speaking
from tokencredit.errors import UserError
from tokencredit.machine.faults import fault, users_own
from tokencredit.machine.scratch import temporary_folder
from tokencredit.machine.stopping import STOPPED, Stopped
from tokencredit.pipeline.environment import take_over
from tokencredit.pipeline.launched import launch_of, without_local_rank
from tokencredit.redaction import redacted
from tokencredit.version import __version__

COMMANDS: Final = {
    "train": "tokencredit.commands.train:train",
    "plan": "tokencredit.commands.train:plan",
    "tune": "tokencredit.commands.tune:tune",
    "revise": "tokencredit.commands.revise:revise",
    "generate": "tokencredit.commands.generate:try_policy",
    "report": "tokencredit.commands.report:report",
    "credit": "tokencredit.commands.credit:credit_texts",
    "check-scheme": "tokencredit.commands.check_scheme:check",
    "check-judge": "tokencredit.commands.check_judge:check",
    "profile": "tokencredit.commands.profile:profile",
    "table": "tokencredit.commands.papers:table",
    "figure": "tokencredit.commands.papers:figure",
    "claims": "tokencredit.commands.papers:paper_claims",
    "page": "tokencredit.commands.papers:page",
    "reproduce": "tokencredit.commands.reproduce:reproduce_run",
    "bench": "tokencredit.bench.command:bench",
    "judge": "tokencredit.commands.judge:judge",
}
"""Where each command is: `module:name`."""
LAUNCHED: Final = (["train"], ["plan"])
"""Commands that several processes of a launcher may run together."""
ABOUT: Final = {
    "train": (
        "Train SFT → reward model → RL from one configuration; `train --help` lists all groups."
    ),
    "plan": "Say which stages of `train` with the same arguments would be reused or run, and why.",
    "tune": (
        "Try each method's grid with pilot seeds, and choose its numbers by the oracle's rating."
    ),
    "revise": "Look at some revisions of rejected answers, or say what all of them would cost.",
    "generate": "Try a trained policy: continue prompts with it.",
    "report": "Print the summary of a run and draw its figures and report.html again.",
    "credit": "Credit for texts and models of your own: a page with every token in its colour.",
    "check-scheme": (
        "Check that a scheme of rewards or advantages, your own included, keeps its promises."
    ),
    "check-judge": (
        "Check that a judge, your own included, keeps the promises that training relies on."
    ),
    "profile": (
        "Measure what a run's judge gives to each tenth of a response: reward_scheme=position."
    ),
    "table": (
        "Print a table of a paper with the numbers of runs; without a name, list the tables."
    ),
    "figure": (
        "Draw a figure of a paper from runs as PNG, PDF, and CSV; without a name, list the figures."
    ),
    "claims": (
        "Say of each claim of a paper whether runs support it; without a name, list the papers."
    ),
    "page": ("Write an experiment's page again, its numbers and figures from the committed cells."),
    "reproduce": (
        "Run a recorded run, or a committed cell, again: equal, or the first difference."
    ),
    "bench": "Time what a run does on this machine.",
    "judge": "Who wins: win rates, strengths, and an LLM as judge.",
}
"""Their lines in `tokencredit --help`, which imports none of them."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for _name, _about in ABOUT.items():
    add_later(app, _name, COMMANDS[_name], _about, passed_on=_name in {"train", "plan"})


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


def alone() -> None:
    """Take away what a launcher left in the environment; raises `UserError` where it has started
    several processes, which would all do the same."""
    launch = launch_of(os.environ)
    take_over(os.environ, launch)
    if launch is None or launch.size == 1:
        return
    if launch.rank > 0:
        sys.exit(USER_ERROR)  # the first process says why
    raise UserError(
        f"{' '.join(['tokencredit', *sys.argv[1:2]])}: is the work of one process, and "
        f"{launch.launcher} started {launch.size}; run it without, only train and plan know how"
    )


def main() -> None:
    """The console script; exit code 2 for a user's mistake, 75 for what a signal has stopped."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with speaking(), temporary_folder():
            sys.argv[1:] = without_local_rank(sys.argv[1:])
            if sys.argv[1:2] not in LAUNCHED:  # these read what a launcher says themselves
                alone()
            app()
    except Stopped as stopped:
        say(f"stopped: {stopped}; the same command goes on")
        sys.exit(STOPPED)
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
