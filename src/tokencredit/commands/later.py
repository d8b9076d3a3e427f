"""Commands whose file is read when they are called."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

import typer

PASS_ON: Final[dict[str, object]] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""Of a command that leaves its arguments, `--help` among them, to somebody else."""


def add_later(
    app: typer.Typer, name: str, place: str, about: str, *, passed_on: bool = False
) -> None:
    """Add the command at `place`, `module:name` of a function or of a group of commands.

    `about` is its line in the help of `app`, which imports nothing. `passed_on`: the function takes
    the context, and reads its arguments itself.
    """

    def call(context: typer.Context) -> None:
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            command = _alone(command, PASS_ON if passed_on else {})
        typer.main.get_command(command)(context.args, prog_name=context.command_path)

    app.command(name, help=about, context_settings=PASS_ON)(call)


def _alone(command: Callable[..., None], settings: dict[str, object]) -> typer.Typer:
    """A program of one command."""
    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command(context_settings=settings)(command)
    return program
