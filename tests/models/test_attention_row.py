"""The captured row is the eager row, whatever the padding, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from tokencredit.errors import UserError
from tokencredit.models.attention_row import AttentionRow

VOCABULARY, PAD = 50, 1
LENGTHS = (9, 4, 6)


def gpt2(kind: type[PreTrainedModel] = GPT2LMHeadModel) -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=PAD
    )
    return sharpened(kind(config))


def llama(kind: type[PreTrainedModel] = LlamaForCausalLM) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,  # two query heads share a key head
        max_position_embeddings=64,
        pad_token_id=PAD,
    )
    return sharpened(kind(config))


def sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights large enough that its attention is far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model.eval()


def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, VOCABULARY, (n,), generator=generator) for n in LENGTHS]


def padded(texts: list[Tensor], side: str, extra: int = 0, filler: int = PAD) -> dict[str, Tensor]:
    width = max(len(text) for text in texts) + extra
    ids = torch.full((len(texts), width), filler)
    mask = torch.zeros_like(ids)
    for b, text in enumerate(texts):
        where = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[b, where], mask[b, where] = text, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def last_rows(batch: dict[str, Tensor]) -> Tensor:
    mask = batch["attention_mask"]
    return mask.shape[1] - 1 - mask.flip(-1).argmax(dim=-1)


def captured(model: PreTrainedModel, batch: dict[str, Tensor], layer: int = -1) -> Tensor:
    reader = AttentionRow(model, layer)
    with torch.no_grad(), reader.capture(last_rows(batch)):
        model(**batch)
    return reader.weights


def on_real_keys(weights: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    return [row[:, keep.bool()] for row, keep in zip(weights, batch["attention_mask"], strict=True)]


MODELS: list[Callable[[], PreTrainedModel]] = [
    gpt2,
    llama,
    lambda: gpt2(GPT2ForSequenceClassification),
    lambda: llama(LlamaForSequenceClassification),
]
NAMES = ["gpt2", "llama", "gpt2_classifier", "llama_classifier"]
every_model = pytest.mark.parametrize("make", MODELS, ids=NAMES)
either_side = pytest.mark.parametrize("side", ["left", "right"])


@every_model
@either_side
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_papers_A5_row_equals_eager_attentions(
    make: Callable[[], PreTrainedModel], side: str, layer: int
) -> None:
    model, batch = make(), padded(sequences(), side)
    rows = last_rows(batch)
    found = captured(model, batch, layer)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions[layer]
    expected = torch.stack([maps[b, :, row] for b, row in enumerate(rows.tolist())])
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found[batch["attention_mask"][:, None].expand_as(found) == 0] == 0).all()
    assert (expected.amax(-1) > 0.5).any()  # a flat row would equal any other flat row


@every_model
def test_field_B31_logits_are_those_of_sdpa(make: Callable[[], PreTrainedModel]) -> None:
    model, batch = make(), padded(sequences(), "left")
    with torch.no_grad():
        plain = model(**batch).logits
        with AttentionRow(model).capture(last_rows(batch)):
            beside = model(**batch).logits
    assert torch.equal(plain, beside)


def test_row_without_padding_is_causal() -> None:
    """Without padding transformers passes no mask at all: later keys must still get nothing."""
    model, batch = llama(), padded([text[:4] for text in sequences()], "right")
    reader, rows = AttentionRow(model), torch.tensor([1, 3, 0])
    with torch.no_grad(), reader.capture(rows):
        model(**batch)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions[-1]
    expected = torch.stack([maps[b, :, row] for b, row in enumerate(rows.tolist())])
    torch.testing.assert_close(reader.weights, expected, atol=1e-5, rtol=0)
    assert torch.equal(reader.weights[2, :, 0], torch.ones(4))


def test_row_with_a_cache_counts_from_the_first_key() -> None:
    model, batch = llama(), padded(sequences()[:1], "right")
    ids = batch["input_ids"]
    reader = AttentionRow(model)
    with torch.no_grad():
        past = model(ids[:, :6], use_cache=True).past_key_values
        with reader.capture(torch.tensor([8])):
            model(ids[:, 6:], past_key_values=past)
    torch.testing.assert_close(reader.weights, captured(model, batch), atol=1e-5, rtol=0)


@every_model
@either_side
def test_papers_A4_padding_and_batch_change_no_weight(
    make: Callable[[], PreTrainedModel], side: str
) -> None:
    model, texts = make(), sequences()
    alone = [captured(model, padded([text], side))[0] for text in texts]
    for group in ([0, 1, 2], [2, 0], [1, 1]):
        for extra in (0, 5):
            batch = padded([texts[i] for i in group], side, extra)
            rows = on_real_keys(captured(model, batch), batch)
            for i, row in zip(group, rows, strict=True):
                torch.testing.assert_close(row, alone[i], atol=1e-5, rtol=0)


def test_papers_A4_the_check_fires_without_position_ids() -> None:
    """Mutation: GPT-2 without position ids counts the left padding, and its weights move."""
    model, text = gpt2(), sequences()[1]
    batch = padded([text], "left", extra=5)
    good = on_real_keys(captured(model, batch), batch)[0]
    del batch["position_ids"]
    batch["attention_mask"] = batch["attention_mask"].clone()
    bad = on_real_keys(captured(model, batch), batch)[0]
    assert (good - bad).abs().max() > 1e-3


def response_share(weights: Tensor, prompt: int) -> Tensor:
    """Alpha of the ABC paper: head mean, cut to the response, normalised."""
    response = weights.mean(dim=0)[prompt:]
    return response / response.sum()


@every_model
def test_papers_A6_alpha_is_a_distribution(make: Callable[[], PreTrainedModel]) -> None:
    weights = captured(make(), padded(sequences(), "right"))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-6, rtol=0)
    assert (weights >= 0).all()
    alpha = response_share(weights[0, :, : LENGTHS[0]], prompt=4)
    assert abs(float(alpha.sum()) - 1) < 1e-6


@every_model
@either_side
def test_papers_S3_ids_under_padding_change_nothing(
    make: Callable[[], PreTrainedModel], side: str
) -> None:
    """Poison: the padding holds another valid id. Bit for bit the same row, and no NaN."""
    model, texts = make(), sequences()
    clean = captured(model, padded(texts, side))
    poisoned = captured(model, padded(texts, side, filler=VOCABULARY - 1))
    assert torch.isfinite(poisoned).all()
    assert torch.equal(clean, poisoned)


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_implementation_is_restored(before: str) -> None:
    model, batch = llama(), padded(sequences(), "right")
    model.set_attn_implementation(before)
    reader = AttentionRow(model)
    with pytest.raises(ZeroDivisionError), reader.capture(last_rows(batch)):
        assert model.config._attn_implementation == "tokencredit_sdpa_row"
        raise ZeroDivisionError
    assert model.config._attn_implementation == before
    captured(model, batch)
    assert model.config._attn_implementation == before


def test_only_the_captured_forward_is_read() -> None:
    model, batch = llama(), padded(sequences(), "right")
    other = llama()
    reader = AttentionRow(model)
    with pytest.raises(RuntimeError, match="no forward pass"):
        _ = reader.weights
    with torch.no_grad(), reader.capture(last_rows(batch)):
        other(**batch)
        with pytest.raises(RuntimeError, match="no forward pass"):
            _ = reader.weights
        model(**batch)
    kept = reader.weights.clone()
    with torch.no_grad():
        model(**{**batch, "input_ids": batch["input_ids"].flip(-1)})
    assert torch.equal(reader.weights, kept)


def test_no_gradient_passes_through_the_row() -> None:
    model, batch = llama(), padded(sequences(), "right")
    reader = AttentionRow(model)
    with reader.capture(last_rows(batch)):
        model(**batch).logits.sum().backward()
    assert not reader.weights.requires_grad
    assert model.model.layers[1].self_attn.q_proj.weight.grad is not None


def test_wrapped_model_is_found() -> None:
    model, batch = llama(), padded(sequences(), "right")
    wrapper = nn.ModuleDict({"policy": model})
    reader = AttentionRow(wrapper)
    with torch.no_grad(), reader.capture(last_rows(batch)):
        model(**batch)
    assert torch.equal(reader.weights, captured(model, batch))


@pytest.mark.parametrize("layer", [2, -3])
def test_missing_layer_is_an_error(layer: int) -> None:
    with pytest.raises(UserError, match=f"layer = {layer}: the model has 2 attention layers"):
        AttentionRow(llama(), layer)


def test_models_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UserError, match="Linear holds no transformers model"):
        AttentionRow(nn.Linear(2, 2))
    config = GPTJConfig(vocab_size=20, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=16)
    with pytest.raises(UserError, match="GPTJForCausalLM: its attention weights cannot be read"):
        AttentionRow(GPTJForCausalLM(config))


def test_rows_must_be_real_positions() -> None:
    model, batch = llama(), padded(sequences(), "left")
    for rows, message in (
        (torch.tensor([8, 8, 9]), "3 positions among the last 9"),
        (torch.tensor([8, 8]), "3 positions among the last 9"),
        (torch.tensor([8, 0, 8]), r"padding position in sequence \[1\]"),
    ):
        reader = AttentionRow(model)
        with pytest.raises(ValueError, match=message), torch.no_grad(), reader.capture(rows):
            model(**batch)
    assert captured(model, batch).shape == (3, 4, 9)
