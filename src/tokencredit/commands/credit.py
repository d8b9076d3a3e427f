"""`tokencredit credit`: the credit of texts in a file, by models in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from tokencredit.config import load_plugins
from tokencredit.console import say
from tokencredit.data.contents import said
from tokencredit.data.files import Row, file_rows
from tokencredit.data.records import Unusable
from tokencredit.errors import UserError, require
from tokencredit.surface.credited import check_ending
from tokencredit.surface.crediting import credit
from tokencredit.surface.texts import Prompt

Plugins = Annotated[
    list[str] | None,
    typer.Option(help="A file or module with judges and schemes of your own; repeatable."),
]
YES: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
SHOWN: Final = 60
"""Characters of a value in an error."""


def credit_texts(  # noqa: PLR0913, PLR0917 - one for each option
    text: Annotated[
        Path,
        typer.Option(help="JSONL, CSV, Parquet, or Arrow: prompt, response, and perhaps finished."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Such as reward_scheme.beta=0.5."),
    ] = None,
    reward_model: Annotated[
        list[str] | None, typer.Option(help="Folder, or name on the hub; several: an ensemble.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The same, or a run's folder.")] = None,
    reference: Annotated[str | None, typer.Option(help="What DPO started from.")] = None,
    dpo: Annotated[str | None, typer.Option(help="The DPO model.")] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=FOLDER: what a stage of your own judge made; repeatable."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Left out: that of the policy, or of the first model.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Left out: the scheme's own.")] = None,
    scheme: Annotated[str, typer.Option(help="An option of reward_scheme.")] = "abc",
    scorer: Annotated[str | None, typer.Option(help="Left out: the reward model.")] = None,
    out: Annotated[
        Path, typer.Option(help="A page (.html), a picture (.svg), or all numbers (.jsonl).")
    ] = Path("credit.html"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plugin: Plugins = None,
    config_dir: Annotated[
        list[Path] | None, typer.Option(help="More YAML groups, laid out like conf/; repeatable.")
    ] = None,
) -> None:
    """Credit for texts and models of your own: a page with every token in its colour."""
    load_plugins(plugin or [])
    check_ending(out)
    rows = dict(enumerate(file_rows(text), start=1))
    pairs = [_pair(text, number, row) for number, row in rows.items()]
    known = dict.fromkeys(name for row in rows.values() for name in row)
    found = credit(
        [prompt for prompt, _ in pairs],
        [response for _, response in pairs],
        tokenizer=tokenizer,
        judge=judge,
        scheme=scheme,
        scorer=scorer,
        reward_model=reward_model or None,
        policy=policy,
        reference=reference,
        dpo=dpo,
        artifacts=_named(artifact or []),
        finished=[_finished(text, number, row) for number, row in rows.items()],
        columns={name: [row.get(name) for row in rows.values()] for name in known},
        overrides=overrides or [],
        config_dirs=config_dir or [],
        device=device,
    )
    say(f"wrote {found.save(out)}: {len(found)} responses")


def _pair(file: Path, number: int, row: Row) -> tuple[Prompt, str]:
    """Prompt and response of a row; `UserError` that names what is no text."""
    missing = [name for name in ("prompt", "response") if name not in row]
    if missing:
        raise UserError(
            f"--text {file}: row {number} has no column {', '.join(missing)}; it has "
            f"{', '.join(row) or 'none'}"
        )
    try:
        prompt, response = (said(row[name], name) for name in ("prompt", "response"))
    except Unusable as reason:
        raise UserError(f"--text {file}: row {number}: {reason}") from reason
    if not isinstance(response, str):
        raise UserError(f"--text {file}: row {number}: response is a conversation; give its text")
    return prompt, response


def _finished(file: Path, number: int, row: Row) -> bool:
    """What the column says; true without it."""
    value = row.get("finished", True)
    meant = value if isinstance(value, bool) else YES.get(str(value).strip().lower())
    if meant is None:
        raise UserError(
            f"--text {file}: row {number}: finished = {str(value)[:SHOWN]!r} must be true or false"
        )
    return meant


def _named(pairs: Sequence[str]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    for role, folder in found.items():
        require(bool(role and folder), "--artifact", f"{role}={folder}", "write ROLE=FOLDER")
    return found
