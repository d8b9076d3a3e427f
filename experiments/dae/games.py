"""Games of preference whose advantages are known exactly, and intransitive ones.

    python experiments/dae/games.py

Responses of one or two tokens are so few that every expectation is a sum. The head of the advantage
model, over one state for each history, learns by gradient descent from all pairs of responses alone
(each as often, so not as the policy would draw them), and is compared with the exact advantages.
Then it learns who beats whom where preferences go round in circles, beside the best model of
Bradley and Terry that there can be: one order of all responses, found by trying each.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Final

import torch

from tokencredit.models.advantage_model import AdvantageHead
from tokencredit.ops import antisymmetry_gap, game_loss
from tokencredit.store.files import write_json

RANGE: Final = 2.0
"""Rewards lie between −1 and 1."""
BOUND: Final = 0.02
"""The mean absolute error of advantages, as a share of the range, may be so large."""
FIVE: Final = 5
"""Responses of a random intransitive game."""


@dataclass(frozen=True)
class Game:
    """Responses of `length` tokens, and what the first player gets where two of them meet."""

    length: int
    policy: torch.Tensor
    """π(z | what was said), (P, V): a row for each of the P beginnings, the empty one first."""
    rewards: torch.Tensor
    """r(y₁, y₂), (Y, Y), antisymmetric."""

    @property
    def ids(self) -> int:
        """The size of the vocabulary."""
        return self.policy.shape[1]

    @property
    def responses(self) -> list[tuple[int, ...]]:
        """All Y of them, in the order of `rewards`."""
        return list(product(range(self.ids), repeat=self.length))

    @property
    def beginnings(self) -> list[tuple[int, ...]]:
        """All P that a token can follow, the shorter first."""
        each = (product(range(self.ids), repeat=n) for n in range(self.length))
        return [said for group in each for said in group]

    def chances(self, begun: tuple[int, ...]) -> torch.Tensor:
        """π(y | begun) of all responses (Y,)."""
        row = {said: n for n, said in enumerate(self.beginnings)}
        found = torch.ones(len(self.responses), dtype=torch.float64)
        for place, said in enumerate(self.responses):
            for n, token in enumerate(said):
                if n < len(begun):
                    found[place] *= float(token == begun[n])
                else:
                    found[place] *= self.policy[row[said[:n]], token]
        return found

    def exact(self) -> torch.Tensor:
        """A(s, z) of all states and ids, (P + Y P, V): those of the first player, then, for each
        response that it may have given, those of the second. The reward is the first player's.

        A([s, z_<n], z_n) = E[r | z_≤n] − E[r | z_<n] (Proposition 1).
        """
        against = self.rewards @ self.chances(())  # E[r | y₁], (Y,)
        games = [against, *self.rewards]  # what y₁, and then what y₂ decides about
        table = [
            [self.chances((*said, z)) @ worth - self.chances(said) @ worth for z in range(self.ids)]
            for worth in games
            for said in self.beginnings
        ]
        return torch.stack([torch.stack(row) for row in table])


@dataclass(frozen=True)
class Learner:
    """The head of the advantage model on one game, with every history a state of its own."""

    game: Game
    head: AdvantageHead
    policy: torch.nn.Linear
    """A frozen head: over the one-hot of what a player has said, its logits are those of π."""

    @classmethod
    def of(cls, game: Game, seed: int, rank: int | None = None) -> Learner:
        """One that has learnt nothing; its rank is the vocabulary's size unless said otherwise."""
        begun, ids = game.policy.shape
        torch.manual_seed(seed)
        width = begun * (1 + len(game.responses))
        head = AdvantageHead(width, ids, rank or ids).double()
        policy = torch.nn.Linear(begun, ids, bias=False, dtype=torch.float64)
        policy.requires_grad_(False).weight.copy_(game.policy.log().t())
        return cls(game, head, policy)

    def advantages(self) -> torch.Tensor:
        """Â(s, z) of all states and ids, as `Game.exact` has them."""
        count, ids = len(self.game.beginnings), self.game.ids
        width = self.head.down.in_features
        states = torch.arange(width).repeat_interleave(ids)
        one_hot = torch.eye(width, dtype=torch.float64)[states]
        # The second player does not see what the first one says, and draws from the same π.
        means = self.head.means(torch.eye(count, dtype=torch.float64), self.policy)
        tokens = torch.arange(ids).repeat(width)
        found: torch.Tensor = self.head(one_hot, means[states % count], tokens)
        return found.view(width, ids)

    def outcomes(self) -> torch.Tensor:
        """Σ Â over the tokens of both responses, for each two of them, (Y, Y)."""
        found = self.advantages()
        begun = {said: n for n, said in enumerate(self.game.beginnings)}
        steps = [[(begun[y[:n]], z) for n, z in enumerate(y)] for y in self.game.responses]
        rows, tokens = torch.tensor(steps).unbind(dim=2)  # (Y, length)
        first = found[rows, tokens].sum(dim=1)
        behind = len(begun) * (1 + torch.arange(len(steps)))[:, None, None]
        second = found[behind + rows, tokens.expand(len(steps), -1, -1)].sum(dim=2)
        return first[:, None] + second

    def learn(self, steps: int, rate: float = 0.03) -> float:
        """Learn from all pairs at once; the loss at the end."""
        optimizer = torch.optim.Adam(self.head.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        wanted = self.game.rewards.flatten()
        for _ in range(steps):
            optimizer.zero_grad()
            game_loss(self.outcomes().flatten(), wanted).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            return float(game_loss(self.outcomes().flatten(), wanted))

    @torch.no_grad()
    def error(self) -> float:
        """The mean absolute error of its advantages, as a share of the range of rewards."""
        return float((self.advantages() - self.game.exact()).abs().mean()) / RANGE

    @torch.no_grad()
    def right(self) -> float:
        """The share of ordered pairs of two responses whose winner it names."""
        return sign_accuracy(self.outcomes(), self.game.rewards)

    @torch.no_grad()
    def gap(self) -> float:
        """Mean of |S(y₁, y₂) + S(y₂, y₁)|."""
        found = self.outcomes()
        return float(antisymmetry_gap(found.flatten(), found.t().flatten()))


def sign_accuracy(said: torch.Tensor, rewards: torch.Tensor) -> float:
    """The share of pairs with a winner whose winner is named, both (Y, Y)."""
    decided = rewards != 0
    return float((said.sign() == rewards)[decided].double().mean())


def best_order(rewards: torch.Tensor) -> float:
    """The greatest `sign_accuracy` that scores of single responses can have, over all orders.

    Which of two is preferred, Bradley and Terry's model decides by the order of their scores alone;
    equal scores name no winner.
    """
    found = 0.0
    for order in permutations(range(len(rewards))):
        scores = torch.tensor(order, dtype=torch.float64)
        found = max(found, sign_accuracy(scores[:, None] - scores, rewards))
    return found


def random_rewards(count: int, dice: torch.Generator) -> torch.Tensor:
    """One of each two responses is always preferred, by a coin."""
    coins = torch.randint(2, (count, count), generator=dice).double() * 2 - 1
    upper = coins.triu(diagonal=1)
    return upper - upper.t()


def random_game(ids: int, length: int, dice: torch.Generator) -> Game:
    """A policy and preferences that are drawn."""
    beginnings = sum(ids**n for n in range(length))
    logits = torch.randn(beginnings, ids, generator=dice, dtype=torch.float64)
    return Game(length, logits.softmax(dim=1), random_rewards(ids**length, dice))


def rock_paper_scissors(dice: torch.Generator) -> Game:
    """Each response beats the one before it; the policy is drawn."""
    circle = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return Game(1, random_game(3, 1, dice).policy, circle.double())


def intransitive(dice: torch.Generator) -> Game:
    """A drawn game of five responses that no order describes."""
    while True:
        game = random_game(FIVE, 1, dice)
        if best_order(game.rewards) < 1:
            return game


def recovered(seed: int, steps: int) -> dict[str, float]:
    """Errors of one seed, by the length of responses: of five ids, and of three."""
    dice = torch.Generator().manual_seed(seed)
    found = {}
    for name, ids, length in (("one_token", 5, 1), ("two_tokens", 3, 2)):
        learner = Learner.of(random_game(ids, length, dice), seed)
        learner.learn(steps)
        found[name] = learner.error()
    return found


def circles(count: int, steps: int) -> list[dict[str, float]]:
    """Rock, paper, scissors, then so many random games: who names more winners."""
    dice = torch.Generator().manual_seed(0)
    games = [rock_paper_scissors(dice), *(intransitive(dice) for _ in range(count))]
    rows = []
    for seed, game in enumerate(games):
        learner = Learner.of(game, seed)
        learner.learn(steps)
        numbers = learner.right(), best_order(game.rewards), learner.gap()
        rows.append(dict(zip(("game", "bradley_terry", "gap"), numbers, strict=True)))
    return rows


def main() -> int:
    """Print both comparisons; 1 where a criterion is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="games with exact advantages")
    parser.add_argument("--games", type=int, default=10, help="random intransitive games")
    parser.add_argument("--steps", type=int, default=1000, help="steps of gradient descent")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    given = parser.parse_args()
    errors = [recovered(seed, given.steps) for seed in range(given.seeds)]
    for seed, row in enumerate(errors):
        told = ", ".join(f"{name} {100 * value:.3f} %" for name, value in row.items())
        print(f"seed {seed}: mean absolute error of the advantages, of the range: {told}")
    worst = {name: max(row[name] for row in errors) for name in errors[0]}
    for name, value in worst.items():
        print(f"{name}: worst of {given.seeds} seeds {100 * value:.3f} %")
    rows = circles(given.games, given.steps)
    for number, row in enumerate(rows):
        name = f"random game {number}" if number else "rock, paper, scissors"
        print(
            f"{name}: winners named by the game {row['game']:.3f}, by the best order "
            f"{row['bradley_terry']:.3f}; gap of the two orders {row['gap']:.4f}"
        )
    if given.out is not None:
        numbers = {"schema_version": 1, **vars(given), "out": None}
        write_json(given.out, {**numbers, "errors": errors, "circles": rows})
    met = all(value <= BOUND for value in worst.values()) and all(
        row["game"] > row["bradley_terry"] for row in rows
    )
    print("all criteria are met" if met else "a criterion is not met")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
