"""Reading a row changes nothing else: not the output, not the kernels, not the model, not memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

import tokencredit.models.attention.gptj as gptj_module
import tokencredit.models.attention.row as row_module
from attention_models import (
    CAUSAL,
    HEADS,
    SPECIAL,
    captured,
    decoder,
    eager_rows,
    last_rows,
    padded,
    sequences,
)
from operations import Operations
from tokencredit.errors import UserError
from tokencredit.models.attention.row import AttentionRow
from tokencredit.models.attention.weights import row_bias

every_architecture = pytest.mark.parametrize("name", CAUSAL)
OF_EQUAL_LENGTH = padded([text[:4] for text in sequences()], "right")
BATCHES = {
    "left": padded(sequences(), "left"),
    "right": padded(sequences(), "right"),
    "equal": OF_EQUAL_LENGTH,  # transformers leaves the mask out
    "no_mask": {"input_ids": OF_EQUAL_LENGTH["input_ids"]},
}
every_batch = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())


def rows_of(batch: Mapping[str, Tensor]) -> Tensor:
    return last_rows({"attention_mask": torch.ones_like(batch["input_ids"]), **batch})


@contextmanager
def read(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Iterator[None]:
    with AttentionRow(model).capture(rows_of(batch)):
        yield


def kernels(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> list[str]:
    """Which attention kernels and matrix products a forward pass runs, in order."""
    with torch.no_grad(), Operations() as seen:
        model(**batch)
    return [name for name in seen.names if "attention" in name or "mm" in name]


def test_field_B31_output_is_bit_for_bit_that_of_a_plain_pass() -> None:
    for name in CAUSAL:
        for own in ("sdpa", "eager") if name != "gptj" else ("eager",):
            model = decoder(name)
            model.set_attn_implementation(own)
            for batch in BATCHES.values():
                with torch.no_grad():
                    plain = model(**batch).logits
                    with read(model, batch):
                        beside = model(**batch).logits
                assert torch.equal(plain, beside), (name, own)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@every_batch
def test_field_B31_the_same_kernels_and_masks_are_used(
    name: str, batch: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    own = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        masked = None if attn_mask is None else (attn_mask.dtype, attn_mask.shape)
        calls.append((masked, *options.items(), *((a.shape, a.stride()) for a in args)))
        return own(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model = decoder(name)
    plain_kernels = kernels(model, batch)
    plain, calls = calls, []
    with read(model, batch):
        beside_kernels = kernels(model, batch)
    assert calls == plain and len(calls) == 3
    unmasked = batch["input_ids"] is OF_EQUAL_LENGTH["input_ids"]
    assert all((masked is None) is unmasked for masked, *_ in calls)
    flash = [name for name in plain_kernels if "attention" in name]
    assert len(flash) == 3 and all("_scaled_dot_product_flash_attention" in name for name in flash)
    added = len(beside_kernels) - len(plain_kernels)
    assert [name for name in beside_kernels if "attention" in name] == flash
    assert added == (2 if name == "llama" else HEADS)  # one product for each key head


def test_field_B31_the_check_of_kernels_fires() -> None:
    """Mutation: switching the model to eager, as attention maps ask for, is noticed."""
    model, batch = decoder("llama"), BATCHES["right"]
    plain = kernels(model, batch)
    model.set_attn_implementation("eager")
    assert not any("attention" in name for name in kernels(model, batch))
    assert any("attention" in name for name in plain)


@every_architecture
def test_the_model_is_left_as_it_was(name: str) -> None:
    model, batch = decoder(name), BATCHES["right"]
    own = model.config._attn_implementation
    with pytest.raises(ZeroDivisionError), read(model, batch):
        assert model.config._attn_implementation == own
        model(**batch)
        raise ZeroDivisionError
    assert all(m.config is model.config for m in model.modules() if hasattr(m, "config"))
    assert model.config._attn_implementation == own
    assert not row_module._TAPS
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_two_layers_can_be_read_in_one_pass_but_none_twice() -> None:
    model, batch = decoder("llama"), BATCHES["right"]
    first, last = AttentionRow(model, 0), AttentionRow(model, -1)
    with torch.no_grad(), first.capture(rows_of(batch)), last.capture(rows_of(batch)):
        model(**batch)
        again = AttentionRow(model, -1)
        with pytest.raises(RuntimeError, match="already being read"), again.capture(rows_of(batch)):
            pass
    assert torch.equal(first.weights, captured(model, dict(batch), 0))
    assert torch.equal(last.weights, captured(model, dict(batch), -1))


@every_architecture
def test_memory_of_a_row_grows_with_the_length_not_with_its_square(name: str) -> None:
    """What a pass with a reader allocates more than without: (B, H, S), never (B, H, S, S)."""
    texts = [torch.randint(2, 50, (n,)) for n in (60, 33)]
    model, batch = decoder(name), padded(texts, "right")
    with torch.no_grad():
        with Operations() as plain:
            model(**batch)
        with read(model, batch), Operations() as beside:
            model(**batch)
    added = sorted(beside.sizes, reverse=True)
    for size in plain.sizes:
        added.remove(size)
    row, state = 2 * HEADS * 60, 2 * 60 * 32  # (B, H, S) and one activation (B, S, E)
    # GPT-J's keys are made again; the others are already there.
    assert added and max(added) <= (state if name == "gptj" else row)
    assert sum(added) < (6 * state if name == "gptj" else 12 * row)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_under_autocast_the_row_is_float32_of_the_very_queries_and_keys(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, ...]] = []
    own = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append((query.double(), key.double()))
        return own(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model, batch = decoder(name), dict(BATCHES["equal"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = captured(model, batch)
    query, key = seen[-1]
    key = key.repeat_interleave(HEADS // key.shape[1], dim=1)
    expected = torch.softmax((query[:, :, -1:] @ key.mT)[:, :, 0] * 8**-0.5, dim=-1)
    torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=0)


def test_gptj_the_check_fires_if_the_row_is_turned_by_its_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mutation: the query's own position id is dropped; only left padding shows it."""
    model, batch = decoder("gptj"), dict(BATCHES["left"])
    right = captured(model, batch)
    own = gptj_module.at_positions

    def wrong(x: Tensor, position: Tensor) -> Tensor:
        return own(x, position) if x.is_floating_point() else position

    monkeypatch.setattr(gptj_module, "at_positions", wrong)
    assert (captured(model, batch) - right).abs()[1:].max() > 1e-2
    assert torch.equal(captured(model, dict(BATCHES["right"])), captured(model, BATCHES["right"]))


@every_architecture
def test_the_check_fires_if_the_mask_is_dropped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: causal only, so the padding on the left gets weight."""
    model, batch = decoder(name), dict(BATCHES["left"])
    module = gptj_module if name == "gptj" else row_module

    def causal(mask: Tensor | None, *args: Any, **options: Any) -> Tensor:
        del mask
        return row_bias(None, *args, **options)

    right = captured(model, batch)
    monkeypatch.setattr(module, "row_bias", causal)
    assert (captured(model, batch) - right).abs().max() > 1e-2


def test_sliding_windows_are_seen() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        **SPECIAL,
    )
    model, batch = MistralForCausalLM(config).eval(), dict(BATCHES["right"])
    found = captured(model, batch)
    expected = eager_rows(model, batch, last_rows(batch))
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    assert (found[0, :, :5] == 0).all() and (found[0, :, 5:] > 0).all()


def test_masks_of_flash_attention_by_hand() -> None:
    """Flash attention gets no mask or (B, S), and cuts sliding windows itself."""
    hidden, seen = -torch.inf, 0.0
    position = torch.tensor([[3], [2]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])

    def bias(mask: Tensor | None, window: int | None) -> list[list[float]]:
        return row_bias(mask, position, 4, 4, window)[:, 0, 0].tolist()

    assert bias(None, None) == [[seen] * 4, [seen, seen, seen, hidden]]
    assert bias(mask, None) == [[hidden, seen, seen, seen], [seen, seen, seen, hidden]]
    assert bias(None, 2) == [[hidden, hidden, seen, seen], [hidden, seen, seen, hidden]]
    assert bias(mask, 3) == [[hidden, seen, seen, seen], [seen, seen, seen, hidden]]
    # With a cache the queries are the last of the keys.
    assert row_bias(None, torch.tensor([[0]]), 2, 4, None)[0, 0, 0].tolist() == [0, 0, 0, hidden]


def test_a_mask_of_each_head_is_read_as_such() -> None:
    mask = torch.ones(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 1, 0] = False
    bias = row_bias(mask, torch.tensor([[1]]), 2, 2, None)[:, :, 0]
    assert bias.tolist() == [[[0.0, 0.0], [-torch.inf, 0.0]]]
    added = torch.tensor([[[[0.5, torch.finfo(torch.float32).min], [0.25, -1.0]]]])
    assert row_bias(added, torch.tensor([[0]]), 2, 2, None).tolist() == [[[[0.5, -torch.inf]]]]


@pytest.mark.parametrize("option", row_module.ALTERING)
def test_options_that_alter_the_weights_are_refused(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = decoder("llama"), dict(BATCHES["right"])
    file = sys.modules[type(model).__module__]
    functions = file.ALL_ATTENTION_FUNCTIONS  # type: ignore[attr-defined]
    own = functions.get_interface

    def with_option(*names: Any) -> Any:
        function = own(*names)
        return lambda *args, **options: function(*args, **{**options, option: 1.0})

    monkeypatch.setattr(functions, "get_interface", with_option)
    with pytest.raises(UserError, match=f"attention with {option} cannot be read row by row"):
        captured(model, batch, 0)
