"""The algorithm of docs/write-an-algorithm.md against its formula."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from batches import gradients, grouped_rollout, output_of, step
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.losses import log_ratio
from tokencredit.config import component_named, load_plugins

PAGE = Path(__file__).parents[2] / "docs" / "write-an-algorithm.md"


@pytest.fixture
def truncated(tmp_path: Path) -> type[Any]:
    """The class of the page's file."""
    (text,) = re.findall(r"```python\n# truncated.py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "truncated.py"
    path.write_text(text, encoding="utf-8")
    load_plugins([str(path)])
    return component_named("algorithm", "Truncated")


def test_tokens_count_by_their_ratio_up_to_the_cap(truncated: type[Any]) -> None:
    algorithm: Algorithm = truncated(cap=1.05)
    rollout = grouped_rollout([4, 1, 3, 6], [0, 0, 1, 1], width=8)
    output = output_of(rollout, shift=0.1, fill=torch.nan)
    targets, loss = step(algorithm, rollout, output)
    weight = log_ratio(output, rollout).detach().exp().clamp(max=1.05)
    slopes = gradients(output, loss.total)["logp"]
    assert torch.allclose(slopes, -weight * targets.advantages)
    cut = (weight[rollout.response_mask] >= 1.05).sum()
    assert 0 < int(cut) < 14 and loss.sums["truncated/cut"] == cut


def test_the_cap_follows_the_share_that_is_cut(truncated: type[Any]) -> None:
    algorithm: Algorithm = truncated()
    state = algorithm.initial_state()
    assert state["truncated/cap"] == 1.2
    caps = [
        algorithm.next_state(state, {"kl/k1": 0.0, **found}, 4)["truncated/cap"]
        for found in ({"truncated/cut": 0.2}, {"truncated/cut": 0.01}, {})
    ]
    assert caps == pytest.approx([1.32, 1.2 / 1.1, 1.2 / 1.1])
