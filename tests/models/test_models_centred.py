"""A low-rank advantage head, centred in chunks: as a dense one, and no tensor over all ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dense_advantages import dense_advantages, dense_policy
from tokencredit.bench.centring import Census
from tokencredit.models.advantage_model import AdvantageHead
from tokencredit.models.passes.centred import centring_residual, policy_mean

N, V, D, R = 37, 50, 12, 4
CHUNKS = pytest.mark.parametrize("rows", [1, 5, N, 1000])


def make_policy(*, bias: bool = False, dtype: torch.dtype = torch.float64, v: int = V) -> nn.Linear:
    torch.manual_seed(1)
    head = nn.Linear(D, v, bias=bias, dtype=dtype)
    nn.init.normal_(head.weight, std=0.5)
    return head.requires_grad_(False)


def make_head(*, dtype: torch.dtype = torch.float64, rank: int = R, v: int = V) -> AdvantageHead:
    torch.manual_seed(2)
    head = AdvantageHead(D, v, rank).to(dtype)
    nn.init.normal_(head.up)
    return head


def drawn(seed: int, dtype: torch.dtype = torch.float64, n: int = N) -> Tensor:
    return torch.randn(n, D, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def ids_of(v: int = V, n: int = N) -> Tensor:
    return torch.randint(v, (n,), generator=torch.Generator().manual_seed(5))


def advantages(
    head: AdvantageHead, states: Tensor, frozen: Tensor, policy: nn.Linear, **options: Any
) -> Tensor:
    ids = options.pop("ids", None)
    means = head.means(frozen, policy, **options)
    return head(states, means, ids_of(len(head.up), len(states)) if ids is None else ids)


def residual(
    head: AdvantageHead, states: Tensor, policy: tuple[Tensor, nn.Linear], rows: int = 128
) -> Tensor:
    means = head.means(*policy, rows=rows)
    return centring_residual(head.up, means, head.projected(states), policy, rows=rows)


def test_papers_D1_by_hand() -> None:
    """π = (.25, .75) and f = (1, −1): Â = (1.5, −.5), and Σ π Â = 0."""
    head = AdvantageHead(1, 2, 1).double()
    policy = nn.Linear(1, 2, bias=False, dtype=torch.float64).requires_grad_(False)
    policy.weight.copy_(torch.tensor([[0.25], [0.75]], dtype=torch.float64).log())
    with torch.no_grad():
        head.down.weight.fill_(2.0)
        head.up.copy_(torch.tensor([[0.5], [-0.5]]))
    one = torch.ones(2, 1, dtype=torch.float64)
    found = advantages(head, one, one, policy, ids=torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([1.5, -0.5], abs=1e-15)
    assert 0.25 * found[0].item() + 0.75 * found[1].item() == pytest.approx(0, abs=1e-15)
    assert residual(head, one, (one, policy)).abs().max().item() < 1e-15


@CHUNKS
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("spare", [None, [3, 49]])
def test_papers_D3_values_and_gradients_are_those_of_the_dense_reference(
    rows: int, bias: bool, spare: list[int] | None
) -> None:
    head, policy = make_head(), make_policy(bias=bias)
    states, frozen = drawn(3).requires_grad_(), drawn(4)
    impossible = None if spare is None else torch.tensor(spare)
    found = advantages(head, states, frozen, policy, spare=impossible, rows=rows)
    wanted = dense_advantages(head, states, dense_policy(frozen, policy, impossible), ids_of())
    assert torch.allclose(found, wanted, atol=1e-12, rtol=0)
    weights = torch.linspace(-1, 2, N, dtype=torch.float64)
    inputs = [states, head.down.weight, head.up]
    both = [torch.autograd.grad((a * weights).sum(), inputs) for a in (found, wanted)]
    for a, b in zip(*both, strict=True):
        assert torch.allclose(a, b, atol=1e-11, rtol=0) and a.abs().max() > 1e-2


def test_papers_D3_gradients_by_finite_differences() -> None:
    head, policy, frozen = make_head(), make_policy(), drawn(4, n=5)
    given = torch.tensor([1, 1, 7, 0, 49])

    def found(states: Tensor, down: Tensor, up: Tensor) -> Tensor:
        means = policy_mean(up, frozen, policy, None, 2)
        return ((up[given] - means) * (states @ down.t())).sum(dim=1)

    inputs = [drawn(3, n=5), head.down.weight.detach(), head.up.detach()]
    assert torch.autograd.gradcheck(found, [x.clone().requires_grad_() for x in inputs])


def test_papers_D2_a_constant_row_added_to_U_changes_nothing() -> None:
    head, policy = make_head(), make_policy()
    before = advantages(head, drawn(3), drawn(4), policy)
    with torch.no_grad():
        head.up += torch.linspace(-3, 5, R, dtype=torch.float64)
    assert torch.allclose(advantages(head, drawn(3), drawn(4), policy), before, atol=1e-12, rtol=0)
    with torch.no_grad():
        head.up[0] += 1.0
    assert (advantages(head, drawn(3), drawn(4), policy) - before).abs().max() > 1e-3


def test_the_gradient_has_no_constant_part_either() -> None:
    """What cannot change an advantage is not moved: the gradient by U sums to zero over the ids."""
    head = make_head()
    advantages(head, drawn(3), drawn(4), make_policy()).square().sum().backward()
    assert head.up.grad is not None and head.up.grad.abs().max() > 1
    assert head.up.grad.sum(dim=0).abs().max() < 1e-10


def test_the_residual_is_rounding_and_would_show_another() -> None:
    head, policy = make_head(dtype=torch.float32), make_policy(dtype=torch.float32)
    states, frozen = drawn(3, torch.float32), drawn(4, torch.float32)
    size = dense_advantages(head, states, dense_policy(frozen, policy)).abs().max()
    assert residual(head, states, (frozen, policy), rows=5).abs().max() < 1e-6 * size
    means = head.means(frozen, policy)
    rough = dense_policy(frozen, policy).bfloat16().float() @ head.up
    both = (
        centring_residual(head.up, x, head.projected(states), (frozen, policy))
        for x in (rough, means)
    )
    wrong, right = (x.abs().max() for x in both)
    assert wrong > 100 * right


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_sums_are_taken_in_float32(kind: torch.dtype) -> None:
    """A policy in bfloat16 is centred as the float32 policy of exactly those numbers is."""
    head, policy = make_head(dtype=torch.float32), make_policy(dtype=torch.float32).to(kind)
    states, frozen = drawn(3, torch.float32), drawn(4, torch.float32).to(kind)
    wide = make_policy(dtype=torch.float32)
    with torch.no_grad():
        wide.weight.copy_(policy.weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = advantages(head, states, frozen, policy)
    assert found.dtype is torch.float32
    assert torch.allclose(found, advantages(head, states, frozen.float(), wide), atol=1e-5)


def test_alone_or_in_company_and_in_any_order() -> None:
    """A row's advantage depends on no other, on no chunk, and the gradient is a sum over rows."""
    head, policy, ids = make_head(), make_policy(), ids_of()
    states, frozen = drawn(3), drawn(4)
    whole = advantages(head, states, frozen, policy, rows=7)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(9))
    moved = advantages(head, states[order], frozen[order], policy, ids=ids[order], rows=7)
    assert torch.allclose(moved, whole[order], atol=1e-13, rtol=0)
    whole.square().sum().backward()
    assert head.up.grad is not None
    together, head.up.grad = head.up.grad, None
    for part in (slice(0, 10), slice(10, 11), slice(11, N)):
        few = advantages(head, states[part], frozen[part], policy, ids=ids[part], rows=7)
        assert torch.allclose(few, whole[part].detach(), atol=1e-13, rtol=0)
        few.square().sum().backward()
    assert torch.allclose(head.up.grad, together, atol=1e-10, rtol=0)


def test_no_states_at_all() -> None:
    head, policy = make_head(), make_policy()
    found = advantages(head, drawn(3, n=0), drawn(4, n=0), policy, ids=torch.empty(0).long())
    found.sum().backward()
    assert found.shape == (0,) and head.up.grad is not None and (head.up.grad == 0).all()


def test_a_fresh_head_says_nothing_and_can_learn() -> None:
    head, policy = AdvantageHead(D, V, R).double(), make_policy()
    found = advantages(head, drawn(3), drawn(4), policy)
    assert (found == 0).all()
    (found - 1).square().sum().backward()
    assert head.up.grad is not None and head.up.grad.abs().max() > 1e-2


def test_no_tensor_over_all_ids_survives_a_chunk() -> None:
    """The head's own weight, (V, d), is turned round: it has d = 12 rows, and so may chunks."""
    head, policy = make_head(dtype=torch.float32, v=211), make_policy(dtype=torch.float32, v=211)
    states, frozen = drawn(3, torch.float32).requires_grad_(), drawn(4, torch.float32)
    with Census(211, D) as chunked:
        advantages(head, states, frozen, policy, rows=D).square().sum().backward()
    assert head.up.grad is not None and chunked.wide == []
    with Census(211, D) as larger:
        advantages(head, states, frozen, policy, rows=D + 1).square().sum().backward()
    assert {tuple(shape) for _, *shape in larger.wide} >= {(D + 1, 211)}
    with Census(211, D) as dense:
        whole = dense_advantages(head, states, dense_policy(frozen, policy), ids_of(211))
        assert {tuple(shape) for _, *shape in dense.wide} == {(N, 211)}
        forward = len(dense.wide)
        whole.square().sum().backward()
    assert len(dense.wide) > forward
