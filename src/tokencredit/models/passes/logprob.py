"""log π of chosen tokens, its entropy, and exact KL, from hidden states.

Logits are by far the largest thing in a pass over a large vocabulary. Here only one chunk of tokens
has them at a time; or their exponentials are kept, for the backward pass to turn into the gradient
in place. Sums are taken in float32 at least, whatever the format of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final, TypeAlias

import torch
from jaxtyping import Float, Int

from tokencredit.models.passes.distribution import FLOOR, Choices
from tokencredit.ops import without_gradient


def token_logp(
    states: Float[torch.Tensor, "N d"], head: torch.nn.Linear, choices: Choices, budget: int
) -> tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]]:
    """log π of the chosen ids, and the entropy of each choice in nats, both with gradient.

    If a gradient is needed and N × V numbers fit in `budget` bytes, the exponentials of the logits
    are kept for the backward pass; above that they are recomputed chunk by chunk. An impossible id
    has log-probability -inf. The gradient of the entropy is formed only if a loss depends on it.
    """
    needed = torch.is_grad_enabled() and (states.requires_grad or head.weight.requires_grad)
    size = len(states) * len(head.weight) * wide(states).itemsize
    found: tuple[torch.Tensor, torch.Tensor] = _function().apply(
        states, head.weight, head.bias, choices, budget, needed and size <= budget
    )
    return found


@without_gradient
def token_kl(
    states: tuple[Float[torch.Tensor, "N d"], Float[torch.Tensor, "N d"]],
    heads: tuple[torch.nn.Linear, torch.nn.Linear],
    choices: Choices,
    budget: int,
) -> tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]]:
    """log π_ref of the chosen ids, and Σ_v π (log π − log π_ref), both masked alike.

    `states` and `heads` are those of π and of π_ref. Nothing has a gradient.
    """
    ref_logp, kl = row(states[0]), row(states[0])
    with exactly(states[0]):
        factors = [factors_of(s, head.weight) for s, head in zip(states, heads, strict=True)]
        for rows in chunks(states[0], heads[0].weight, budget):
            logits = [
                _logits(f, h.bias, choices, rows) for f, h in zip(factors, heads, strict=True)
            ]
            ref_logp[rows], kl[rows] = _divergence(logits, choices.ids[rows])
            del logits
    return ref_logp, kl


class _TokenLogp:
    """See `token_logp`. `keep`: whether the exponentials stay for the backward pass."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        choices: Choices,
        budget: int,
        keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp, entropy, total = row(states), row(states), row(states)
        with exactly(states):
            factors = factors_of(states, weight)
            store = logp.new_empty(len(states), len(weight)) if keep else None
            for rows in chunks(states, weight, budget):
                logits = _logits(factors, bias, choices, rows)
                out = None if store is None else store[rows]
                found = _exponentials(logits, choices.ids[rows], out)
                logp[rows], entropy[rows], total[rows] = found
                del logits  # before the next chunk has its own
        ctx.save_for_backward(states, weight, bias, entropy, total)
        ctx.set_materialize_grads(False)  # an entropy that no loss depends on costs nothing
        ctx.choices, ctx.budget, ctx.store = choices, budget, store
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_logp: torch.Tensor | None, grad_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        states, weight, bias, entropy, total = ctx.saved_tensors
        # The store becomes the gradient and is gone; a second backward pass has to recompute it.
        store, ctx.store = ctx.store, None
        with exactly(states):
            factors = factors_of(states, weight)
            sums = _Sums(factors, ctx.needs_input_grad)
            whole = [slice(0, len(states))]
            for rows in chunks(states, weight, ctx.budget) if store is None else whole:
                slopes = store
                if slopes is None:
                    slopes = _logits(factors, bias, ctx.choices, rows)
                    exponents_(slopes)
                    slopes.exp2_()
                upstream = [None if g is None else g[rows] for g in (grad_logp, grad_entropy)]
                _to_gradient_(slopes, ctx.choices[rows], upstream, (entropy[rows], total[rows]))
                sums.add(slopes, rows)
                del slopes
        kinds = (states, weight, weight if bias is None else bias)
        given = zip(sums.found, kinds, strict=True)
        return *(None if g is None else g.to(x.dtype) for g, x in given), None, None, None


@cache
def _function() -> type[torch.autograd.Function]:
    """`_TokenLogp` with its base, a class of torch, which is read no sooner."""
    from torch.autograd.function import once_differentiable

    backward = staticmethod(once_differentiable(_TokenLogp.backward))
    forward = staticmethod(_TokenLogp.forward)
    methods = {"forward": forward, "backward": backward}
    return type("_TokenLogp", (torch.autograd.Function,), methods)


class _Sums:
    """Gradients of states, weight, and bias, from those of the logits of some rows at a time."""

    def __init__(self, factors: Factors, needed: Sequence[bool]) -> None:
        self.factors, self.needed = factors, needed[:3]
        self.found: list[torch.Tensor | None] = [None, None, None]
        if needed[0]:
            self.found[0] = row(factors[0]).new_empty(factors[0].shape)

    def add(self, slopes: torch.Tensor, rows: slice) -> None:
        hidden, matrix = self.factors
        if self.found[0] is not None:
            self.found[0][rows] = mm(slopes, matrix)
        if self.needed[1]:
            self._add(1, mm(slopes.t(), hidden[rows]))
        if self.needed[2]:
            self._add(2, slopes.sum(dim=0))

    def _add(self, place: int, part: torch.Tensor) -> None:
        before = self.found[place]
        self.found[place] = part if before is None else before.add_(part)


def _exponentials(
    logits: Float[torch.Tensor, "N V"],
    ids: Int[torch.Tensor, "N"],
    out: Float[torch.Tensor, "N V"] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log π(ids), the entropy, and the sum of exp(logits − their maximum), which go into `out`.

    Nothing is left of the logits.
    """
    chosen = _chosen(logits, ids)
    top = exponents_(logits)
    powers = torch.exp2(logits, out=out)
    total = powers.sum(dim=1)
    expected = logits.mul_(powers).sum(dim=1) * math.log(2) / total
    log_total = total.log()
    return _of_possible(chosen, chosen - top - log_total), log_total - expected, total


def exponents_(logits: Float[torch.Tensor, "N V"]) -> Float[torch.Tensor, "N"]:
    """Turn logits into log₂ exp(logits − their maximum), in place; the maximum.

    On a CPU, torch's exp2 takes a third of the time of its exp.
    """
    top = logits.amax(dim=1)
    logits.sub_(top[:, None]).mul_(1 / math.log(2))
    return top


def _divergence(
    logits: list[torch.Tensor], ids: Int[torch.Tensor, "N"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """log q(ids) and Σ p (log p − log q) of two distributions; nothing is left of their logits."""
    log_p, log_q = (logits.pop(0).log_softmax(dim=1) for _ in range(2))
    chosen = _chosen(log_q, ids)
    return _of_possible(chosen, chosen), (log_p.exp() * log_p.sub_(log_q)).sum(dim=1)


def _to_gradient_(
    exponentials: Float[torch.Tensor, "N V"],
    choices: Choices,
    upstream: Sequence[torch.Tensor | None],
    known: tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]],
) -> None:
    """Turn exponentials of logits into the gradient of a loss by the model's logits, in place.

    `upstream` is the loss's gradient by log π and by the entropy H, `known` H and the exponentials'
    sum. d log π(a) / dz = 1_a − p, and dH / dz = −p (log p + H) (both: Σ_v p_v = 1).
    """
    (by_logp, by_entropy), (entropy, total) = upstream, known
    scale, extra = torch.zeros_like(total), None
    if by_logp is not None:
        scale -= by_logp / total
    if by_entropy is not None:
        weight = by_entropy / total
        scale -= weight * (entropy - total.log())
        extra = torch.special.xlogy(exponentials, exponentials).mul_(-weight[:, None])
    exponentials.mul_(scale[:, None])
    if extra is not None:
        exponentials.add_(extra)
    if by_logp is not None:
        rows = torch.arange(len(total), device=total.device)
        exponentials[rows, choices.ids] += by_logp
    if choices.temperature != 1:
        exponentials.div_(choices.temperature)


def _logits(
    factors: Factors, bias: torch.Tensor | None, choices: Choices, rows: slice
) -> torch.Tensor:
    logits = product(factors, bias, rows)
    choices[rows].impose_(logits)
    return logits


def _chosen(x: Float[torch.Tensor, "N V"], ids: Int[torch.Tensor, "N"]) -> Float[torch.Tensor, "N"]:
    return x.gather(1, ids[:, None])[:, 0]


def _of_possible(chosen: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """`logp`, and -inf where the chosen logit is that of an impossible id."""
    return logp.masked_fill(chosen <= FLOOR / 2, -torch.inf)


ROWS: Final = 512
"""Tokens whose logits are computed together, or fewer where memory says so."""
COPIES: Final = 4
"""As many numbers as a chunk has logits are alive at a time, at most."""
Factors: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"
"""States (N, d) and weight (V, d) in one number format."""


@without_gradient
def head_logits(
    states: Float[torch.Tensor, "N d"], head: torch.nn.Linear
) -> Float[torch.Tensor, "N V"]:
    """Logits in float32 (float64 for float64 states), whatever the format, under any autocast."""
    with exactly(states):
        return product(factors_of(states, head.weight), head.bias, slice(None))


def product(factors: Factors, bias: torch.Tensor | None, rows: slice) -> torch.Tensor:
    """Logits (n, V) of some rows."""
    states, weight = factors
    logits = mm(states[rows], weight.t())
    return logits if bias is None else logits.add_(bias)


def mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b in float32 at least; the factors have the format of b."""
    kind = wide(b)
    return a @ b if b.dtype is kind else torch.mm(a.to(b.dtype), b, out_dtype=kind)


def factors_of(states: torch.Tensor, weight: torch.Tensor) -> Factors:
    """Both factors in one format: a CPU's float32, whose bfloat16 has no exact sums, or a GPU's."""
    kind = wide(states) if states.device.type == "cpu" else states.dtype
    return states.to(kind), weight.to(kind)


def wide(x: torch.Tensor) -> torch.dtype:
    """The format of sums over numbers like `x`."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def row(states: torch.Tensor) -> torch.Tensor:
    """An empty number for each of the states."""
    return torch.empty(len(states), dtype=wide(states), device=states.device)


def chunks(states: torch.Tensor, weight: torch.Tensor, budget: int) -> Iterator[slice]:
    """At least one chunk of rows, whose logits and what is made of them fit in `budget` bytes."""
    return slices(len(states), min(ROWS, budget // (COPIES * len(weight) * wide(states).itemsize)))


def slices(count: int, step: int) -> Iterator[slice]:
    """At least one chunk of `count` rows, `step` rows each, or 1 where that is less."""
    step = max(1, step)
    for start in range(0, max(1, count), step):
        yield slice(start, min(start + step, count))


def exactly(states: torch.Tensor) -> torch.autocast:
    """No autocast: formats are chosen here."""
    return torch.autocast(states.device.type, enabled=False)
