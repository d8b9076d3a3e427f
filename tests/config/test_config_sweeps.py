"""The sweep of every experiment: how many cells, and that each of them composes."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from tokencredit import config as configuration
from tokencredit.train import conf_dir

from .make_snapshots import SCALES, load, sized

CELLS = {
    ("abc/positive_generation", "paper"): 50,
    ("abc/positive_generation", "cpu"): 80,
    ("abc/controls", "paper"): 40,
    ("abc/controls", "cpu"): 20,
    ("abc/beta_sweep", "paper"): 110,
    ("abc/beta_sweep", "cpu"): 25,
    ("abc/generation_length", "paper"): 200,
    ("abc/generation_length", "cpu"): 40,
    ("abc/positive_generation_authors", "paper"): 50,
    ("abc/positive_generation_authors", "cpu"): 50,
    ("abc/summarisation", "paper"): 15,
    ("abc/summarisation", "cpu"): 6,
    ("abc/single_turn_dialogue", "paper"): 15,
    ("abc/single_turn_dialogue", "cpu"): 6,
    ("main_job", "cpu"): 5,
}
LENGTHS = {(20, 30), (40, 60), (90, 110), (140, 160)}


def cells(experiment: str, scale: str) -> list[list[str]]:
    """The overrides of each cell, as Hydra's own sweeper makes them of `hydra.sweeper.params`."""
    configuration.register()
    GlobalHydra.instance().clear()
    chosen = [f"experiment={experiment}", f"scale={scale}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        whole = compose("train", chosen, return_hydra_config=True)
    params = whole.hydra.sweeper.params or {}
    given = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides(given)
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return [[*chosen, *cell] for cell in batch]


@pytest.mark.parametrize(("experiment", "scale"), CELLS)
def test_the_sweep_of_an_experiment(experiment: str, scale: str) -> None:
    found = cells(experiment, scale)
    assert len(found) == len({tuple(cell) for cell in found}) == CELLS[experiment, scale]


@pytest.mark.parametrize(("experiment", "scale"), sized())
def test_every_value_of_a_sweep_composes(experiment: str, scale: str) -> None:
    """The first cell of each value of each swept key."""
    seen: set[str] = set()
    for cell in cells(experiment, scale):
        if set(cell) - seen and not all(part in seen for part in cell if "seed=" not in part):
            load(*cell)
            seen |= set(cell)


def test_both_ends_of_a_range_are_swept_together() -> None:
    found = [load(*cell).rollout for cell in cells("abc/generation_length", "cpu")[::20]]
    assert [(r.min_new_tokens, r.max_new_tokens) for r in found] == [(20, 30), (90, 110)]
    one_of_each = cells("abc/generation_length", "paper")[::50]
    ranges = {
        (load(*c[:3]).rollout.min_new_tokens, load(*c[:3]).rollout.max_new_tokens)
        for c in one_of_each
    }
    assert ranges == LENGTHS


def test_papers_A9_the_beta_sweep_has_half_the_batch() -> None:
    paper, cpu = (load("experiment=abc/beta_sweep", f"scale={scale}") for scale in SCALES)
    assert (paper.algorithm.batch_size, paper.algorithm.minibatches, paper.steps) == (8, 8, 251)  # type: ignore[attr-defined]
    assert (cpu.algorithm.batch_size, cpu.algorithm.minibatches, cpu.steps) == (8, 2, 101)  # type: ignore[attr-defined]
