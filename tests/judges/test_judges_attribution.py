"""The attribution judge: a signed judge that gives the reward model's own scores."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from builders import (
    ARCHITECTURES,
    PAD_ID,
    handed,
    make_prompts,
    make_rollout,
    speaking,
    tiny_actors,
    tiny_classifier,
    train_tokenizer,
)
from tokencredit.config import COMPONENTS
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.fit import check_fit
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.panel import open_panel, shares_pass
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.attribution import Method
from tokencredit.models.scorer import Scorer
from tokencredit.ops import masked_sum
from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence
from tokencredit.rl.collector import Collector
from tokencredit.rl.metrics import describe
from tokencredit.rl.world import World
from tokencredit.rollout import Targets

LENGTHS = [4, 1, 9, 3]
every_method = pytest.mark.parametrize("method", list(Method))


def opened(method: Method = Method.integrated_gradients, architecture: str = "gpt2") -> OpenJudge:
    scorer = Scorer(tiny_classifier(architecture), PAD_ID)
    return AttributionJudge(method=method, steps=64).judging(scorer)


@every_method
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_the_reward_models_bit_for_bit(method: Method, architecture: str) -> None:
    rollout = make_rollout(LENGTHS)
    own = RewardModelJudge().judging(Scorer(tiny_classifier(architecture), PAD_ID))
    assert torch.equal(opened(method, architecture)(rollout).scores, own(rollout).scores)


def test_attributions_and_baseline_make_up_the_score() -> None:
    rollout = make_rollout(LENGTHS)
    said = opened()(rollout)
    assert said.notes is not None
    notes = said.notes.columns
    assert set(notes) == {"completeness_gap", "baseline_score"}
    total = masked_sum(said.evidence, rollout.response_mask) + notes["baseline_score"]
    assert torch.allclose(total, said.scores, atol=1e-3)
    assert (notes["completeness_gap"] < 1e-3).all()
    rough = opened(Method.gradient_x_input)(rollout).notes
    assert rough is not None and rough.columns["completeness_gap"].max() > 0.1


def test_it_fits_schemes_that_read_signs() -> None:
    assert AttributionJudge().gives() is Evidence.signed
    check_fit(Attribution(), AttributionJudge(), COMPONENTS["judge"])
    with pytest.raises(UserError, match="gives signed evidence, but Redistribute needs"):
        check_fit(Redistribute(), AttributionJudge(), COMPONENTS["judge"])
    with pytest.raises(UserError, match=r"Attribution needs signed .*: attribution"):
        check_fit(Attribution(), RewardModelJudge(), COMPONENTS["judge"])


def test_it_shares_a_pass_with_the_reward_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares_pass(AttributionJudge(), RewardModelJudge())
    count: list[int] = []

    def open_one(*_: object) -> Scorer:
        count.append(1)
        return Scorer(tiny_classifier(), PAD_ID)

    monkeypatch.setattr("tokencredit.judges.retokenised.open_reader", open_one)
    open_panel(AttributionJudge(), RewardModelJudge(), handed(), speaking(train_tokenizer()))
    assert count == [1]


def test_chunks_of_a_run_are_judged_without_gradient_and_logged() -> None:
    actors = tiny_actors()
    collector = Collector(World(Hardware()), opened(architecture="llama"), chunk=2)
    prompts = make_prompts([2, 5, 3, 4, 6])
    rollout, judgement = collector.collect(prompts, partial(actors.roll_out, stream=("seen",)))
    assert judgement.evidence.shape == rollout.response_mask.shape
    assert not judgement.evidence.requires_grad
    rewards = Attribution().token_rewards(rollout, judgement)
    total = masked_sum(rewards, rollout.response_mask)
    assert torch.allclose(total, judgement.scores, atol=1e-5)
    described = describe(rollout, judgement, rewards, Targets(advantages=rewards, returns=rewards))
    assert 0 <= described["judge/completeness_gap"] < 0.1
    assert "judge/baseline_score" in described


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("pass_tokens", 0)])
def test_numbers_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"judge\.{field} = 0: must be >= 1"):
        AttributionJudge(**{field: value})
