"""The single entry point: compose, validate, plan, run the stages, summarise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from tokencredit import config as configuration
from tokencredit.pipeline import execute


def conf_dir() -> Path:
    """The folder of the configuration groups: inside an installed wheel, else of the clone."""
    here = Path(__file__).parent
    inside = here / "conf"
    return inside if inside.is_dir() else here.parent.parent / "conf"


def task(composed: DictConfig) -> None:
    config = configuration.load(composed)
    execute(config)


def main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"
    configuration.register()
    hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")(task)()


if __name__ == "__main__":
    main()
