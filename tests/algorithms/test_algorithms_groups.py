"""Baselines without a value function: REINFORCE, RLOO, and GRPO against slow loops."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from batches import gradients, grouped_rollout, output_of, shaped_of, targets_of
from builders import make_rollout, mask_of
from tokencredit.algorithms import advantages as arithmetic
from tokencredit.algorithms.advantages import GroupBaseline, group_mean, group_spread, held
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.reinforce import RLOO, Baseline, Reinforce
from tokencredit.errors import UserError
from tokencredit.ops import keep
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.uniform import Uniform
from tokencredit.rollout import Judgement, Rollout


def loop_to_go(rewards: list[float], gamma: float) -> list[float]:
    return [
        sum(gamma ** (u - t) * rewards[u] for u in range(t, len(rewards)))
        for t in range(len(rewards))
    ]


def loop_spread(returns: list[list[float]]) -> float:
    """The largest standard deviation at any index, each response keeping its last return."""
    longest = max(map(len, returns))
    columns = [[row[min(t, len(row) - 1)] for row in returns] for t in range(longest)]
    return max(statistics.stdev(column) for column in columns)


def loop_advantages(
    rewards: list[list[float]], groups: list[int], algorithm: RLOO | GRPO
) -> list[list[float]]:
    """RLOO and GRPO, response by response and token by token."""
    returns = [loop_to_go(row, algorithm.gamma) for row in rewards]
    found = []
    for i, own in enumerate(returns):
        members = [j for j in range(len(returns)) if groups[j] == groups[i]]
        compared = [j for j in members if j != i] if isinstance(algorithm, RLOO) else members
        row = []
        for t, value in enumerate(own):
            if algorithm.group_baseline is GroupBaseline.total:
                others = [returns[j][0] for j in compared]
            else:
                others = [returns[j][min(t, len(returns[j]) - 1)] for j in compared]
            advantage = value - statistics.mean(others)
            if isinstance(algorithm, GRPO) and algorithm.divide_by_sd:
                advantage /= loop_spread([returns[j] for j in members])
            row.append(advantage)
        found.append(row)
    return found


ALGORITHMS: list[RLOO | GRPO] = [
    kind
    for gamma in (1.0, 0.9)
    for kind in (
        *(RLOO(gamma=gamma, group_baseline=baseline) for baseline in GroupBaseline),
        *(GRPO(gamma=gamma, group_baseline=b, divide_by_sd=False) for b in GroupBaseline),
        GRPO(gamma=gamma),
    )
]


@given(
    st.sampled_from(ALGORITHMS),
    st.lists(st.integers(1, 5), min_size=6, max_size=6),
    st.permutations([0, 0, 5, 5, 5, 0]),
    st.integers(0, 2**31),
)
def test_advantages_equal_a_loop(
    algorithm: RLOO | GRPO, lengths: list[int], groups: list[int], seed: int
) -> None:
    rollout = grouped_rollout(lengths, groups, width=6, seed=seed)
    rewards = keep(rollout.values + 0.1, rollout.response_mask)  # any numbers
    found = algorithm.targets(rollout, shaped_of(rewards)).advantages
    plain = [row[:n].double().tolist() for row, n in zip(rewards, lengths, strict=True)]
    for row, expected in zip(found, loop_advantages(plain, groups, algorithm), strict=True):
        assert row[: len(expected)].tolist() == pytest.approx(expected, abs=2e-3, rel=1e-3)
        assert (row[len(expected) :] == 0).all()


def scored(scores: list[float], lengths: list[int], groups: list[int]) -> tuple[Rollout, Tensor]:
    rollout = grouped_rollout(lengths, groups)
    judgement = Judgement(scores=torch.tensor(scores), evidence=torch.zeros(rollout.logp.shape))
    return rollout, Sparse().token_rewards(rollout, judgement)


def test_sparse_rewards_give_the_published_rloo() -> None:
    rollout, rewards = scored([1.0, 2.0, 6.0, 5.0], [3, 1, 2, 3], [0, 0, 0, 0])
    found = RLOO().targets(rollout, shaped_of(rewards)).advantages
    by_hand = [1 - 13 / 3, 2 - 12 / 3, 6 - 8 / 3, 5 - 9 / 3]
    for row, n, expected in zip(found, [3, 1, 2, 3], by_hand, strict=True):
        assert row[:n].tolist() == pytest.approx([expected] * n)


def test_sparse_rewards_give_the_published_grpo() -> None:
    rollout, rewards = scored([1.0, 3.0, 0.5, 0.5], [3, 1, 2, 3], [9, 9, 4, 4])
    found = GRPO().targets(rollout, shaped_of(rewards)).advantages
    by_hand = [-(0.5**0.5), 0.5**0.5, 0.0, 0.0]  # ±1 / √2; equal rewards say nothing
    for row, n, expected in zip(found, [3, 1, 2, 3], by_hand, strict=True):
        assert row[:n].tolist() == pytest.approx([expected] * n, abs=1e-5)
    plain = GRPO(divide_by_sd=False).targets(rollout, shaped_of(rewards)).advantages
    assert plain[:2, 0].tolist() == [-1, 1]


def test_dense_rewards_credit_no_token_with_what_came_before() -> None:
    rollout = grouped_rollout([2, 2], [0, 0])
    rewards = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    near = RLOO().targets(rollout, shaped_of(rewards)).advantages
    assert near.tolist() == [[4 - 2, 1 - 2], [2 - 4, 2 - 1]]
    total = RLOO(group_baseline=GroupBaseline.total)
    found = total.targets(rollout, shaped_of(rewards)).advantages
    assert found.tolist() == [[4 - 2, 1 - 2], [2 - 4, 2 - 4]]


@pytest.mark.parametrize("kind", list(GroupBaseline))
@pytest.mark.parametrize("algorithm", [RLOO(), GRPO(divide_by_sd=False)], ids=["rloo", "grpo"])
def test_both_baselines_are_the_published_one_for_sparse_rewards(
    algorithm: RLOO | GRPO, kind: GroupBaseline
) -> None:
    scores, lengths = [1.0, 2.0, 6.0, 5.0], [3, 1, 2, 4]
    rollout, rewards = scored(scores, lengths, [0, 0, 0, 0])
    found = replace(algorithm, group_baseline=kind).targets(rollout, shaped_of(rewards)).advantages
    plain = torch.tensor([r - 3.5 for r in scores]) * (4 / 3 if isinstance(algorithm, RLOO) else 1)
    assert torch.allclose(found, keep(plain[:, None].expand(4, 4), rollout.response_mask))


@pytest.mark.parametrize("scheme", [Sparse(), Uniform()], ids=["sparse", "uniform"])
def test_grpo_makes_nothing_of_rounding(scheme: RewardScheme) -> None:
    """Equal scores on different lengths: Σ R / n is R only up to the last bits."""
    rollout = grouped_rollout([3, 7, 6, 5], [0, 0, 0, 0])
    judgement = Judgement(scores=torch.full((4,), 5.1), evidence=torch.zeros(rollout.logp.shape))
    rewards = scheme.token_rewards(rollout, judgement)
    found = GRPO().targets(rollout, shaped_of(rewards)).advantages
    assert found[:, 0].abs().max() < 1e-5 and found.abs().max() < 2


def test_grpo_bounds_dense_advantages_where_all_returns_are_equal() -> None:
    """By the deviation of the whole returns, 0 here, the tokens' advantages would be infinite."""
    rollout, rewards = grouped_rollout([2, 2], [0, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = GRPO().targets(rollout, shaped_of(rewards)).advantages
    half = 0.5**0.5
    assert torch.allclose(found, torch.tensor([[0.0, -half], [0.0, half]]))
    same = grouped_rollout([2, 2], [0, 0]), torch.tensor([[0.3, 0.3], [0.3, 0.3]])
    assert GRPO().targets(same[0], shaped_of(same[1])).advantages.abs().max() == 0


def test_grpo_refuses_to_divide_what_was_paid_already() -> None:
    with pytest.raises(UserError, match=r"algorithm\.group_baseline = 'total'.*divide_by_sd"):
        GRPO(group_baseline=GroupBaseline.total)


@pytest.mark.parametrize("algorithm", [RLOO(), GRPO()], ids=["rloo", "grpo"])
def test_penalties_are_part_of_the_return(algorithm: Algorithm) -> None:
    rollout = grouped_rollout([2, 3], [0, 0])
    rewards, penalty = rollout.values, keep(rollout.ref_logp, rollout.response_mask)
    both = algorithm.targets(rollout, shaped_of(rewards, penalty))
    one = algorithm.targets(rollout, shaped_of(rewards - penalty))
    assert torch.equal(both.advantages, one.advantages)
    assert torch.equal(both.returns, one.returns)


def test_group_moments_by_hand() -> None:
    groups, x = torch.tensor([5, 2, 5, 2, 5]), torch.tensor([1.0, 10.0, 3.0, 20.0, 8.0])
    assert group_mean(x, groups, others=False).tolist() == [4, 15, 4, 15, 4]
    assert group_mean(x, groups, others=True).tolist() == [5.5, 20, 4.5, 10, 2]
    sd = [statistics.stdev([1, 3, 8]), statistics.stdev([10, 20])]
    columns = torch.stack([x, 0.5 * x], dim=1)
    found = group_spread(columns, groups)[:, 0].tolist()
    assert found == pytest.approx([sd[0], sd[1], sd[0], sd[1], sd[0]])
    assert group_spread(torch.full((5, 2), 0.1), groups).isinf().all()


def test_held_by_hand() -> None:
    mask = mask_of([1, 3, 0])
    found = held(torch.tensor([[4.0, 9.0, 9.0], [1.0, 2.0, 3.0], [9.0, 9.0, 9.0]]), mask)
    assert found.tolist() == [[4, 4, 4], [1, 2, 3], [0, 0, 0]]


@pytest.mark.parametrize("algorithm", [RLOO(), GRPO()], ids=["rloo", "grpo"])
def test_a_response_without_company_is_an_error(algorithm: Algorithm) -> None:
    rollout = grouped_rollout([2, 2, 1], [0, 0, 1])
    with pytest.raises(ValueError, match="at least two responses"):
        algorithm.targets(rollout, shaped_of(rollout.values))


@pytest.mark.parametrize("kind", [RLOO, GRPO])
@pytest.mark.parametrize("samples", [1, 3])
def test_samples_per_prompt_out_of_range(kind: type[Algorithm], samples: int) -> None:
    with pytest.raises(UserError, match=r"algorithm\.samples_per_prompt = "):
        kind(samples_per_prompt=samples)


def test_rloo_with_its_own_response_in_the_baseline_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollout, rewards = scored([1.0, 2.0, 6.0, 5.0], [3, 1, 2, 3], [0, 0, 0, 0])
    before = RLOO().targets(rollout, shaped_of(rewards)).advantages

    def with_own(x: Tensor, groups: Tensor, *, others: bool) -> Tensor:
        return group_mean(x, groups, others=False)

    monkeypatch.setattr(arithmetic, "group_mean", with_own)
    after = RLOO().targets(rollout, shaped_of(rewards)).advantages
    assert torch.allclose(after, 0.75 * before)


def test_grpo_loss_adds_the_divergence_from_the_reference() -> None:
    rollout = make_rollout([3, 2])
    output, targets = output_of(rollout), targets_of(rollout)
    plain, both = (
        GRPO(kl_loss_coef=coef).loss(output, rollout, targets, {}) for coef in (0.0, 0.5)
    )
    d = rollout.ref_logp - output.logp.detach()
    k3 = keep(d.exp() - 1 - d, rollout.response_mask).sum(dim=1) / rollout.lengths
    assert torch.allclose(both.total - plain.total, 0.5 * k3.sum(), atol=1e-6)
    slope = gradients(output, both.total)["logp"] - gradients(output, plain.total)["logp"]
    expected = 0.5 * keep(1 - d.exp(), rollout.response_mask) / rollout.lengths[:, None]
    assert torch.allclose(slope, expected, atol=1e-6)
    assert torch.allclose(plain.sums["grpo/kl"], both.sums["grpo/kl"])


def reinforce_rollout() -> tuple[Rollout, Tensor]:
    rollout = make_rollout([3, 1, 2])
    return rollout, torch.tensor([[1.0, 0.0, 2.0], [4.0, 0.0, 0.0], [0.0, 6.0, 0.0]])


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        (Baseline.none, [[3, 2, 2], [4, 0, 0], [6, 6, 0]]),
        (Baseline.batch, [[3 - 5, 2 - 5, 2 - 5], [4 - 4.5, 0, 0], [6 - 3.5, 6 - 3.0, 0]]),
        (Baseline.running, [[1, 0, 0], [2, 0, 0], [4, 4, 0]]),
    ],
)
def test_reinforce_baselines_by_hand(baseline: Baseline, expected: list[list[float]]) -> None:
    rollout, rewards = reinforce_rollout()
    algorithm = Reinforce(baseline=baseline)
    state = {**algorithm.initial_state(), "kl/coef": 0.0, "reinforce/baseline": 2.0}
    targets = algorithm.targets(rollout, algorithm.shape(rewards, rollout, state))
    assert torch.allclose(targets.advantages, torch.tensor(expected).float())
    assert targets.returns[0].tolist() == [3, 2, 2]


def test_reinforce_running_mean_by_hand() -> None:
    algorithm = Reinforce(baseline=Baseline.running, baseline_decay=0.5)
    state = algorithm.initial_state()
    found = []
    for value in (4.0, 1.0, 0.0):
        state = algorithm.next_state(state, {"kl/k1": 6.0, "reward/return": value}, 16)
        found.append(state["reinforce/baseline"])
    assert found == pytest.approx([4.0, (0.5 * 4 + 1) / 1.5, (0.25 * 4 + 0.5 * 1 + 0) / 1.75])


def test_what_the_running_mean_is_of() -> None:
    rollout, rewards = reinforce_rollout()
    plain = Reinforce().measure(rollout, shaped_of(rewards))
    assert plain["reward/return"] == pytest.approx((3 + 4 + 6) / 3)
    discounted = Reinforce(gamma=0.5).measure(rollout, shaped_of(rewards, 0.1 * rewards))
    assert discounted["reward/return"] == pytest.approx(0.9 * (1.5 + 4 + 3) / 3)


def test_reinforce_loss_by_hand() -> None:
    rollout = make_rollout([2, 1])
    output, targets = output_of(rollout), targets_of(rollout)
    loss = Reinforce().loss(output, rollout, targets, {})
    expected = -(output.logp * targets.advantages).sum()
    assert loss.total.item() == pytest.approx(expected.item())
    assert torch.allclose(gradients(output, loss.total)["logp"], -targets.advantages)


def test_reinforce_numbers_out_of_range() -> None:
    with pytest.raises(UserError, match=r"algorithm\.baseline_decay = 1\.0: must"):
        Reinforce(baseline_decay=1.0)
    with pytest.raises(UserError, match=r"algorithm\.baseline = 'batch': needs"):
        Reinforce(batch_size=1)
    assert replace(Reinforce(), baseline=Baseline.none, batch_size=1).batch_size == 1
