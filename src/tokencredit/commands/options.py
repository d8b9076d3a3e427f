"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Names = Annotated[
    str | None,
    typer.Option(help="Names in their order, with commas; one name twice: two seeds of a method."),
]
Apart = Annotated[
    str | None,
    typer.Option(
        "--names", help="Names of the generators in their order, with commas, no two alike."
    ),
]

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        help="A plug-in that a run's config.yaml names: its code is run only if named here, too; "
        "repeatable."
    ),
]

Components = Annotated[
    list[str] | None,
    typer.Option(help="A Python file or module with components of your own; repeatable."),
]


def named(names: str | None) -> list[str] | None:
    """The names of --names."""
    return None if names is None else [name.strip() for name in names.split(",")]
