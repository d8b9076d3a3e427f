"""Masked reductions, against numbers worked out by hand, and against poison in masked slots."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import mask_of
from tokencredit.ops import (
    gather_logp,
    k1,
    k3,
    keep,
    last_token,
    masked_mean,
    masked_sum,
    whiten,
)

POISONS = (float("nan"), float("inf"), float("-inf"), 1e9)


def test_reductions_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    mask = mask_of([2, 1], 3)
    assert keep(x, mask).tolist() == [[1, 2, 0], [4, 0, 0]]
    assert masked_sum(x, mask).tolist() == [3, 4]
    assert masked_mean(x, mask).item() == pytest.approx(7 / 3)


def test_mean_over_tokens_is_not_the_mean_of_row_means() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0], [5.0, 0.0, 0.0]])
    mask = mask_of([3, 1], 3)
    assert masked_mean(x, mask).item() == 2.0
    assert (masked_sum(x, mask) / mask.sum(dim=1)).mean().item() == 3.0


def test_empty_rows_and_empty_batch() -> None:
    x = torch.full((2, 3), 7.0)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert masked_sum(x, nothing).tolist() == [0, 0]
    assert masked_mean(x, nothing).item() == 0
    assert whiten(x, nothing).abs().max() == 0
    assert not last_token(nothing).any()


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("reduce", [masked_sum, masked_mean, keep, whiten])
def test_field_B13_poison_cannot_pass_a_mask(reduce: object, poison: float) -> None:
    assert callable(reduce)
    mask = mask_of([3, 1, 2], 4)
    x = torch.tensor([[1.0, -2.0, 0.5, 0], [3.0, 0, 0, 0], [0.1, 0.2, 0, 0]])
    dirty = torch.where(mask, x, poison)
    assert torch.equal(reduce(x, mask), reduce(dirty, mask))


def test_field_B13_a_product_with_the_mask_would_leak() -> None:
    x, mask = torch.tensor([[1.0, math.nan]]), mask_of([1], 2)
    assert (x * mask).sum().isnan()
    assert masked_sum(x, mask).item() == 1


@pytest.mark.parametrize("poison", POISONS)
def test_field_B13_gradient_stays_clean(poison: float) -> None:
    mask = mask_of([2, 1], 3)
    x = torch.where(mask, torch.tensor(2.0), poison).requires_grad_()
    masked_mean(x.square(), mask).backward()
    assert x.grad is not None
    assert torch.equal(x.grad[mask], torch.full((3,), 4.0 / 3))
    clean = torch.full((2, 3), 2.0).requires_grad_()
    masked_mean(clean, mask).backward()
    dirty = torch.where(mask, torch.tensor(2.0), poison).requires_grad_()
    masked_mean(dirty, mask).backward()
    assert clean.grad is not None and dirty.grad is not None
    assert torch.equal(clean.grad, dirty.grad)


def test_whiten_by_hand_unbiased_and_biased() -> None:
    x, mask = torch.tensor([[1.0, 3.0, 99.0]]), mask_of([2], 3)
    assert whiten(x, mask).tolist()[0] == pytest.approx([-(0.5**0.5), 0.5**0.5, 0])
    assert whiten(x, mask, unbiased=False).tolist()[0] == pytest.approx([-1, 1, 0])


def test_whiten_keeps_the_two_dialects_apart_where_the_variance_is_small() -> None:
    """TRL adds 1e-8 to the variance; OpenRLHF takes the larger of the two."""
    x, mask = torch.tensor([[1e-4, -1e-4]], dtype=torch.float64), mask_of([2], 2)
    assert whiten(x, mask)[0, 0].item() == pytest.approx(1e-4 / (2e-8 + 1e-8) ** 0.5)
    assert whiten(x, mask, unbiased=False)[0, 0].item() == pytest.approx(1.0)
    smaller = whiten(0.1 * x, mask, unbiased=False)
    assert smaller[0, 0].item() == pytest.approx(1e-5 / 1e-4)


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize("lengths", [[1], [1, 0]])
def test_field_B22_one_token_is_not_divided_by_zero(lengths: list[int]) -> None:
    x, mask = torch.full((len(lengths), 1), 3.0), mask_of(lengths, 1)
    for unbiased in (True, False):
        assert torch.equal(whiten(x, mask, unbiased=unbiased), torch.zeros_like(x))
    assert x[mask].var().isnan()  # what the plain formula gives


def test_field_B22_equal_advantages_stay_finite() -> None:
    x, mask = torch.full((2, 2), 0.25), mask_of([2, 2])
    assert torch.equal(whiten(x, mask), torch.zeros(2, 2))


lengths_of_rows = st.lists(st.integers(0, 6), min_size=1, max_size=5)


@given(lengths_of_rows, st.integers(0, 2**31), st.integers(0, 4))
def test_papers_S3_extra_columns_change_nothing(lengths: list[int], seed: int, extra: int) -> None:
    width = max([*lengths, 1])
    mask = mask_of(lengths, width)
    x = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    wide_mask = mask_of(lengths, width + extra)
    wide = torch.nn.functional.pad(x, (0, extra), value=float("nan"))
    assert torch.allclose(masked_mean(x, mask), masked_mean(wide, wide_mask), atol=1e-6)
    assert torch.allclose(masked_sum(x, mask), masked_sum(wide, wide_mask), atol=1e-6)
    assert torch.allclose(whiten(x, mask), whiten(wide, wide_mask)[:, :width], atol=1e-5)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 2**31))
def test_whitened_numbers_have_mean_0_and_variance_1(lengths: list[int], seed: int) -> None:
    mask = mask_of(lengths, 6)
    x = 5 + 3 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    w = whiten(x, mask)[mask]
    assert w.mean().item() == pytest.approx(0, abs=1e-4)
    assert w.var(unbiased=True).item() == pytest.approx(1, abs=1e-3)


def test_last_token_by_hand() -> None:
    assert last_token(mask_of([2, 3, 0, 1], 3)).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, False, False],
        [True, False, False],
    ]


def test_log_probability_and_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, -torch.inf]])
    logp, entropy = gather_logp(logits, torch.tensor([1, 0]))
    assert logp.tolist() == pytest.approx([math.log(0.75), 0])
    by_hand = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy.tolist() == pytest.approx([by_hand, 0])


def test_field_B25_entropy_is_never_negative_and_has_a_finite_gradient() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 10
    logits[:, 3] = -torch.inf
    logits.requires_grad_()
    logp, entropy = gather_logp(logits, torch.zeros(50, dtype=torch.long))
    assert (entropy >= 0).all() and (entropy <= math.log(6) + 1e-5).all()
    (logp.sum() + entropy.sum()).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert (logits.grad[:, 3] == 0).all()


def full_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


@given(st.integers(0, 2**31))
def test_papers_S6_full_kl_is_the_mean_of_k1_and_of_k3(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(2, 3, generator=generator, dtype=torch.float64).softmax(-1)
    exact = full_kl(p, q)
    assert exact >= 0
    assert (p * k1(p.log(), q.log())).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    assert (p * k3(p.log(), q.log())).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    assert (k3(p.log(), q.log()) >= 0).all()


def test_papers_S6_zero_only_for_identical_distributions() -> None:
    p = torch.tensor([0.2, 0.3, 0.5])
    q = torch.tensor([0.3, 0.2, 0.5])
    assert full_kl(p, p).item() == 0
    assert (k1(p.log(), p.log()) == 0).all() and (k3(p.log(), p.log()) == 0).all()
    assert full_kl(p, q).item() == pytest.approx(0.2 * math.log(2 / 3) + 0.3 * math.log(3 / 2))
    assert (p * k1(q.log(), p.log())).sum().item() < 0  # the other order is not a divergence


def test_k3_by_hand() -> None:
    logp, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0 + math.log(3)])
    assert k1(logp, ref).tolist() == pytest.approx([1, -math.log(3)])
    assert k3(logp, ref).tolist() == pytest.approx([math.exp(-1), 2 - math.log(3)])
