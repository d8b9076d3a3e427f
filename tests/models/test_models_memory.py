"""Log-probabilities in chunks: the same numbers and gradients, and few logits at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import tokencredit.models.passes.logprob as products_module
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.logprob import head_logits, token_kl, token_logp
from tokencredit.rollout import Kept

N, V, D = 37, 211, 12
"""The vocabulary is a prime that nothing else has: whatever has it as a last dimension is logits."""
ROW = V * 4
BIG = 1 << 30
BUDGETS = {"kept": BIG, "chunks": 10 * ROW, "one row": 1}
budgets = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())


def make_choices(seed: int = 0, *, kept: bool = False, temperature: float = 1.0) -> Choices:
    """Ids among 2..V-1, some end tokens banned; kept: the chosen id and up to four more."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, V, (N,), generator=generator)
    banned = torch.rand(N, generator=generator) < 0.5
    limits = None
    if kept:
        lists = [
            torch.cat([ids[i : i + 1], torch.randint(2, V, (i % 5,), generator=generator)]).unique()
            if i % 3
            else torch.empty(0, dtype=torch.long)
            for i in range(N)
        ]
        counts = torch.tensor([len(part) for part in lists])
        limits = Kept(ids=torch.cat(lists).int(), starts=counts.cumsum(0) - counts, counts=counts)
    return Choices(ids=ids, temperature=temperature, pad=1, eos=0, banned=banned, kept=limits)


def make_head(*, bias: bool = False, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(1)
    head = nn.Linear(D, V, bias=bias, dtype=dtype)
    nn.init.normal_(head.weight, std=0.5)
    return head


def make_states(dtype: torch.dtype = torch.float32, seed: int = 2) -> Tensor:
    return torch.randn(N, D, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def plain(states: Tensor, head: nn.Linear, choices: Choices) -> tuple[Tensor, Tensor]:
    """The same from all logits at once, impossible ones -inf, written down as the definition."""
    logits = head(states) / choices.temperature
    impossible = torch.zeros(N, V, dtype=torch.bool)
    impossible[:, choices.pad] = True
    assert choices.banned is not None
    impossible[choices.banned, choices.eos] = True
    if choices.kept is not None:
        for i, count in enumerate(choices.kept.counts.tolist()):
            if count:
                start = int(choices.kept.starts[i])
                others = torch.ones(V, dtype=torch.bool)
                others[choices.kept.ids[start : start + count].long()] = False
                impossible[i] |= others
    logp = logits.masked_fill(impossible, -torch.inf).log_softmax(dim=1)
    entropy = -(logp.exp() * logp.masked_fill(impossible, 0.0)).sum(dim=1)
    return logp.gather(1, choices.ids[:, None])[:, 0], entropy


def gradients(
    found: tuple[Tensor, Tensor], inputs: list[Tensor], entropy: float
) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, N, dtype=found[0].dtype)
    loss = (found[0] * weights).sum() + entropy * (found[1] * weights.flip(0)).sum()
    return torch.autograd.grad(loss, inputs)


@budgets
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_field_B28_numbers_and_gradients_are_those_of_the_whole_logits(
    budget: int, kept: bool, bias: bool, entropy: float
) -> None:
    choices = make_choices(kept=kept, temperature=0.7)
    head, states = make_head(bias=bias), make_states().requires_grad_()
    inputs = [states, *head.parameters()]
    found, expected = token_logp(states, head, choices, budget), plain(states, head, choices)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-6)
    pairs = zip(
        gradients(found, inputs, entropy), gradients(expected, inputs, entropy), strict=True
    )
    for a, b in pairs:
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-5)
        assert a.abs().max() > 1e-2


@budgets
@pytest.mark.parametrize("kept", [False, True])
def test_field_B28_gradients_in_double_precision(budget: int, kept: bool) -> None:
    choices, double = make_choices(kept=kept, temperature=1.3), torch.float64
    head, states = make_head(bias=True, dtype=double), make_states(double)
    few, seen = slice(0, 4), [0, 1, *choices.ids[:4].tolist(), 77]
    assert head.bias is not None

    def both(part: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows of the weight move, those of impossible, chosen, and other ids among them."""
        matrix = head.weight.detach().index_copy(0, torch.tensor(seen), weight)
        head_like: Any = SimpleNamespace(weight=matrix, bias=bias)
        return token_logp(part, head_like, choices[few], budget)

    inputs = [states[few], head.weight[seen], head.bias]
    leaves = [x.detach().requires_grad_() for x in inputs]
    # The second backward pass of one forward recomputes in chunks: other last bits.
    assert torch.autograd.gradcheck(both, leaves, atol=1e-8, nondet_tol=1e-12)


@pytest.mark.parametrize("forgotten", ["temperature", "banned", "kept"])
def test_field_B28_a_forgotten_part_of_the_distribution_would_be_seen(
    forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = make_choices(kept=True, temperature=0.7)
    head, states = make_head(bias=True), make_states()
    with torch.no_grad():
        head.bias[0] = 3.0  # a likely end
    expected = plain(states, head, choices)[0]

    def partial(self: Choices, logits: Tensor) -> None:
        changes = {"temperature": 1.0} if forgotten == "temperature" else {forgotten: None}
        fields = {name: getattr(self, name) for name in Choices.__slots__}
        before(Choices(**{**fields, **changes}), logits)

    before = Choices.impose_
    monkeypatch.setattr(Choices, "impose_", partial)
    found = token_logp(states, head, choices, BIG)[0]
    assert (found - expected).abs().max() > 1e-2


@budgets
def test_a_second_backward_pass_gets_the_same_gradient(budget: int) -> None:
    """The first one has used up what was kept."""
    head, states = make_head(), make_states().requires_grad_()
    logp, entropy = token_logp(states, head, make_choices(), budget)
    loss = (logp * torch.arange(N)).sum() + entropy.sum()
    first = torch.autograd.grad(loss, [states, head.weight], retain_graph=True)
    second = torch.autograd.grad(loss, [states, head.weight])
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, atol=1e-5) and a.abs().max() > 1


def test_entropy_alone_and_nothing_at_all() -> None:
    head, states, choices = make_head(), make_states().requires_grad_(), make_choices()
    _, entropy = token_logp(states, head, choices, BIG)
    expected = plain(states, head, choices)[1]
    found = torch.autograd.grad(entropy.sum(), states)[0]
    assert torch.allclose(found, torch.autograd.grad(expected.sum(), states)[0], atol=1e-5)
    none = Choices(ids=torch.empty(0, dtype=torch.long))
    logp, _ = token_logp(states[:0], head, none, BIG)
    logp.sum().backward()
    assert head.weight.grad is not None and (head.weight.grad == 0).all()


def test_an_impossible_choice_has_probability_zero() -> None:
    head, states, choices = make_head(), make_states(), make_choices()
    choices.ids[3], choices.ids[4] = 1, 0
    assert choices.banned is not None
    choices.banned[4] = True
    logp, entropy = token_logp(states, head, choices, BIG)
    assert logp.isinf().nonzero().flatten().tolist() == [3, 4] and (entropy > 0).all()


def test_large_logits_lose_nothing() -> None:
    """Logits around -100, as GPT-2 has them, and a choice of probability e^-150."""
    head, states, choices = make_head(bias=True), make_states(), make_choices()
    with torch.no_grad():
        head.bias.fill_(-100.0)
        head.bias[int(choices.ids[0])] = -250.0
    logp, entropy = token_logp(states, head, choices, BIG)
    double = nn.Linear(D, V, dtype=torch.float64)
    double.load_state_dict(head.state_dict())
    expected = plain(states.double(), double, choices)
    assert expected[0][0] < -100
    assert torch.allclose(logp.double(), expected[0], atol=1e-4, rtol=1e-6)
    assert torch.allclose(entropy.double(), expected[1], atol=1e-4)


@pytest.mark.parametrize("budget", [BIG, 2 * ROW])
def test_papers_S6_exact_kl_of_every_token(budget: int) -> None:
    choices = make_choices(kept=True, temperature=0.7)
    heads, states = (make_head(), make_head()), (make_states(), make_states(seed=5))
    logp, kl = token_kl(states, heads, choices, budget)
    assert torch.allclose(logp, plain(states[1], heads[1], choices)[0], atol=1e-5)
    expected = torch.zeros(N)
    for id_ in range(V):
        every = Choices(**{n: getattr(choices, n) for n in Choices.__slots__})
        object.__setattr__(every, "ids", torch.full((N,), id_))
        own, other = (plain(s, h, every)[0] for s, h in zip(states, heads, strict=True))
        possible = own > -torch.inf
        expected += torch.where(possible, own.exp() * (own - other), 0.0)
    assert torch.allclose(kl, expected, atol=1e-5)
    several = (choices.kept.counts != 1) if choices.kept is not None else None
    assert several is not None
    assert (kl[several] > 1e-3).all() and (kl[~several].abs() < 1e-6).all()
    same = token_kl((states[0], states[0]), (heads[0], heads[0]), choices, budget)[1]
    assert (same == 0).all()


class Census(TorchDispatchMode):
    """The most bytes of logits, or of anything of their size, that were alive after any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            # (d, V) is a weight turned round
            if isinstance(tensor, Tensor) and tensor.shape[-1:] == (V,) and tensor.shape[0] != D:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, self.now())
        return out

    def now(self) -> int:
        self.alive = {key: item for key, item in self.alive.items() if not item[0].expired()}
        return sum(size for _, size in self.alive.values())


@contextmanager
def census() -> Iterator[Census]:
    with Census() as counted:
        yield counted


def test_field_B28_no_logits_outlive_their_chunk() -> None:
    head, states, choices = make_head(), make_states().requires_grad_(), make_choices()
    with census() as counted:
        logp, entropy = token_logp(states, head, choices, 20 * ROW)
        assert counted.now() == 0  # nothing is kept for the backward pass
        forward, counted.peak = counted.peak, 0
        (logp.sum() + 0.1 * entropy.sum()).backward()
        del logp, entropy
    # Chunks of five rows: their logits and exponentials; and x log x beside a gradient.
    assert 5 * ROW <= forward <= 10 * ROW
    assert counted.peak == 10 * ROW


def test_field_B28_kept_logits_exist_once_and_become_their_gradient() -> None:
    head, states, choices = make_head(), make_states().requires_grad_(), make_choices()
    with census() as counted:
        logp, _ = token_logp(states, head, choices, BIG)
        assert counted.now() == N * ROW
        logp.sum().backward()
        assert counted.now() == 0
    assert counted.peak <= 2 * N * ROW  # one chunk of logits beside what is kept


def test_field_B28_the_census_sees_whole_logits() -> None:
    head, states, choices = make_head(), make_states().requires_grad_(), make_choices()
    with census() as counted:
        logp, _ = plain(states, head, choices)
        assert counted.now() >= 2 * N * ROW
        logp.sum().backward()
    assert counted.peak > 4 * N * ROW


def test_without_gradient_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products_module, "ROWS", 4)
    head, states, choices = make_head(), make_states(), make_choices()
    with torch.no_grad(), census() as counted:
        token_logp(states, head, choices, BIG)
        token_kl((states, states), (head, head), choices, BIG)
    assert 0 < counted.peak <= 4 * 4 * ROW


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_sums_are_taken_in_float32(kind: torch.dtype) -> None:
    """bfloat16 states and weights give the log-probabilities of exactly those numbers."""
    head, states, choices = make_head().to(kind), make_states().to(kind), make_choices()
    wide = nn.Linear(D, V, bias=False)
    wide.weight = nn.Parameter(head.weight.detach().float())
    expected = plain(states.float(), wide, choices)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logp(states, head, choices, BIG)
        logits = head_logits(states, head)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype is torch.float32 and torch.allclose(a, b, atol=1e-5)
    assert logits.dtype is torch.float32 and torch.allclose(logits, wide(states.float()), atol=1e-5)
    rough = head(states).float().log_softmax(dim=1)
    if kind is torch.bfloat16:
        exact = wide(states.float()).log_softmax(dim=1)
        assert (rough - exact).abs().max() > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_field_B28_peak_memory_on_a_gpu() -> None:
    """50,000 ids and 4,096 tokens: 800 MB of logits that never exist together."""
    torch.manual_seed(0)
    head = nn.Linear(64, 50_000, bias=False, device="cuda", dtype=torch.bfloat16)
    states = torch.randn(4096, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    choices = Choices(ids=torch.randint(50_000, (4096,), device="cuda"))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logp, entropy = token_logp(states, head, choices, 64 << 20)
    (logp.sum() + entropy.sum()).backward()
    assert torch.cuda.max_memory_allocated() - before < 200 << 20
    wide = nn.Linear(64, 50_000, bias=False, device="cuda")
    with torch.no_grad():
        wide.weight.copy_(head.weight)
        exact = wide(states.float()).log_softmax(dim=1)
    assert torch.allclose(logp, exact.gather(1, choices.ids[:, None])[:, 0], atol=1e-3)
