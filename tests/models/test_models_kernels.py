"""Fused activations, recomputed activations, narrower products: the same policy, computed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.activations import ACT2FN

import tokencredit.models.policy as policy_module
from builders import ARCHITECTURES, VOCABULARY, make_prompts, tiny_causal
from policies import LENGTHS, make_policy, rolled
from tokencredit.models.decoding.generation import generate
from tokencredit.models.loading.trunk import checkpoint
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.kernels import fuse_activations
from tokencredit.models.passes.logprob import token_logp
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.value import ValueKind
from tokencredit.ops import keep
from tokencredit.rollout import PolicyOutput, Rollout

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
kinds = pytest.mark.parametrize("kind", list(ValueKind), ids=[kind.value for kind in ValueKind])


def gptj() -> nn.Module:
    torch.manual_seed(0)
    return GPTJForCausalLM(
        GPTJConfig(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4)
    )


def neox() -> nn.Module:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return GPTNeoXForCausalLM(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "gpt2": (lambda: tiny_causal("gpt2"), 2),
    "gptj": (gptj, 2),
    "neox": (neox, 0),
    "llama": (tiny_causal, 0),
}


@pytest.mark.parametrize(("make", "count"), MODELS.values(), ids=MODELS.keys())
@torch.no_grad()
def test_fused_activations_change_nothing_but_time(make: Callable[[], Any], count: int) -> None:
    plain, fused = make().eval(), make().eval()
    assert fuse_activations(fused) == count
    assert fuse_activations(fused) == 0
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert fused.config.to_dict() == plain.config.to_dict()
    ids = torch.randint(2, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    a, b = (model(input_ids=ids).logits for model in (plain, fused))
    assert torch.allclose(a, b, atol=1e-5, rtol=1e-6)
    assert torch.equal(a, b) is (count == 0)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_accurate"])
def test_a_fused_activation_is_the_same_function(name: str) -> None:
    plain = nn.Sequential(ACT2FN[name])
    fused = nn.Sequential(ACT2FN[name])
    assert fuse_activations(fused) == 1
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64).requires_grad_()
    values = [model(x) for model in (plain, fused)]
    slopes = [torch.autograd.grad(value.sum(), x)[0] for value in values]
    assert torch.allclose(*values, atol=1e-9)
    assert torch.allclose(*slopes, atol=1e-8)
    wrong = nn.GELU()(x)
    assert (wrong - values[0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["gelu", "relu", "silu", "quick_gelu", "gelu_pytorch_tanh"])
def test_other_functions_stay(name: str) -> None:
    model = nn.Sequential(ACT2FN[name])
    assert fuse_activations(model) == 0


def run(policy: PolicyWithValue, rollout: Rollout) -> tuple[PolicyOutput, list[Tensor], int]:
    """Output, gradients, and bytes saved for the backward pass."""
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = policy(rollout)
    for parameter in policy.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    mask = rollout.response_mask
    loss = keep(output.logp + (output.values - 1).square() - 0.1 * output.entropy, mask).sum()
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    return output, list(torch.autograd.grad(loss, parameters)), sum(saved.values())


@kinds
@architectures
def test_field_B15_checkpointing_is_active_and_changes_nothing(
    kind: ValueKind, architecture: str
) -> None:
    rollout = rolled(architecture)
    plain, lean = make_policy(kind, architecture), make_policy(kind, architecture)
    lean.checkpoint_activations()
    plain.train()
    lean.train()
    calls: list[str] = []
    layer = next(m for n, m in lean.model.named_modules() if n.endswith("mlp"))
    layer.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    expected, gradients, bytes_ = run(plain, rollout)
    found, again, fewer = run(lean, rollout)
    assert len(calls) == (4 if kind is ValueKind.adapter else 2)  # once more in the backward pass
    assert fewer < 0.6 * bytes_
    for name in ("logp", "values", "entropy"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    for a, b in zip(gradients, again, strict=True):
        assert torch.equal(a, b)
    lean.eval()
    calls.clear()
    run(lean, rollout)
    assert len(calls) == (2 if kind is ValueKind.adapter else 1)  # no longer, and without a word


def test_field_B15_recomputing_under_the_wrong_adapter_would_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollout = rolled()
    plain, careless = make_policy(ValueKind.adapter), make_policy(ValueKind.adapter)
    monkeypatch.setattr(policy_module, "checkpoint", lambda model, _=None: checkpoint(model))
    careless.checkpoint_activations()
    careless.train()
    pairs = zip(run(plain, rollout)[1], run(careless, rollout)[1], strict=True)
    assert max((a - b).abs().max() for a, b in pairs) > 1e-3


@kinds
def test_field_B15_two_passes_in_training_mode_are_equal(kind: ValueKind) -> None:
    policy, rollout = make_policy(kind).train(), rolled()
    first, second = policy(rollout), policy(rollout)
    assert torch.equal(first.logp, second.logp) and torch.equal(first.values, second.values)


@architectures
def test_checkpointing_does_not_reach_the_decode_loop(architecture: str) -> None:
    prompts = make_prompts(LENGTHS, max_new=6)
    said = []
    for checkpointing in (False, True):
        policy = make_policy(architecture=architecture).train()
        if checkpointing:
            policy.checkpoint_activations()
        out = generate(policy.model, prompts, policy.sampling, policy.ids, ("test", 0))
        said.append(out.ids)
        assert policy.training and policy.model.training
    assert torch.equal(*said)


@architectures
def test_autocast_narrows_the_trunk_alone(architecture: str) -> None:
    rollout = rolled(architecture)
    plain = make_policy(architecture=architecture)
    narrow = make_policy(architecture=architecture, narrow_format=torch.bfloat16)
    output, gradients, _ = run(narrow, rollout)
    expected, _, _ = run(plain, rollout)
    for name in ("logp", "values", "entropy"):
        found, exact = getattr(output, name), getattr(expected, name)
        assert found.dtype is torch.float32
        assert 1e-6 < (found - exact).abs().max() < 1.0
    assert all(g.dtype is torch.float32 and g.isfinite().all() for g in gradients)
    seen: list[torch.dtype] = []
    layer = next(m for n, m in narrow.model.named_modules() if n.endswith("mlp"))
    layer.register_forward_hook(lambda _m, _a, out: seen.append(out.dtype))
    states = narrow.states(narrow.model, narrow.layout(rollout))
    assert seen == [torch.bfloat16]
    # From there on nothing is rounded: probabilities of all ids sum to 1 as in float32.
    every = torch.arange(VOCABULARY)
    choices = narrow.choices(rollout)[slice(0, 1)]
    many = Choices(ids=every, pad=choices.pad)
    logp, _ = token_logp(states[:1].expand(VOCABULARY, -1), narrow.model.lm_head, many, 1 << 20)
    assert logp.exp().sum().item() == pytest.approx(1, abs=1e-5)


@architectures
def test_bfloat16_weights_give_float32_numbers(architecture: str) -> None:
    rollout = rolled(architecture)
    policy = make_policy(architecture=architecture)
    exact = policy(rollout).logp
    policy.model.to(torch.bfloat16)
    output, gradients, _ = run(policy, rollout)
    assert output.logp.dtype is output.values.dtype is torch.float32
    assert policy.value_head.weight.dtype is torch.float32
    assert (output.logp - exact)[rollout.response_mask].abs().max() < 1.0
    assert all(gradient.isfinite().all() for gradient in gradients)
