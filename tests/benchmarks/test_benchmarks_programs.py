"""The real programs each do one iteration of the smallest setting, and exactly its work."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare import ours
from environments import HERE, PEERS, default_folder, is_complete, python_of
from rounds import Clock, play
from workload import SETTINGS

pytestmark = pytest.mark.slow


def plays(command: list[str], folder: Path) -> None:
    command = [*command, "--setting", "b"]
    clock = Clock(10_000, lambda _: None)
    played = play(SETTINGS["b"], {"it": command}, 1, clock, folder)["it"]
    assert played.failures == []
    (row,) = played.rounds
    assert row is not None
    phases = row["rollout"] + row["scoring"] + row["optimisation"]
    assert phases == pytest.approx(row["whole"])
    assert min(row["rollout"], row["scoring"], row["optimisation"]) > 0
    assert played.facts["threads"] == 2


@pytest.mark.parametrize("reward", ["sparse", "abc"])
def test_our_program_does_the_work(tmp_path: Path, reward: str) -> None:
    plays([*ours(), "--reward", reward], tmp_path)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_the_peers_do_the_work(tmp_path: Path, name: str) -> None:
    folder = default_folder()
    if not is_complete(name, folder):
        pytest.skip(f"no environment {name}: python experiments/benchmarks/peers/environments.py")
    plays([str(python_of(name, folder)), str(HERE / PEERS[name])], tmp_path)
