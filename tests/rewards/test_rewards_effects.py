"""DAE's advantages as rewards, by hand."""

from __future__ import annotations

import pytest
import torch

from builders import make_rollout
from tokencredit.composing.chosen import composed
from tokencredit.errors import UserError
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.panel import SameAsJudge
from tokencredit.rewards.advantage_schemes import Own
from tokencredit.rewards.effects import DAE
from tokencredit.rollout import Judgement

EVIDENCE = torch.tensor([[0.5, -0.25, 0.0], [0.125, torch.nan, torch.nan]])


def test_effects_are_paid_as_they_are() -> None:
    """Outcomes ¼ and ⅛, mean .1875; of Σ|Â| = .875 a share of .25 / .875 is negative."""
    rollout = make_rollout([3, 1])
    judgement = Judgement(scores=torch.tensor([9.0, -9.0]), evidence=EVIDENCE)
    assert DAE().token_rewards(rollout, judgement).tolist() == [[0.5, -0.25, 0], [0.125, 0, 0]]
    assert DAE(scale=4).token_rewards(rollout, judgement).tolist() == [[2, -1, 0], [0.5, 0, 0]]
    found = DAE().measure(rollout, judgement)
    assert found["dae/outcome"] == pytest.approx(0.1875)
    assert found["dae/negative_share"] == pytest.approx(0.25 / 0.875)
    with pytest.raises(UserError, match=r"reward_scheme\.scale = 0"):
        DAE(scale=0)


def test_methods_as_rewards_and_as_advantages() -> None:
    """Both are judged by the advantage model, whose sum is the score: what is paid."""
    paid, taken = composed(["method=dae"]), composed(["method=dae_own"])
    for config in (paid, taken):
        assert isinstance(config.judge, AdvantageJudge)
        assert isinstance(config.scorer, SameAsJudge)
        assert isinstance(config.reward_scheme, DAE)
    assert paid.uses_values and not taken.uses_values
    assert isinstance(taken.advantage_scheme, Own)
