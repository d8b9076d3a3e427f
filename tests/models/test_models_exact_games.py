"""Games whose advantages are exact sums, and the head that recovers them from pairs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scripts import loaded
from tokencredit.ops import game_loss

SCRIPT = Path(__file__).parents[2] / "experiments" / "dae" / "games.py"


@pytest.fixture(scope="module")
def games() -> Any:
    return loaded(SCRIPT)


def duel(games: Any, first: float) -> Any:
    """One token, a or b, said with these chances; a beats b."""
    policy = torch.tensor([[first, 1 - first]], dtype=torch.float64)
    rewards = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    return games.Game(1, policy, rewards)


def solved(learner: Any) -> Any:
    """The learner with W the identity and U that which least squares find for all pairs."""
    head = learner.head
    width, shape = head.down.in_features, head.up.shape
    assert shape[1] == width

    def outcomes(up: Tensor) -> Tensor:
        head.up = torch.nn.Parameter(up) if not up.requires_grad else up
        found: Tensor = learner.outcomes().flatten()
        return found

    with torch.no_grad():
        head.down.weight.copy_(torch.eye(width, dtype=torch.float64))
    del head.up  # no parameter any more, so that it can be an input
    slopes: Tensor = torch.autograd.functional.jacobian(
        outcomes, torch.zeros(shape, dtype=torch.float64)
    )
    wanted = learner.game.rewards.flatten()
    pseudo = torch.linalg.pinv(slopes.flatten(1))
    del head.up
    head.up = (pseudo @ wanted).view(shape).detach()
    return learner


@pytest.mark.parametrize(
    ("first", "own", "behind_a", "behind_b"),
    [
        (0.5, [0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5]),
        (0.25, [0.75, -0.25], [-0.75, 0.25], [-0.75, 0.25]),
    ],
)
def test_papers_D5_one_token(
    games: Any, first: float, own: list[float], behind_a: list[float], behind_b: list[float]
) -> None:
    """Numbers of docs/papers.md §5.4; least squares over the four pairs must find them."""
    game = duel(games, first)
    expected = torch.tensor([own, behind_a, behind_b], dtype=torch.float64)
    assert torch.allclose(game.exact(), expected, atol=1e-15)
    sums = expected[0][:, None] + expected[1:]
    assert torch.allclose(sums, game.rewards, atol=1e-15)
    learner = solved(games.Learner.of(game, 0, rank=3))
    assert torch.allclose(learner.advantages(), expected, atol=1e-9)
    assert game_loss(learner.outcomes().flatten(), game.rewards.flatten()).item() < 1e-16


def test_papers_D6_two_tokens(games: Any) -> None:
    """Each advantage is a difference of two expectations, here by listing all responses; along a
    response they add up to Q − V, and over both to the reward."""
    game = games.random_game(3, 2, torch.Generator().manual_seed(4))
    chances, table = game.chances(()), game.exact()
    assert chances.sum().item() == pytest.approx(1)
    assert (chances @ game.rewards @ chances).item() == pytest.approx(0, abs=1e-15)  # V
    against = game.rewards @ chances
    y1, y2 = (2, 1), (0, 2)
    n1, n2, count = game.responses.index(y1), game.responses.index(y2), len(game.beginnings)
    begun = [game.beginnings.index(said) for said in ((), (2,), (0,))]
    given_2 = sum(game.policy[begun[1], z] * against[6 + z] for z in range(3))  # E[r | z₁ = 2]
    assert table[begun[0], 2].item() == pytest.approx(float(given_2))
    assert table[begun[1], 1].item() == pytest.approx(float(against[n1] - given_2))
    first = table[begun[0], 2] + table[begun[1], 1]
    assert first.item() == pytest.approx(float(against[n1]))
    rest = table[count * (1 + n1) :]
    second = rest[begun[0], 0] + rest[begun[2], 2]
    assert (first + second).item() == pytest.approx(float(game.rewards[n1, n2]))
    centred = (game.policy.repeat(len(game.responses) + 1, 1) * table).sum(dim=1)
    assert centred.abs().max() < 1e-15


def test_a_learner_begins_at_a_loss_of_all_decided_pairs(games: Any) -> None:
    """Of nine pairs three are ties: 6/9; and nothing is centred wrongly before or after."""
    game = games.rock_paper_scissors(torch.Generator().manual_seed(1))
    learner = games.Learner.of(game, 0)
    start = game_loss(learner.outcomes().flatten(), game.rewards.flatten())
    assert start.item() == pytest.approx(6 / 9)
    assert learner.learn(20) < 6 / 9
    residual = (game.policy * learner.advantages()).sum(dim=1)
    assert residual.abs().max() < 1e-12 and learner.error() > games.BOUND


def test_gradient_descent_recovers_the_advantages(games: Any) -> None:
    game = games.random_game(2, 2, torch.Generator().manual_seed(2))
    learner = games.Learner.of(game, 0)
    assert learner.error() > 0.1
    learner.learn(300)
    assert learner.error() < games.BOUND and learner.gap() < 0.05


def test_no_order_describes_a_circle(games: Any) -> None:
    """Of rock, paper, scissors an order has two of three right; of an order all; ties name no one."""
    game = games.rock_paper_scissors(torch.Generator().manual_seed(1))
    assert games.best_order(game.rewards) == pytest.approx(2 / 3)
    order = torch.ones(4, 4).triu(1) - torch.ones(4, 4).tril(-1)
    assert games.best_order(order) == 1
    assert games.sign_accuracy(torch.zeros(4, 4), order) == 0
    learner = games.Learner.of(game, 0)
    learner.learn(100)
    assert learner.right() == 1
    drawn = games.intransitive(torch.Generator().manual_seed(3)).rewards
    assert torch.equal(drawn, -drawn.t()) and games.best_order(drawn) < 1
