"""The captured row is the eager row, whatever the padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attention_models import (
    CAUSAL,
    DECODERS,
    HEADS,
    LAYERS,
    LENGTHS,
    VOCABULARY,
    captured,
    decoder,
    eager_rows,
    last_rows,
    padded,
    sequences,
    unreadable,
)
from tokencredit.errors import UserError
from tokencredit.models.attention.row import AttentionRow

every_model = pytest.mark.parametrize("name", DECODERS)
every_architecture = pytest.mark.parametrize("name", CAUSAL)
either_side = pytest.mark.parametrize("side", ["left", "right"])


def on_real_keys(weights: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    return [row[:, keep.bool()] for row, keep in zip(weights, batch["attention_mask"], strict=True)]


@every_model
@either_side
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_papers_A5_row_equals_eager_attentions(name: str, side: str, layer: int) -> None:
    model, batch = decoder(name), padded(sequences(), side)
    rows = last_rows(batch)
    found, expected = captured(model, batch, layer), eager_rows(model, batch, rows, layer)
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    assert (found[batch["attention_mask"][:, None].expand_as(found) == 0] == 0).all()
    assert (expected.amax(-1) > 0.5).any()  # a flat row would equal any other flat row
    # Mutation: the row before is another one.
    assert (found - eager_rows(model, batch, rows - 1, layer)).abs().max() > 1e-3


@every_architecture
def test_row_without_padding_is_causal(name: str) -> None:
    """Without padding transformers passes no mask at all: later keys must still get nothing."""
    model, batch = decoder(name), padded([text[:4] for text in sequences()], "right")
    reader, rows = AttentionRow(model), torch.tensor([1, 3, 0])
    with torch.no_grad(), reader.capture(rows):
        model(**batch)
    expected = eager_rows(model, batch, rows)
    torch.testing.assert_close(reader.weights, expected, atol=3e-6, rtol=0)
    assert torch.equal(reader.weights[2, :, 0], torch.ones(HEADS))


@every_architecture
def test_row_with_a_cache_counts_from_the_first_key(name: str) -> None:
    model, batch = decoder(name), padded(sequences()[:1], "right")
    ids = batch["input_ids"]
    reader = AttentionRow(model)
    with torch.no_grad():
        past = model(ids[:, :6], use_cache=True).past_key_values
        with reader.capture(torch.tensor([8])):
            model(ids[:, 6:], past_key_values=past)
    torch.testing.assert_close(reader.weights, captured(model, batch), atol=1e-5, rtol=0)


@every_architecture
@either_side
def test_papers_A4_padding_and_batch_change_no_weight(name: str, side: str) -> None:
    model, texts = decoder(name), sequences()
    alone = [captured(model, padded([text], side))[0] for text in texts]
    for group in ([0, 1, 2], [2, 0], [1, 1]):
        for extra in (0, 5):
            batch = padded([texts[i] for i in group], side, extra)
            rows = on_real_keys(captured(model, batch), batch)
            for i, row in zip(group, rows, strict=True):
                torch.testing.assert_close(row, alone[i], atol=1e-5, rtol=0)


def test_papers_A4_the_check_fires_without_position_ids() -> None:
    """Mutation: GPT-2 without position ids counts the left padding, and its weights move."""
    model, text = decoder("gpt2"), sequences()[1]
    batch = padded([text], "left", extra=5)
    good = on_real_keys(captured(model, batch), batch)[0]
    del batch["position_ids"]
    bad = on_real_keys(captured(model, batch), batch)[0]
    assert (good - bad).abs().max() > 1e-3


def response_share(weights: Tensor, prompt: int) -> Tensor:
    """Alpha of the ABC paper: head mean, cut to the response, normalised."""
    response = weights.mean(dim=0)[prompt:]
    return response / response.sum()


@every_architecture
def test_papers_A6_alpha_is_a_distribution(name: str) -> None:
    weights = captured(decoder(name), padded(sequences(), "right"))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), atol=3e-6, rtol=0)
    assert (weights >= 0).all()
    alpha = response_share(weights[0, :, : LENGTHS[0]], prompt=4)
    assert abs(float(alpha.sum()) - 1) < 1e-6


@every_architecture
@either_side
def test_papers_S3_ids_under_padding_change_nothing(name: str, side: str) -> None:
    """Poison: the padding holds another valid id. Bit for bit the same row, and no NaN."""
    model, texts = decoder(name), sequences()
    clean = captured(model, padded(texts, side))
    poisoned = captured(model, padded(texts, side, filler=VOCABULARY - 1))
    assert torch.isfinite(poisoned).all()
    assert torch.equal(clean, poisoned)


def test_only_the_captured_forward_is_read() -> None:
    model, batch = decoder("llama"), padded(sequences(), "right")
    other = decoder("llama")
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


@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_no_gradient_passes_through_the_row(name: str) -> None:
    model, batch = decoder(name), padded(sequences(), "right")
    reader = AttentionRow(model)
    with reader.capture(last_rows(batch)):
        model(**batch).logits.sum().backward()
    assert not reader.weights.requires_grad
    projections = [p for n, p in model.named_parameters() if n.endswith("q_proj.weight")]
    assert len(projections) == LAYERS and all(p.grad is not None for p in projections)


def test_wrapped_model_is_found() -> None:
    model, batch = decoder("llama"), padded(sequences(), "right")
    wrapper = nn.ModuleDict({"policy": model})
    reader = AttentionRow(wrapper)
    with torch.no_grad(), reader.capture(last_rows(batch)):
        model(**batch)
    assert torch.equal(reader.weights, captured(model, batch))


@pytest.mark.parametrize("layer", [3, -4])
@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_missing_layer_is_an_error(name: str, layer: int) -> None:
    with pytest.raises(UserError, match=f"layer = {layer}: the model has 3 attention layers"):
        AttentionRow(decoder(name), layer)


def test_models_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UserError, match="Linear holds no transformers model"):
        AttentionRow(nn.Linear(2, 2))
    with pytest.raises(UserError, match="GPTNeoForSequenceClassification: its attention weights"):
        AttentionRow(unreadable())


@every_architecture
def test_rows_must_be_real_positions(name: str) -> None:
    model, batch = decoder(name), padded(sequences(), "left")
    for rows, message in (
        (torch.tensor([8, 8, 9]), r"\[8, 8, 9\]: 3 positions among the last 9 of 9"),
        (torch.tensor([8, -1, 8]), r"\[8, -1, 8\]: 3 positions among the last 9 of 9"),
        (torch.tensor([8, 8]), "3 positions among the last 9"),
        (torch.tensor([8, 0, 8]), r"padding position in sequence \[1\]"),
    ):
        reader = AttentionRow(model)
        with pytest.raises(ValueError, match=message), torch.no_grad(), reader.capture(rows):
            model(**batch)
    assert captured(model, batch).shape == (3, HEADS, 9)
