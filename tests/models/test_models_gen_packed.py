"""The head with a weight that was laid out once: the same logits, and only where that holds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from builders import EOS_ID, PAD_ID, make_prompts, tiny_causal
from tokencredit.models.decoding import packed_head as packing
from tokencredit.models.decoding.generation import generate
from tokencredit.models.decoding.packed_head import packed
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.tokens.ends import SpecialIds

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)


def head_and_states(rows: int = 5, *, bias: bool = False) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(32, 300, bias=bias), torch.randn(rows, 32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 64, 200])
@torch.no_grad()
def test_logits_are_those_of_the_head(rows: int, bias: bool) -> None:
    head, states = head_and_states(rows, bias=bias)
    product = packed(head)
    assert product is not head
    assert torch.allclose(product(states), head(states), atol=1e-5, rtol=0)
    last = states[:, None].repeat(1, 3, 1)[:, -1]  # rows that do not lie one after another
    assert torch.equal(product(last), product(states))
    assert not product(states).requires_grad


@torch.no_grad()
def test_the_weight_is_that_of_the_call() -> None:
    head, states = head_and_states()
    before = packed(head)
    head.weight.mul_(2)
    assert torch.allclose(packed(head)(states), head(states), atol=1e-5, rtol=0)
    assert torch.allclose(2 * before(states), head(states), atol=1e-5, rtol=0)


class Scaled(nn.Linear):
    """A linear layer that is more than one."""

    def forward(self, states: Tensor) -> Tensor:
        return 2 * nn.Linear.forward(self, states)


def test_anything_but_a_plain_layer_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    head, _ = head_and_states()
    for other in (Scaled(32, 300), nn.Sequential(head), nn.Linear(32, 300).bfloat16()):
        assert packed(other) is other
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(head) is head
    monkeypatch.setattr(packing, "LIMIT", head.weight.nbytes - 1)
    assert packed(head) is head
    monkeypatch.setattr(packing, "LIMIT", head.weight.nbytes)
    assert packed(head) is not head
    head.weight.data = torch.empty(0)  # elsewhere, as sharded weights are
    assert packed(head) is head


def test_responses_are_the_same_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_causal("gpt2"), make_prompts([3, 5, 2, 4] * 10)
    said = generate(model, prompts, Sampling(), IDS, ("packed",))
    monkeypatch.setattr(packing, "LIMIT", 0)
    plain = generate(model, prompts, Sampling(), IDS, ("packed",))
    assert (said.ids[:, : plain.ids.shape[1]] == plain.ids).all(dim=1).sum() >= 39
