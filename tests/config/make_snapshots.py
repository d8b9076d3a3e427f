"""Write the composed configuration of every experiment at both scales: python tests/config/make_snapshots.py."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.train import conf_dir

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCALES = ("paper", "cpu")
ONE_SIZE = ("main_job",)
"""Experiments of the shipped model alone, whose numbers stand in their own file."""


def experiments() -> list[str]:
    """The experiments of conf/, as `experiment=` names them."""
    root = conf_dir() / "experiment"
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def sized() -> list[tuple[str, str]]:
    """Every experiment with every scale at which it runs."""
    return [
        (name, scale)
        for name in experiments()
        for scale in (SCALES[1:] if name in ONE_SIZE else SCALES)
    ]


def composed(*overrides: str) -> tuple[DictConfig, dict[str, str]]:
    """What Hydra composes from `overrides`, without its own part, and the options it chose."""
    whole, choices = _composed(overrides)
    return copy.deepcopy(whole), choices


@cache
def _composed(overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
    configuration.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        whole = compose("train", list(overrides), return_hydra_config=True)
    choices = dict(whole.hydra.runtime.choices)
    with open_dict(whole):
        del whole["hydra"]
    return whole, choices


def loaded_files(*overrides: str) -> list[str]:
    """The files, and schemas, that Hydra merges for `overrides`, in their order."""
    configuration.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("train", list(overrides), RunMode.RUN)
    return [str(item.config_path) for item in found.defaults]


def load(*overrides: str) -> Config:
    """The typed configuration of `overrides`, named as `tokencredit train` names it."""
    tree, choices = composed(*overrides)
    config = configuration.load(tree)
    config.run.experiment = choices["experiment"]
    config.run.scale = choices["scale"] if config.run.experiment else None
    config.run.scheme = choices.get("method") or choices["reward_scheme"]
    return config


def snapshots() -> Iterator[tuple[str, list[str]]]:
    """The name of every snapshot, and the overrides it is composed from."""
    yield "default", []
    for experiment, scale in sized():
        name = f"{experiment.replace('/', '__')}__{scale}"
        yield name, [f"experiment={experiment}", f"scale={scale}"]


def main() -> None:
    """Rewrite the folder of snapshots."""
    SNAPSHOTS.mkdir(exist_ok=True)
    for old in SNAPSHOTS.glob("*.yaml"):
        old.unlink()
    for name, overrides in snapshots():
        text = configuration.dump(load(*overrides))
        (SNAPSHOTS / f"{name}.yaml").write_text(text, encoding="utf-8")
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
