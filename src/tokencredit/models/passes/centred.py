"""What a policy expects of a table of numbers, a row for each id: Σ_v π(v|s) U_v, exactly.

With it, advantages f(s, z) − Σ_v π(v|s) f(s, v) of a low-rank f(s, z) = U_z · (W h(s)) need neither
f nor π over all ids: only a chunk of states has probabilities at a time, in float32, and they are
computed again in the backward pass.
"""

from __future__ import annotations

from functools import cache
from typing import Final, Protocol

import torch
from jaxtyping import Float, Int

from tokencredit.models.passes.distribution import FLOOR
from tokencredit.models.passes.logprob import (
    Factors,
    exactly,
    exponents_,
    factors_of,
    product,
    slices,
    wide,
)
from tokencredit.ops import without_gradient

CHUNK: Final = 128
"""States whose probabilities of all ids exist together."""


def policy_mean(
    table: Float[torch.Tensor, "V r"],
    states: Float[torch.Tensor, "M d"],
    head: torch.nn.Linear,
    spare: Int[torch.Tensor, "K"] | None = None,
    rows: int = CHUNK,
) -> Float[torch.Tensor, "M r"]:
    """The row of `table` that the policy with this `head` expects in each state: Σ_v π(v|s) U_v.

    `spare` are ids without a token, whose probability is 0. The gradient is that of `table` alone:
    the policy is frozen. Sums are those of float32 (float64 for float64 states), whatever the
    format of the policy, and are divided by the sum of the probabilities.
    """
    found: torch.Tensor = _function().apply(
        table, states.detach(), head.weight.detach(), head.bias, spare, rows
    )
    return found


@without_gradient
def centring_residual(
    table: Float[torch.Tensor, "V r"],
    means: Float[torch.Tensor, "M r"],
    projected: Float[torch.Tensor, "M r"],
    policy: tuple[Float[torch.Tensor, "M d"], torch.nn.Linear],
    spare: Int[torch.Tensor, "K"] | None = None,
    rows: int = CHUNK,
) -> Float[torch.Tensor, "M"]:
    """Σ_z π(z|s) Â(s, z) of the advantages Â(s, z) = (U_z − mean(s)) · (W h(s)), which should be 0.

    π, from the same logits, and the sums are those of float64, so this is the error of `means`.
    `policy` are its states and its head.
    """
    states, head = policy
    found = states.new_empty(len(states), dtype=torch.float64)
    with exactly(states):
        factors = factors_of(states, head.weight)
        for part in slices(len(states), rows):
            logits = _possible(product(factors, head.bias, part), spare).double()
            gap = logits.softmax(dim=1) @ table.double() - means[part].double()
            found[part] = (gap * projected[part].double()).sum(dim=1)
            del logits
    return found


class _Kept(Protocol):
    """What a forward pass leaves for the backward pass."""

    saved_tensors: tuple[torch.Tensor, ...]
    rows: int
    like: torch.dtype

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None: ...


class _PolicyMean:
    """See `policy_mean`."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: _Kept,
        table: torch.Tensor,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        spare: torch.Tensor | None,
        rows: int,
    ) -> torch.Tensor:
        kind = wide(states)
        means = states.new_empty(len(states), table.shape[1], dtype=kind)
        with exactly(states):
            factors, wanted = factors_of(states, weight), table.to(kind)
            for part in slices(len(states), rows):
                powers, total = _powers(factors, bias, spare, part)
                means[part] = (powers @ wanted).div_(total)
                del powers  # before the next chunk has its own
        ctx.save_for_backward(states, weight, bias, spare)
        ctx.rows, ctx.like = rows, table.dtype
        return means

    @staticmethod
    def backward(ctx: _Kept, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        states, weight, bias, spare = ctx.saved_tensors
        found = grad.new_zeros(len(weight), grad.shape[1])
        with exactly(states):
            factors = factors_of(states, weight)
            for part in slices(len(states), ctx.rows):
                powers, total = _powers(factors, bias, spare, part)
                found.addmm_(powers.t(), grad[part] / total)
                del powers
        return found.to(ctx.like), None, None, None, None, None


@cache
def _function() -> type[torch.autograd.Function]:
    """`_PolicyMean` with its base, a class of torch, which is read no sooner."""
    from torch.autograd.function import once_differentiable

    backward = staticmethod(once_differentiable(_PolicyMean.backward))
    methods = {"forward": staticmethod(_PolicyMean.forward), "backward": backward}
    return type("_PolicyMean", (torch.autograd.Function,), methods)


def _powers(
    factors: Factors, bias: torch.Tensor | None, spare: torch.Tensor | None, part: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(logits − their maximum) of some states, (n, V), and their sums, (n, 1)."""
    logits = _possible(product(factors, bias, part), spare)
    exponents_(logits)
    powers = logits.exp2_()
    return powers, powers.sum(dim=1, keepdim=True)


def _possible(logits: torch.Tensor, spare: torch.Tensor | None) -> torch.Tensor:
    """The logits, ids without a token made impossible in place."""
    return logits if spare is None else logits.index_fill_(1, spare, FLOOR)
