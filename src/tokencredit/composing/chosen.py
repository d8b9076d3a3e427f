"""A configuration from choices, without a command: as `train` composes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from tokencredit import config as configuration
from tokencredit.composing.arguments import shown_name
from tokencredit.composing.explain import explain
from tokencredit.composing.grammar import check_grammar, check_meaning, spelled
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.papers.cells import experiments_dir
from tokencredit.user_code.plugins import check_options, conf_dir

T = TypeVar("T")


def composed(choices: Sequence[str], folders: Sequence[Path] = ()) -> Config:
    """What `train` makes of these `GROUP=OPTION` and `KEY=VALUE`; raises what it would say.

    `folders`: more YAML groups, laid out like conf/. A program that runs under Hydra itself is left
    as it was.
    """
    return _composed(choices, folders)[0]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A configuration as `train` makes and names it, and what its experiment sweeps."""

    config: Config
    options: Mapping[str, str]
    """The option of each group."""
    swept: Mapping[str, str]
    """What `hydra.sweeper.params` holds: values with commas, by key."""


def chosen(choices: Sequence[str], folders: Sequence[Path] = ()) -> Chosen:
    """As `composed`, named as a run of these choices is; without plug-ins."""
    config, settings = _composed(choices, folders)
    options = dict(settings.runtime.choices)
    name_as_chosen(config, options, choices)
    swept = settings.sweeper.get("params") or {}
    return Chosen(config, options, {str(key): str(value) for key, value in swept.items()})


def option(group: str, name: str, folders: Sequence[Path] = ()) -> object:
    """The component that `group=name` chooses, whatever it fits; raises what `train` would say."""
    return _made([f"{group}={name}"], folders, lambda tree: OmegaConf.to_object(tree[group]))[0]


def _composed(choices: Sequence[str], folders: Sequence[Path]) -> tuple[Config, DictConfig]:
    """The configuration, and Hydra's own settings."""
    return _made(choices, folders, configuration.load)


def _made(
    choices: Sequence[str], folders: Sequence[Path], make: Callable[[DictConfig], T]
) -> tuple[T, DictConfig]:
    """What `make` gives for the composed tree, and Hydra's own settings."""
    configuration.register()
    check_options(folders)
    check_grammar(choices, multirun=False)
    meant = spelled(choices, folders)
    more = ", ".join(f"file://{folder.resolve()}" for folder in folders)
    try:
        with _own_hydra(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            whole = [*meant, f"hydra.searchpath=[{more}]"]
            tree = hydra.compose("train", whole, return_hydra_config=True)
        with open_dict(tree):
            settings = tree.pop("hydra")
        check_meaning(meant, tree)
        return make(tree), settings
    except Exception as error:
        mistake = explain(error)
        if mistake is None or mistake is error:
            raise
        raise mistake from error


KEEP: Final = "keep"
"""The option of `advantage_scheme` that is no part of a run's name."""


class Clash(UserError):
    """Options that exclude each other: no cell of a sweep over them need be tried."""


def name_as_chosen(config: Config, choices: Mapping[str, str], typed: Sequence[str]) -> None:
    """Fill in what a configuration takes from the options that were chosen, and from the machine.

    `choices` are Hydra's, by group; `typed` the overrides of the run. A scheme that was typed gives
    the run its name, also where a method has another; an advantage scheme is added to the name. A
    run without rollouts, which reads neither, is called by its method, or by what it ends with.
    """
    given = {text.partition("=")[0]: text.partition("=")[2] for text in typed}
    scheme, method = choices["reward_scheme"], choices.get("method")
    if {"method", "reward_scheme"} <= given.keys():
        raise Clash(
            f"reward_scheme = {given['reward_scheme']!r}: method={method} has a scheme; leave one "
            "of the two out (an experiment may sweep methods), or write a method of your own"
        )
    config.run.experiment = choices.get("experiment")
    config.run.scale = choices["scale"] if config.run.experiment else None
    config.run.scheme = scheme if "reward_scheme" in given else method or scheme
    changed = given.get("advantage_scheme", KEEP)
    if not config.algorithm.rolls_out:
        named = None if "algorithm" in given else method
        config.run.scheme = named or config.algorithm.ends_with
    elif changed != KEEP:
        config.run.scheme += f"_{changed}"
    config.model.name = shown_name(config.model)
    if config.store == "store":
        config.store = os.environ.get("TOKENCREDIT_STORE", "store")
    config.experiments_dir = experiments_dir(config.experiments_dir)


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Let Hydra be begun although it may run already."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running
