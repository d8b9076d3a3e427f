"""The DPO model in a run's evaluation: it speaks for itself, and its distance is that of policies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from builders import EOS_ID, make_prompts, tiny_actors, tiny_causal
from observers import EvenJudge
from tokencredit.hardware import Hardware
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.panel import Panel
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.log_ratio import LogRatio, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.ops import k1, masked_sum
from tokencredit.rl.collector import Collector
from tokencredit.rl.evaluate import dpo_answers, dpo_models, names, report
from tokencredit.rl.world import World
from tokencredit.statistics.win_rates import shares

RATED = ("score", "length", "oracle")
STREAM = ("evaluation", 0)
PROMPTS = make_prompts([3, 5, 2, 4], min_new=3, max_new=[6, 6, 6, 6])


def actors() -> Actors:
    """A policy that has moved away from its reference, with ends that are impossible at first."""
    found = tiny_actors(sampling=Sampling(min_new_tokens=3, max_new_tokens=7))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in found.policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return found


def judge_of(own: Actors, dpo: Any) -> OpenJudge:
    """A judge that reads `dpo` beside the reference of the actors."""
    assert own.reference.frozen is not None
    models = as_it_is(copy.deepcopy(dpo)), as_it_is(own.reference.frozen)
    ratio = LogRatio(*models, Computation(), EOS_ID)
    return ImplicitJudge().judging(ratio, 0.1, own.tokenizer)


def collector(judge: OpenJudge) -> Collector:
    return Collector(World(Hardware()), judge, 2)


def test_the_policy_as_its_own_dpo_model_says_the_same_at_the_same_distance() -> None:
    own = actors()
    judging = judge_of(own, own.policy.model)
    found, judgement = dpo_answers(own, collector(judging), PROMPTS, STREAM)["dpo"]
    policy, _ = collector(judging).collect(PROMPTS, lambda chunk: own.roll_out(chunk, STREAM))
    assert torch.equal(found.response_ids, policy.response_ids)
    assert torch.allclose(found.logp, policy.logp, atol=1e-5)
    assert torch.allclose(found.ref_logp, policy.ref_logp, atol=1e-5)
    nats = masked_sum(k1(found.logp, found.ref_logp), found.response_mask)
    assert nats.abs().max() > 0.1
    assert judgement.scores.shape == (4,)


def test_the_reference_as_a_dpo_model_is_where_it_began() -> None:
    own = actors()
    assert own.reference.frozen is not None
    judging = judge_of(own, own.reference.frozen)
    found, judgement = dpo_answers(own, collector(judging), PROMPTS, STREAM)["dpo"]
    assert torch.equal(found.logp, found.ref_logp)
    assert judgement.scores.abs().max() < 1e-5


@pytest.mark.parametrize("place", ["judge", "scorer", "alone"])
def test_it_is_found_wherever_it_is_read(place: str) -> None:
    own = actors()
    reading = judge_of(own, tiny_causal(seed=5))
    other = EvenJudge()
    panels = {"judge": Panel(reading, other), "scorer": Panel(other, reading), "alone": reading}
    assert dpo_models(panels[place]) is reading.ratio  # type: ignore[attr-defined]


def test_without_one_nothing_is_said() -> None:
    own = actors()
    assert dpo_answers(own, collector(EvenJudge()), PROMPTS, STREAM) == {}
    assert dpo_models(Panel(EvenJudge(), EvenJudge())) is None


def test_the_report_has_its_numbers_where_there_are_any() -> None:
    row = {"row": 0, "prompt": "a", "policy/response": "a b c", "sft/response": "a b a b"}
    plain = report([row | {"policy/kl": 1.0}])
    assert not any(name.startswith("dpo/") for name in plain)
    full = report([row | {"dpo/kl": 2.0, "dpo/score": 3.0, "dpo/response": "a b a b"}])
    assert (full["dpo/kl"]["mean"], full["dpo/score"]["mean"]) == (2, 3)
    assert full["dpo/distinct_2"]["mean"] == full["sft/distinct_2"]["mean"]


def test_all_of_its_numbers_can_be_named() -> None:
    row = {f"{model}/{what}": 1.0 for model in ("policy", "sft", "dpo") for what in RATED}
    said = {f"{model}/response": "a b" for model in ("policy", "sft", "dpo")}
    moved = {f"{model}/{what}": 0.5 for model in ("policy", "dpo") for what in ("kl", "win_rate")}
    full = report([row | said | moved])
    assert set(full) == set(names(oracle=True, dpo=True))
    assert {n for n in full if "dpo" not in n} == set(names(oracle=True, dpo=False))


def test_a_prompt_is_won_lost_or_drawn() -> None:
    assert shares([2.0, 1.0, -1.0], [1.0, 1.0, 0.0]).tolist() == [1.0, 0.5, 0.0]
