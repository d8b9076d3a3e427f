"""A configuration from choices, without a command: as `train` composes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra

from tokencredit import config as configuration
from tokencredit.composing.explain import explain
from tokencredit.composing.grammar import check_grammar, check_meaning, spelled
from tokencredit.config import Config
from tokencredit.user_code.plugins import check_options, conf_dir


def composed(choices: Sequence[str], folders: Sequence[Path] = ()) -> Config:
    """What `train` makes of these `GROUP=OPTION` and `KEY=VALUE`; raises what it would say.

    `folders`: more YAML groups, laid out like conf/. A program that runs under Hydra itself is left
    as it was.
    """
    configuration.register()
    check_options(folders)
    check_grammar(choices, multirun=False)
    meant = spelled(choices, folders)
    more = ", ".join(f"file://{folder.resolve()}" for folder in folders)
    try:
        with _own_hydra(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            tree = hydra.compose("train", [*meant, f"hydra.searchpath=[{more}]"])
        check_meaning(meant, tree)
        return configuration.load(tree)
    except Exception as error:
        mistake = explain(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Let Hydra be begun although it may run already."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
