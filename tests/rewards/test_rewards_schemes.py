"""Sparse, uniform, and attention-based credit, against the numbers of the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import make_judgement, make_rollout, mask_of
from tokencredit.algorithms.advantages import gae
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.redistribute import EPS, Redistribute, shares, vanishes
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement

BETAS = (0.0, 0.3, 0.8, 1.0)
SCHEMES: list[RewardScheme] = [Sparse(), Uniform(), *(Redistribute(beta=beta) for beta in BETAS)]
LENGTHS = [4, 1, 3, 6]


def name(scheme: object) -> str:
    return f"{type(scheme).__name__}{getattr(scheme, 'beta', '')}"


every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=name)


def one(evidence: list[float], score: float, scheme: RewardScheme) -> list[float]:
    rollout = make_rollout([len(evidence)])
    judgement = Judgement(scores=torch.tensor([score]), evidence=torch.tensor([evidence]))
    return scheme.token_rewards(rollout, judgement)[0].tolist()


def test_papers_A1_numbers_of_the_paper() -> None:
    rewards = one([0.1, 0.3, 0.2, 0.1], 2.0, Redistribute(beta=0.8))
    assert rewards == pytest.approx([0.228571, 0.685714, 0.457143, 0.628571], abs=1e-6)
    assert sum(rewards) == pytest.approx(2)
    late = [0.0, *rewards[:-1]]  # the reward paid one token late
    assert late != pytest.approx([0.228571, 0.685714, 0.457143, 0.628571], abs=1e-2)


def test_papers_A2_limits_and_signs() -> None:
    evidence = [0.1, 0.3, 0.2, 0.1]
    assert one(evidence, 2.0, Redistribute(beta=0.0)) == [0, 0, 0, 2]
    assert one(evidence, 2.0, Sparse()) == [0, 0, 0, 2]
    assert one(evidence, 2.0, Uniform()) == [0.5] * 4
    assert one(evidence, 0.7, Redistribute(beta=1.0)) == pytest.approx([0.1, 0.3, 0.2, 0.1])
    for scheme in SCHEMES:
        up, down = one(evidence, 2.0, scheme), one(evidence, -2.0, scheme)
        assert down == [-r for r in up] and min(up) >= 0


def test_papers_A2_beta_0_is_sparse_bit_for_bit() -> None:
    rollout = make_rollout(LENGTHS)
    judgement = make_judgement(rollout)
    assert torch.equal(
        Redistribute(beta=0.0).token_rewards(rollout, judgement),
        Sparse().token_rewards(rollout, judgement),
    )


def test_uniform_is_redistribution_of_equal_evidence() -> None:
    rollout = make_rollout(LENGTHS)
    judgement = make_judgement(rollout)
    flat = replace(
        judgement, evidence=keep(torch.full_like(judgement.evidence, 0.4), rollout.response_mask)
    )
    dense = Redistribute(beta=1.0).token_rewards(rollout, flat)
    assert torch.allclose(dense, Uniform().token_rewards(rollout, judgement), atol=1e-6)


lengths_of_rows = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@every_scheme
@given(lengths=lengths_of_rows, seed=st.integers(0, 2**31))
def test_papers_S7_rewards_sum_to_the_score(
    scheme: RewardScheme, lengths: list[int], seed: int
) -> None:
    rollout = make_rollout(lengths, width=8)
    judgement = make_judgement(rollout, seed)
    rewards = scheme.token_rewards(rollout, judgement)
    total = masked_sum(rewards, rollout.response_mask)
    assert torch.allclose(total, judgement.scores, atol=1e-5)
    assert torch.equal(rewards, keep(rewards, rollout.response_mask))


@every_scheme
def test_papers_S7_a_mask_shifted_by_one_breaks_the_sum(scheme: RewardScheme) -> None:
    rollout = make_rollout(LENGTHS, width=6)
    judgement = make_judgement(rollout)
    shifted = replace(rollout, response_mask=rollout.response_mask.roll(1, dims=1))
    total = masked_sum(scheme.token_rewards(shifted, judgement), rollout.response_mask)
    assert not torch.allclose(total, judgement.scores, atol=1e-3)


@every_scheme
def test_papers_S8_first_advantage_is_the_score(scheme: RewardScheme) -> None:
    rollout = make_rollout(LENGTHS)
    judgement = make_judgement(rollout)
    rewards, mask = scheme.token_rewards(rollout, judgement), rollout.response_mask
    advantages, returns = gae(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages[:, 0], judgement.scores, atol=1e-5)
    to_go = keep(rewards.flip(1).cumsum(1).flip(1), mask)
    assert torch.allclose(advantages, to_go, atol=1e-5) and torch.equal(advantages, returns)
    if isinstance(scheme, Sparse):
        assert torch.allclose(advantages, keep(judgement.scores[:, None].expand(mask.shape), mask))


def test_papers_S8_later_advantages_differ() -> None:
    rollout = make_rollout(LENGTHS)
    judgement = make_judgement(rollout)
    first, second = (
        gae(
            scheme.token_rewards(rollout, judgement),
            torch.zeros(rollout.response_mask.shape),
            rollout.response_mask,
            gamma=1.0,
            lam=1.0,
        )[0]
        for scheme in (Sparse(), Redistribute(beta=0.8))
    )
    assert (first[:, 1:] - second[:, 1:]).abs().max() > 0.1


@pytest.mark.parametrize("beta", BETAS)
def test_papers_S9_return_of_a_complete_response_does_not_depend_on_beta(beta: float) -> None:
    rollout = make_rollout(LENGTHS)
    judgement = make_judgement(rollout)
    rewards = Redistribute(beta=beta).token_rewards(rollout, judgement)
    sparse = Sparse().token_rewards(rollout, judgement)
    discount = 0.9 ** torch.arange(rewards.shape[1])
    assert torch.allclose(rewards.sum(1), sparse.sum(1), atol=1e-5)
    if beta > 0:  # with a discount it does: the identity is one of undiscounted returns
        assert not torch.allclose(
            (rewards * discount).sum(1), (sparse * discount).sum(1), atol=1e-3
        )


def test_papers_A4_shares_do_not_depend_on_padding_scale_or_company() -> None:
    mask = mask_of(LENGTHS)
    evidence = keep(torch.rand(mask.shape, generator=torch.Generator().manual_seed(0)) + 0.01, mask)
    plain = shares(evidence, mask)
    for scale in (1e-3, 7.0, 1e6):
        assert torch.allclose(shares(scale * evidence, mask), plain, atol=1e-6)
    wide = torch.nn.functional.pad(evidence, (0, 5), value=3.0)
    wide_mask = torch.nn.functional.pad(mask, (0, 5))
    assert torch.allclose(shares(wide, wide_mask)[:, : mask.shape[1]], plain, atol=1e-6)
    for row, length in enumerate(LENGTHS):
        alone = shares(evidence[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.allclose(alone[0], plain[row, :length], atol=1e-6)
    forgotten = shares(wide, torch.ones_like(wide_mask))
    assert not torch.allclose(forgotten[:, : mask.shape[1]], plain, atol=1e-2)


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=8),
    st.integers(0, 3),
)
def test_papers_A6_shares_are_nonnegative_and_sum_to_1(evidence: list[float], extra: int) -> None:
    mask = mask_of([len(evidence)], len(evidence) + extra)
    row = torch.nn.functional.pad(torch.tensor([evidence]), (0, extra), value=float("nan"))
    found = shares(row, mask)
    assert (found >= 0).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("evidence", [[0.0, 0.0, 0.0], [1e-12, 3e-12, 0.0], [-1.0, -2.0, 0.0]])
def test_vanishing_evidence_falls_back_to_equal_shares(evidence: list[float]) -> None:
    row, mask = torch.tensor([evidence, [1.0, 1.0, 2.0]]), mask_of([3, 3])
    assert shares(row, mask)[0].tolist() == pytest.approx([1 / 3] * 3)
    assert shares(row, mask)[1].tolist() == [0.25, 0.25, 0.5]
    assert vanishes(row, mask).tolist() == [True, False]
    assert shares(torch.tensor([[2 * EPS, 6 * EPS]]), mask_of([2]))[0].tolist() == pytest.approx(
        [0.25, 0.75]
    )


def test_responses_that_evidence_does_not_decide_are_counted() -> None:
    """Of five: one without evidence, one of a single token without, one with, two as usual."""
    rollout = make_rollout([3, 1, 1, 2, 4])
    evidence = torch.rand(rollout.response_mask.shape) + 0.1
    evidence[:2] = 0.0
    evidence[~rollout.response_mask] = torch.nan
    judgement = Judgement(scores=torch.ones(5), evidence=evidence)
    assert Redistribute().measure(rollout, judgement) == {
        "credit/fallback_fraction": 0.2,
        "credit/single_fraction": 0.4,
    }
    rewards = Redistribute().token_rewards(rollout, judgement)
    assert rewards[:3, 0].tolist() == pytest.approx([0.8 / 3, 1, 1])


def test_papers_A7_only_masked_in_positions_are_paid_and_doubles_are_cast_safely() -> None:
    """The KL penalty is added to the rewards of response tokens, and nothing elsewhere."""
    rollout = make_rollout(LENGTHS, width=9)
    mask, judgement = rollout.response_mask, make_judgement(rollout)
    dirty = torch.where(mask, judgement.evidence.double(), torch.nan)
    double = replace(judgement, evidence=dirty, scores=judgement.scores.double())
    rewards = Redistribute().token_rewards(rollout, double)
    assert rewards.dtype == torch.float64
    algorithm = PPO()
    state = algorithm.initial_state()
    shaped = algorithm.shape(rewards, rollout, state)
    assert shaped.total.dtype == torch.float32
    single = Redistribute().token_rewards(rollout, judgement)
    torch.testing.assert_close(shaped.rewards, single, atol=1e-6, rtol=1e-6)
    kl = state["kl/coef"] * (rollout.logp - rollout.ref_logp)
    expected = torch.where(mask, single - kl, 0.0)
    torch.testing.assert_close(shaped.total, expected, atol=1e-6, rtol=1e-6)
    assert (shaped.total[~mask] == 0).all() and (kl[mask] != 0).all()


def test_an_empty_row_gets_nothing() -> None:
    mask = mask_of([0, 2], 2)
    assert shares(torch.ones(2, 2), mask).tolist() == [[0, 0], [0.5, 0.5]]
    rollout = replace(make_rollout([2, 2]), response_mask=mask)
    judgement = Judgement(scores=torch.tensor([5.0, 1.0]), evidence=torch.ones(2, 2))
    for scheme in SCHEMES:
        rewards = scheme.token_rewards(rollout, judgement)
        assert rewards[0].tolist() == [0, 0] and rewards[1].sum().item() == pytest.approx(1)


def potential(alpha: Tensor, score: Tensor) -> Tensor:
    return score[:, None] * alpha.cumsum(dim=1)


def test_papers_A8_dense_part_is_a_difference_of_potentials() -> None:
    rollout = make_rollout([5, 5])
    judgement = make_judgement(rollout)
    phi = potential(shares(judgement.evidence, rollout.response_mask), judgement.scores)
    steps = torch.diff(phi, dim=1, prepend=torch.zeros(2, 1))
    dense = Redistribute(beta=1.0).token_rewards(rollout, judgement)
    assert torch.allclose(dense, steps, atol=1e-6)
    sparse = Sparse().token_rewards(rollout, judgement)
    blend = Redistribute(beta=0.3).token_rewards(rollout, judgement)
    assert torch.allclose(blend, 0.3 * steps + 0.7 * sparse, atol=1e-6)


def test_papers_A9_best_response_is_the_same_for_every_beta() -> None:
    """All 8 responses of 3 binary tokens, each with shares of its own."""
    responses = torch.cartesian_prod(*[torch.arange(2)] * 3)
    generator = torch.Generator().manual_seed(3)
    judgement = Judgement(
        scores=torch.randn(8, generator=generator), evidence=torch.rand(8, 3, generator=generator)
    )
    rollout = replace(make_rollout([3] * 8), response_ids=responses)
    for scheme in SCHEMES:
        returns = scheme.token_rewards(rollout, judgement).sum(dim=1)
        assert returns.argmax() == judgement.scores.argmax()


@pytest.mark.parametrize("beta", [1.4, -0.1, float("nan")])
def test_beta_outside_its_range(beta: float) -> None:
    with pytest.raises(UserError, match=r"reward_scheme\.beta = .*must lie in \[0, 1\]"):
        Redistribute(beta=beta)


@pytest.mark.parametrize(("lengths", "finished"), [([3, 5], True), ([1], True), ([4], False)])
def test_field_B7_score_belongs_to_the_last_action(lengths: list[int], finished: bool) -> None:
    """By the end token, by the limit, and where the end token is the first: index length − 1."""
    rollout = make_rollout(lengths, width=max(lengths) + 2)
    rollout = replace(rollout, finished=torch.full((len(lengths),), finished))
    judgement = make_judgement(rollout)
    rewards = Sparse().token_rewards(rollout, judgement)
    for row, length in enumerate(lengths):
        assert rewards[row].nonzero().flatten().tolist() == [length - 1]
        assert rewards[row, length - 1] == judgement.scores[row]
