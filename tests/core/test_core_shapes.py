"""Shapes and types of the science are held to their annotations wherever a test calls it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from jaxtyping import TypeCheckError

import shapes
from builders import make_judgement, make_rollout, mask_of
from tokencredit.algorithms.advantages import gae
from tokencredit.algorithms.shaping import Shaped
from tokencredit.ops import keep, masked_sum
from tokencredit.rewards.redistribute import Redistribute, shares
from tokencredit.rollout import Judgement, Targets

X, MASK = torch.ones(2, 3), mask_of([3, 2])
WRONG: Final[dict[str, Callable[[], object]]] = {
    "ops: another number of tokens": lambda: masked_sum(X, mask_of([4, 2])),
    "ops: no mask but numbers": lambda: keep(X, torch.ones(2, 3)),  # type: ignore[arg-type, unused-ignore]
    "algorithms: values of another batch": lambda: gae(X, X[:1], MASK, gamma=1.0, lam=1.0),
    "algorithms: a word for a number": lambda: gae(X, X, MASK, gamma="1", lam=1.0),  # type: ignore[arg-type]
    "algorithms: a batch of two lengths": lambda: Shaped(rewards=X, penalty=X[:, :2]),
    "rewards: a row for a table": lambda: shares(X[0], MASK[0]),
    "rewards: another class": lambda: Redistribute().token_rewards(X, make_judgement(one())),  # type: ignore[arg-type]
    "rollout: scores of another batch": lambda: Judgement(scores=torch.ones(3), evidence=X),
    "rollout: integers": lambda: Targets(advantages=X, returns=X.long()),
}


def one() -> Any:
    return make_rollout([3, 2])


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_shape_or_type_fails_a_test(case: str) -> None:
    with pytest.raises(TypeCheckError):
        WRONG[case]()


def test_every_part_that_is_held_has_a_case() -> None:
    parts = {case.partition(":")[0] for case in WRONG}
    assert parts == {name.removeprefix("tokencredit.") for name in shapes.HELD}


def test_what_is_right_passes() -> None:
    rollout = make_rollout([3, 2])
    paid = Redistribute().token_rewards(rollout, make_judgement(rollout))
    assert gae(paid, paid, rollout.response_mask, gamma=1, lam=1.0)[0].shape == paid.shape


def test_a_function_of_ones_own_is_held_by_the_same_rule() -> None:
    """Whole numbers pass for real ones; protocols and Self, of which beartype knows nothing, pass."""

    def half(x: float) -> float:
        return x / 2

    checked = shapes.checked(half)
    assert checked(3) == 1.5
    with pytest.raises(Exception, match="violates type hint"):
        checked("3")
