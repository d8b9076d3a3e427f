"""What the lecture slides say of preferences and credit, where every expectation is a sum.

    python experiments/slides/identities.py --out experiments/slides/identities

Ten small problems are drawn for each statement: strengths of five answers, preferences that go
round in circles, answers to one prompt, or sequences of two tokens out of three. All is computed in
double precision by enumeration, and a number is written for each problem; the claims of `slides`
say what it must lie above or below.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Final
from zlib import crc32

import torch

from tokencredit.algorithms.kl import doubled_or_halved
from tokencredit.algorithms.losses import kl_new_old, policy_loss
from tokencredit.data.pairs import as_rollout
from tokencredit.rewards.advantage_schemes import Hindsight
from tokencredit.rollout import Judgement
from tokencredit.store.files import write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "dae"))
import games

FILE: Final = "numbers.csv"
V: Final = 3
"""Tokens; sequences have two."""
Y: Final = V * V
CHANCE_BETA: Final = 0.5
"""β of the optimum that both forms of PPO are to reach."""
ITERATIONS: Final = 300
"""Of PPO, each with eight steps on the whole expectation."""
CLIP: Final = 0.2
TARGET: Final = 0.01
"""KL of a step in nats a token, which sets the penalty's coefficient."""


def dice(seed: int, what: str) -> torch.Generator:
    """Random numbers of one problem of one statement."""
    return torch.Generator().manual_seed(crc32(f"{what} {seed}".encode()))


def drawn(seed: int, what: str, *shape: int) -> torch.Tensor:
    """Normal numbers in double precision."""
    return torch.randn(*shape, generator=dice(seed, what), dtype=torch.float64)


# Bradley and Terry ------------------------------------------------------------------------------


def chances(strengths: torch.Tensor) -> torch.Tensor:
    """P(i over j) = e^{b_i} / (e^{b_i} + e^{b_j}), (n, n)."""
    return (strengths[:, None] - strengths).sigmoid()


def multiplied(seed: int) -> float:
    """How far a chance moves where all strengths b are doubled."""
    b = drawn(seed, "strengths", 5)
    return float((chances(2 * b) - chances(b)).abs().max())


def shifted(seed: int) -> float:
    """How far a chance moves where 3 is added to all strengths."""
    b = drawn(seed, "strengths", 5)
    return float((chances(b + 3) - chances(b)).abs().max())


def circles(seed: int) -> float:
    """How many more winners the game names than the best Bradley–Terry model, as a share of pairs,
    where preferences go round in circles."""
    game = games.intransitive(dice(seed, "circles"))
    learner = games.Learner.of(game, seed)
    learner.learn(400)
    found: float = learner.right() - games.best_order(game.rewards)
    return found


# DPO --------------------------------------------------------------------------------------------


def closed_form(seed: int) -> float:
    """How far the minimiser of DPO's loss on exact preferences lies from π* ∝ π_ref e^{r/β}."""
    beta, rewards = 0.3, drawn(seed, "dpo", 6)
    reference = drawn(seed, "reference", 6).log_softmax(0)
    preferred = chances(rewards)
    logits = reference.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-14, tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        solver.zero_grad()
        margin = beta * (logits.log_softmax(0) - reference)
        found = -(preferred * torch.nn.functional.logsigmoid(margin[:, None] - margin)).sum()
        found.backward()
        return found

    solver.step(loss)
    wanted = (reference + rewards / beta).softmax(0)
    return float((logits.detach().softmax(0) - wanted).abs().max())


# Sequences of two tokens ------------------------------------------------------------------------

ANSWERS: Final = torch.tensor(list(product(range(V), repeat=2)))
"""All Y of them, (Y, 2)."""
STATES: Final = torch.stack([torch.zeros(Y, dtype=torch.long), 1 + ANSWERS[:, 0]], dim=1)
"""The state in which each token is chosen: 0, then 1 + the first token, (Y, 2)."""


def token_logp(logits: torch.Tensor) -> torch.Tensor:
    """log π of each token of each answer, (Y, 2); `logits` are (1 + V, V)."""
    return logits.log_softmax(dim=1)[STATES, ANSWERS]


def advantages(logp: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """A = Q − V of each token, (Y, 2), for `rewards` of the same shape, under the policy whose
    log-probabilities are `logp`: γ = 1, expectations as sums."""
    chance = logp.exp()
    last = rewards[:, 1].view(V, V)
    worth = (chance[:, 1].view(V, V) * last).sum(dim=1)  # V of the states behind a first token
    first = rewards[:, 0].view(V, V)[:, 0] + worth
    root = (chance[:, 0].view(V, V)[:, 0] * first).sum()
    return torch.stack(
        [(first - root).repeat_interleave(V), (last - worth[:, None]).flatten()], dim=1
    )


def reached(seed: int, *, clipped: bool) -> float:
    """J(π) = E[R] − β KL(π ‖ π_ref) that exact iterations of one form of PPO come to."""
    outcome = drawn(seed, "rewards", Y).tanh()
    reference = drawn(seed, "policy", 1 + V, V)
    held, logits = token_logp(reference), reference.clone().requires_grad_()
    optimizer, coef = torch.optim.Adam([logits], lr=0.02), 1.0
    ended = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for number in range(ITERATIONS):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - number / ITERATIONS)
        old = token_logp(logits).detach()
        paid = outcome[:, None] * ended - CHANCE_BETA * (old - held)
        weight, aims = old.sum(dim=1).exp()[:, None], advantages(old, paid)
        for _ in range(8):
            optimizer.zero_grad()
            moved = token_logp(logits) - old
            if clipped:
                loss = policy_loss(moved, aims, CLIP)
            else:
                loss = coef * kl_new_old(moved) - moved.exp() * aims
            (weight * loss).sum().backward()
            optimizer.step()
        with torch.no_grad():
            kl = (weight * kl_new_old(token_logp(logits) - old)).sum() / 2
        coef = doubled_or_halved(coef, float(kl), TARGET)
    with torch.no_grad():
        logp = token_logp(logits).sum(dim=1)
        return float((logp.exp() * (outcome - CHANCE_BETA * (logp - held.sum(dim=1)))).sum())


def best(seed: int) -> float:
    """The greatest J there is: β log Σ π_ref e^{R/β}."""
    outcome = drawn(seed, "rewards", Y).tanh()
    held = token_logp(drawn(seed, "policy", 1 + V, V)).sum(dim=1)
    return float(CHANCE_BETA * torch.logsumexp(held + outcome / CHANCE_BETA, dim=0))


def two_forms(seed: int) -> float:
    """The farthest that PPO with the clip, or with the adaptive penalty, stays below the optimum,
    as a share of the range of rewards."""
    return max(best(seed) - reached(seed, clipped=kind) for kind in (True, False)) / 2


def hindsight(seed: int) -> float:
    """The farthest that E[w | s, a] of hindsight credit, w = (1 − π/h) z, lies from A = Q − V.

    The outcome z is 1 with a chance of its own for each answer, else 0, so that h > 0 everywhere.
    """
    win = drawn(seed, "outcomes", Y).sigmoid()
    logp = token_logp(drawn(seed, "behaviour", 1 + V, V))
    whole = logp.sum(dim=1).exp()
    ended = torch.tensor([0.0, 1.0], dtype=torch.float64)
    wanted = advantages(logp, win[:, None] * ended)
    found = torch.zeros(Y, 2, dtype=torch.float64)
    for outcome, chance in ((1.0, win), (0.0, 1 - win)):
        joint = whole * chance
        begun = joint.view(V, V).sum(dim=1)  # P(first token, outcome)
        first = (begun / begun.sum()).repeat_interleave(V)
        second = (joint.view(V, V) / begun[:, None]).flatten()
        evidence = torch.stack([first, second], dim=1).log() - logp
        weights = Hindsight().token_advantages(
            as_rollout([[0]] * Y, ANSWERS.tolist(), pad=0),
            Judgement(scores=torch.full((Y,), outcome, dtype=torch.float64), evidence=evidence),
            torch.zeros(Y, 2),
            torch.zeros(Y, 2),
            None,
        )
        found += chance[:, None] * weights
    # A first token is judged in the mean over what may follow it.
    after = (logp[:, 1].exp() * found[:, 0]).view(V, V).sum(dim=1).repeat_interleave(V)
    found = torch.stack([after, found[:, 1]], dim=1)
    return float((found - wanted).abs().max())


STATEMENTS: Final[dict[str, Callable[[int], float]]] = {
    "multiplied": multiplied,
    "shifted": shifted,
    "circles": circles,
    "closed_form": closed_form,
    "two_forms": two_forms,
    "hindsight": hindsight,
}


def main() -> int:
    """Compute, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=10, help="drawn for each statement")
    parser.add_argument("--out", type=Path, help=f"write {FILE} to this folder")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, measure in STATEMENTS.items():
        values = [measure(seed) for seed in range(given.problems)]
        rows += [{"claim": name, "seed": n, "value": repr(x)} for n, x in enumerate(values)]
        print(f"{name}: {min(values):.3g} to {max(values):.3g} over {len(values)} problems")
    if given.out is not None:
        text = StringIO()
        writer = csv.DictWriter(text, ["claim", "seed", "value"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(given.out / FILE, text.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
