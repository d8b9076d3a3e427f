"""Plans of runs that use models and data that people bring along, made in the test's process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from case_data import SHORT, review, write_jsonl
from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.pipeline import pipeline
from tokencredit.store.artifacts import Plan
from tokencredit.user_code.plugins import conf_dir


@cache
def composed(overrides: tuple[str, ...]) -> str:
    """What `tokencredit train OVERRIDES` would run, as YAML."""
    configuration.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = compose("train", list(overrides))
    return configuration.dump(configuration.load(tree))


SHORT_TEXTS = "dataset.prompt.min_characters=100"
"""The reviews have fewer characters than the prompts of others are asked for."""


def small(place: Path, *overrides: str) -> Config:
    """The configuration of a short run on reviews, with store and runs in `place`."""
    data = place / "reviews.jsonl"
    if not data.exists():
        write_jsonl(data, (review(number) for number in range(240)))
    text = composed(
        (*SHORT, "dataset.source=path", f"dataset.path={data}", SHORT_TEXTS, *overrides)
    )
    written = place / "config.yaml"
    written.write_text(text, encoding="utf-8")
    config = configuration.read(written)
    config.store, config.runs_dir = str(place / "store"), str(place / "runs")
    config.experiments_dir = None
    return config


def planned(place: Path, *overrides: str) -> list[Plan]:
    """The plan of a short run."""
    return pipeline.plan(small(place, *overrides))


def refusal(place: Path, *overrides: str) -> str:
    """The one line with which a short run is refused, by `plan`, and before any work by `train`."""
    with pytest.raises(UserError) as planning:
        planned(place, *overrides)
    with pytest.raises(UserError) as training:
        pipeline.execute(small(place, *overrides))
    assert str(planning.value) == str(training.value)
    assert not (place / "store").exists()
    assert "\n" not in str(planning.value)
    return str(planning.value)


def model(role: str, folder: Path, **more: str) -> list[str]:
    """Overrides for a model in a folder; `more` are further keys beside its path."""
    given = {"source": "path", "path": str(folder), **more}
    return [f"model.{role}.{key}={value}" for key, value in given.items()]
