"""Five steps in single precision, stored and compared: no number moves without somebody saying so.

Processors differ in the last bits, hence 1e-4. After a change that is meant:
`python tests/golden/make_golden.py`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tokencredit.rewards.redistribute import Redistribute

ROUNDING = {"ppo/ratio_max_dev"}
"""Rounding itself, compared with a bound."""


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    """The script that makes the golden run."""
    spec = importlib.util.spec_from_file_location(
        "make_golden", Path(__file__).with_name("make_golden.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(log: list[dict[str, object]], stored: list[dict[str, object]]) -> list[str]:
    """The metrics that are not those stored, as `step name: found stored`."""
    found = []
    for step, (now, then) in enumerate(zip(log, stored, strict=True)):
        assert now.keys() == then.keys(), now.keys() ^ then.keys()
        for name in now.keys() - ROUNDING:
            same = (
                now[name] == then[name]
                if name == "tokens"
                else now[name] == pytest.approx(then[name], rel=1e-4, abs=1e-6)
            )
            if not same:
                found.append(f"{step} {name}: {now[name]} {then[name]}")
    return found


def test_golden_run(golden: ModuleType) -> None:
    stored = json.loads(golden.NUMBERS.read_text())
    log = golden.golden_run()
    assert differences(log, stored) == []
    assert all(row["ppo/ratio_max_dev"] < 1e-5 for row in log)
    assert len(stored) == golden.STEPS == 5


def test_golden_run_would_notice(golden: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(golden.NUMBERS.read_text())
    pay = Redistribute.token_rewards

    def late(self: Redistribute, rollout: object, judgement: object) -> torch.Tensor:
        """Every reward one token late."""
        return torch.roll(pay(self, rollout, judgement), 1, dims=1)  # type: ignore[arg-type]

    monkeypatch.setattr(Redistribute, "token_rewards", late)
    assert differences(golden.golden_run(), stored)
