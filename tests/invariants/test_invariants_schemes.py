"""Schemes that pay the same total differ in when they pay, and in nothing else."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from builders import PAD_ID, make_judgement, tiny_classifier
from small_update import (
    ALGORITHMS,
    actors_for,
    distance,
    every_algorithm,
    gradients,
    rollout_of,
    small,
    targets_of,
    update,
    updater_of,
    weights,
)
from tokencredit.algorithms.advantages import Whiten
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.policy_attention import PolicyAttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.actors import Actors
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement, Rollout

SCHEMES: list[RewardScheme] = [
    Sparse(),
    Uniform(),
    *(Redistribute(beta=beta) for beta in (0.0, 0.3, 0.8, 1.0)),
]


def plain(kind: type[Algorithm], **numbers: Any) -> Algorithm:
    """The algorithm with advantages in units of reward, γ = λ = 1 unless `numbers` say otherwise."""
    algorithm = small(kind)
    wanted = {"gamma": 1.0, "lam": 1.0, "whiten": Whiten.none, "divide_by_sd": False, **numbers}
    known = {item.name for item in fields(algorithm)}
    return replace(algorithm, **{name: x for name, x in wanted.items() if name in known})


def cut_to(rollout: Rollout, length: int) -> Rollout:
    """The same responses, cut off after `length` tokens."""
    mask = rollout.response_mask & (torch.arange(rollout.response_mask.shape[1]) < length)
    return replace(rollout, response_mask=mask).trimmed()


@every_algorithm
def test_papers_S8_first_token_has_one_advantage_under_all_schemes(
    kind: type[Algorithm],
) -> None:
    algorithm = plain(kind)
    rollout = rollout_of(actors_for(algorithm))
    judgement = make_judgement(rollout)
    found = [
        targets_of(algorithm, rollout, scheme.token_rewards(rollout, judgement)).advantages
        for scheme in SCHEMES
    ]
    for scheme, advantages in zip(SCHEMES, found, strict=True):
        assert torch.allclose(advantages[:, 0], found[0][:, 0], atol=1e-4), scheme
    later = found[0][:, 1:] - found[SCHEMES.index(Redistribute(beta=0.8))][:, 1:]
    assert later.abs().max() > 0.1


DISCOUNTED: list[tuple[type[Algorithm], dict[str, float]]] = [
    *((kind, {"gamma": 0.9}) for kind in ALGORITHMS),
    *((kind, {"lam": 0.9}) for kind in ALGORITHMS if hasattr(kind(), "lam")),
]


@pytest.mark.parametrize(
    ("kind", "numbers"), DISCOUNTED, ids=[f"{k.__name__}-{next(iter(n))}" for k, n in DISCOUNTED]
)
def test_papers_S8_with_a_discount_or_a_trace_it_has_not(
    kind: type[Algorithm], numbers: dict[str, float]
) -> None:
    algorithm = plain(kind, **numbers)
    rollout = rollout_of(actors_for(algorithm))
    judgement = make_judgement(rollout)
    sparse, dense = (
        targets_of(algorithm, rollout, scheme.token_rewards(rollout, judgement)).advantages[:, 0]
        for scheme in (Sparse(), Redistribute(beta=1.0))
    )
    assert not torch.allclose(sparse, dense, atol=1e-3)


@every_algorithm
def test_responses_of_one_token_are_trained_alike_bit_for_bit(kind: type[Algorithm]) -> None:
    algorithm = small(kind)
    ends = []
    for scheme in SCHEMES:
        actors = actors_for(algorithm)
        rollout = cut_to(rollout_of(actors), 1)
        rewards = scheme.token_rewards(rollout, make_judgement(rollout))
        update(updater_of(actors, algorithm), rollout, targets_of(algorithm, rollout, rewards))
        ends.append(weights(actors))
    start = weights(actors_for(algorithm))
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)
    for scheme, end in zip(SCHEMES, ends, strict=True):
        assert all(torch.equal(end[name], ends[0][name]) for name in end), scheme


@every_algorithm
def test_longer_responses_are_not(kind: type[Algorithm]) -> None:
    algorithm = small(kind)
    actors = actors_for(algorithm)
    rollout = rollout_of(actors)
    judgement = make_judgement(rollout)
    sparse, dense = (
        gradients(
            actors,
            algorithm,
            rollout,
            targets_of(algorithm, rollout, scheme.token_rewards(rollout, judgement)),
        )
        for scheme in (Sparse(), Redistribute())
    )
    assert distance(dense, sparse) > 1e-2


def reward_model(actors: Actors) -> OpenJudge:
    return RewardModelJudge().judging(Scorer(tiny_classifier(), PAD_ID))


def attention(actors: Actors) -> OpenJudge:
    return AttentionJudge().judging(Scorer(tiny_classifier(), PAD_ID))


def policy_attention(actors: Actors) -> OpenJudge:
    """With the reward model's scores."""
    watch, score = PolicyAttentionJudge().watching(actors.policy), reward_model(actors)

    def both(rollout: Rollout) -> Judgement:
        return replace(watch(rollout), scores=score(rollout).scores)

    return both


def trained(kind: type[Algorithm], scheme: RewardScheme, judge: OpenJudge, actors: Actors) -> None:
    """Three steps: each a rollout of the policy of the moment, judged, paid, and learned from."""
    algorithm = small(kind, epochs=2, minibatches=2)
    updater = updater_of(actors, algorithm)
    for step in range(3):
        rollout = rollout_of(actors, step)
        rewards = scheme.token_rewards(rollout, judge(rollout))
        update(updater, rollout, targets_of(algorithm, rollout, rewards))


@every_algorithm
@pytest.mark.parametrize("judge", [attention, policy_attention], ids=["abc", "abc_d"])
def test_papers_A2_beta_0_trains_like_sparse_bit_for_bit(kind: type[Algorithm], judge: Any) -> None:
    ends = []
    for scheme, open_ in (
        (Sparse(), reward_model),
        (Redistribute(beta=0.0), judge),
        (Redistribute(beta=0.8), judge),
    ):
        actors = actors_for(small(kind))
        trained(kind, scheme, open_(actors), actors)
        ends.append(weights(actors))
    start = weights(actors_for(small(kind)))
    assert any(not torch.equal(ends[0][name], start[name]) for name in start)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in start)
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in start)
