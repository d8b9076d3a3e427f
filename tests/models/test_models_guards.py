"""What models are when they are read, and small things that reading them depends on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import flash_attention_mask
from transformers.models.mistral.modeling_mistral import eager_attention_forward

from attention_models import SPECIAL, captured, eager_rows, last_rows, padded, sequences
from builders import EOS, PAD, PAD_ID, tiny_causal, tiny_classifier, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.models.decoding.nucleus import likeliest
from tokencredit.models.loading.model import Model, RewardReads
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.logprob import token_kl, token_logp
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.scorer import Scorer, open_reader
from tokencredit.models.tokens.retokenise import retokeniser_between


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_module_of_a_reward_model_is_in_evaluation_mode(architecture: str) -> None:
    scorer = Scorer(tiny_classifier(architecture).train(), PAD_ID)
    assert not any(module.training for module in scorer.model.modules())


@pytest.mark.parametrize(("context", "fits"), [(96, True), (97, False)])
def test_a_context_longer_than_the_reward_model_reads_is_refused(
    context: int, fits: bool, tmp_path: Path
) -> None:
    model, tokenizer = tiny_classifier(), train_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    read = partial(open_reader, tmp_path, tokenizer, Model(context=context), ScoreAt.end, "cpu")
    if fits:
        assert read().retokeniser is None
        return
    with pytest.raises(UserError, match=r"model\.context = 97"):
        read()


def test_exact_kl_has_no_gradient() -> None:
    """Though states and heads have one, as in a step that measures it beside the loss."""
    torch.manual_seed(0)
    states = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
    heads = [torch.nn.Linear(4, 7) for _ in range(2)]
    choices = Choices(ids=torch.tensor([0, 3, 6]))
    ref_logp, kl = token_kl((states[0], states[1]), (heads[0], heads[1]), choices, 2**20)
    assert not ref_logp.requires_grad and not kl.requires_grad
    p, q = (head(x).log_softmax(dim=1) for x, head in zip(states, heads, strict=True))
    assert torch.allclose(kl, (p.exp() * (p - q)).sum(dim=1), atol=1e-6)
    assert token_logp(states[0], heads[0], choices, 2**20)[0].requires_grad


@pytest.mark.parametrize("logits", [[0.0] * 4, [2.0, 1.0, 0.5, -1.0], [3.0, 3.0, -1.0, -2.0]])
def test_a_mass_that_is_exactly_p_needs_no_further_id(logits: list[float]) -> None:
    row = torch.tensor([logits])
    mass = (row - row.logsumexp(dim=1, keepdim=True)).double().exp().cumsum(dim=1)[0].tolist()
    for count, p in enumerate(mass[:3], start=1):
        kept = likeliest(row, top_p=p)[0]
        assert kept.tolist() == [True] * count + [False] * (4 - count)


@pytest.mark.parametrize(
    "settings",
    [{"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}],
    ids=["by_layer", "unscaled"],
)
def test_a_models_own_scaling_of_attention_is_in_the_row(settings: dict[str, bool]) -> None:
    model, batch = tiny_causal("gpt2", **settings).eval(), padded(sequences(), "right")
    found, expected = captured(model, batch), eager_rows(model, batch, last_rows(batch))
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    plain = captured(tiny_causal("gpt2").eval(), batch)
    assert (found - plain).abs().max() > 1e-2


def windowed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> Any:
    """Attention as flash attention computes it: the function itself cuts the sliding window."""
    size, window = key.shape[2], options["sliding_window"]
    age = torch.arange(size)[:, None] - torch.arange(size)[None]
    seen = ((age >= 0) & (age < window))[None, None]
    if mask is not None:
        seen = seen & mask[:, None, None].bool()
    bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return eager_attention_forward(module, query, key, value, bias, options["scaling"])


@pytest.mark.parametrize("equal", [True, False], ids=["no_mask", "mask"])
def test_a_sliding_window_that_the_kernel_cuts_is_in_the_row(equal: bool) -> None:
    """transformers hands flash attention no mask, or (B, S), and the window as an option."""
    AttentionInterface.register("windowed", windowed)
    AttentionMaskInterface.register("windowed", flash_attention_mask)
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=3,
        initializer_range=0.3,
        **SPECIAL,
    )
    model = MistralForCausalLM(config).eval()
    texts = [text[:4] for text in sequences()] if equal else sequences()
    batch = padded(texts, "right")
    rows = last_rows(batch)
    expected = eager_rows(model, batch, rows)
    model.set_attn_implementation("windowed")
    found = captured(model, batch)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    last = int(rows[0])
    assert (found[0, :, : last - 2] == 0).all() and (found[0, :, last - 2 : last + 1] > 0).all()


def exchanged(tokenizer: PreTrainedTokenizerFast, first: str, second: str) -> Any:
    """The same tokens, of which two have each other's id."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    known = parts["model"]["vocab"]
    known[first], known[second] = known[second], known[first]
    backend = Tokenizer.from_str(json.dumps(parts))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=PAD)


def test_vocabularies_of_one_size_are_told_apart_by_their_ids() -> None:
    own = train_tokenizer()
    other = exchanged(own, "a", "b")
    assert len(own) == len(other) and own("a")["input_ids"] != other("a")["input_ids"]
    with pytest.raises(UserError, match=r"model\.reward_reads=text"):
        retokeniser_between(own, other, RewardReads.ids)
    assert retokeniser_between(own, other, RewardReads.text) is not None
