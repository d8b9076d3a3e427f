"""Former names are an error on the command line and in users' YAML, which names today's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.config import COMPONENTS

from .conftest import Command

NEW = "algorithm.optimizer.course: is called 'schedule' now"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["algorithm.optimizer.course=linear"], NEW),
        (["+algorithm.optimizer.course=linear"], NEW),
        (
            ["algorithm.value_optimizer.warmup_share=0.1"],
            "algorithm.value_optimizer.warmup_share: is called 'warmup_fraction' now",
        ),
    ],
)
def test_a_former_name_on_the_command_line(entry: Command, arguments: list[str], said: str) -> None:
    ended = entry("--plan", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_a_former_name_in_a_users_file(entry: Command, tmp_path: Path) -> None:
    place = tmp_path / "own" / "algorithm"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(
        "defaults: [ppo]\n\noptimizer:\n  course: linear\n", encoding="utf-8"
    )
    ended = entry("--plan", "--config-dir", str(tmp_path / "own"), "algorithm=mine")
    assert ended.code == 2
    assert NEW in ended.err


@pytest.fixture(autouse=True)
def own_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plug-in registers here is gone afterwards."""
    known = {group: [*kinds] for group, kinds in COMPONENTS.items()}
    monkeypatch.setattr("tokencredit.config.COMPONENTS", known)


PLUGIN = '''
from dataclasses import dataclass

from tokencredit.config import COMPONENTS
from tokencredit.config import register_component
from tokencredit.fields import named, number, retired
from tokencredit.rewards.redistribute import Redistribute


@named("Evenly")
@retired("depth", 2)
@dataclass(slots=True, kw_only=True)
class Smoothly(Redistribute):
    """A scheme that had another name."""

    width: float = number(0.5, above=0)

    def __post_init__(self) -> None:
        """Asks nothing of its base."""


register_component("reward_scheme", Smoothly)
'''


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reward_scheme=Evenly"], "reward_scheme = 'Evenly': is called 'Smoothly' now"),
        (["reward_scheme=Smoothly", "reward_scheme.depth=2"], "reward_scheme.depth: was retired"),
        (["reward_scheme=Smoothly", "+reward_scheme.depth=3"], "reward_scheme.depth: was retired"),
        (["reward_scheme=Smoothly", "reward_scheme.width=0"], "reward_scheme.width = 0.0: must be"),
    ],
)
def test_classes_of_plug_ins_have_the_same_doors(
    entry: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    plugin = tmp_path / "smoothly.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    ended = entry("--plan", "--plugin", str(plugin), *arguments)
    assert ended.code == 2
    assert said in ended.err
