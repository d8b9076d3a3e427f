"""`tokencredit train` and `plan`: the arguments go to Hydra."""

from __future__ import annotations

import sys

import typer

from tokencredit import train as entry


def train(context: typer.Context) -> None:
    """Train SFT → reward model → RL from one configuration; `train --help` lists all groups."""
    _train(context.args)


def plan(context: typer.Context) -> None:
    """Say which stages of `train` with the same arguments would be reused or run, and why.

    `plan --help` explains what it prints.
    """
    _train(["--plan", *context.args])


def _train(arguments: list[str]) -> None:
    sys.argv = ["tokencredit train", *arguments]
    entry.main()
