"""The steps of a response, read from one pass, are those of generation; and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

import tokencredit.models.attention.steps as steps_module
from attention_models import (
    CAUSAL,
    HEADS,
    LENGTHS,
    SPECIAL,
    VOCABULARY,
    decoder,
    padded,
    sequences,
    unreadable,
)
from builders import mask_of
from operations import Operations
from tokencredit.errors import UserError
from tokencredit.models.attention.row import AttentionRow
from tokencredit.models.attention.steps import Seen, StepAttention

SPECIAL_IDS = {name: value for name, value in SPECIAL.items() if name != "vocab_size"}
PROMPTS = (3, 2, 5)
RESPONSES = [n - q for n, q in zip(LENGTHS, PROMPTS, strict=True)]  # 6, 2, 1
every_architecture = pytest.mark.parametrize("name", CAUSAL)
either_side = pytest.mark.parametrize("side", ["left", "right"])


def starts(batch: dict[str, Tensor], prompts: tuple[int, ...] = PROMPTS) -> Tensor:
    """Where the responses begin among all keys, padding included."""
    return batch["attention_mask"].argmax(dim=1) + torch.tensor(prompts)


def found(
    model: PreTrainedModel, batch: dict[str, Tensor], *, last: bool = False, **options: object
) -> Tensor:
    """What the reader says of the responses."""
    reader = StepAttention(model, **options)  # type: ignore[arg-type]
    with torch.no_grad(), reader.capture(starts(batch), mask_of(RESPONSES), last=last) as seen:
        model(**batch)
    return seen.mean()


@torch.no_grad()
def generated(
    model: PreTrainedModel, text: Tensor, prompt: int, layer: int = -1, heads: tuple[int, ...] = ()
) -> list[list[float]]:
    """u_i(j), j < i, as generation shows it: one step after another, cached, with eager maps."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    ids, past, rows = text[None, :prompt], None, []
    for step in range(len(text) - prompt):
        out = model(ids, past_key_values=past, use_cache=True, output_attentions=True)
        maps = out.attentions[layer][0, :, -1]
        assert maps.shape[1] == prompt + step
        rows.append((maps[list(heads)] if heads else maps).mean(dim=0)[prompt:].tolist())
        ids, past = text[None, prompt + step : prompt + step + 1], out.past_key_values
    model.set_attn_implementation(before)
    return rows


def averaged(rows: list[list[float]]) -> list[float]:
    """c_j: the mean over the steps that see token j."""
    given = [[row[j] for row in rows[j + 1 :]] for j in range(len(rows))]
    return [sum(weights) / len(weights) if weights else 0.0 for weights in given]


def expected(model: PreTrainedModel, *, last: bool = False, **options: object) -> Tensor:
    """The same from generation."""
    out = torch.zeros(3, max(RESPONSES))
    for b, (text, prompt) in enumerate(zip(sequences(), PROMPTS, strict=True)):
        rows = generated(model, text, prompt, **options)  # type: ignore[arg-type]
        numbers = [*rows[-1], 0.0] if last else averaged(rows)
        out[b, : len(numbers)] = torch.tensor(numbers)
    return out


@every_architecture
@either_side
@pytest.mark.parametrize("last", [False, True], ids=["mean", "last"])
def test_papers_A5_steps_are_those_of_generation(name: str, side: str, last: bool) -> None:
    model, batch = decoder(name), padded(sequences(), side)
    right = expected(model, last=last)
    seen = found(model, batch, last=last)
    assert seen.dtype == torch.float32 and not seen.requires_grad
    torch.testing.assert_close(seen, right, atol=1e-5, rtol=0)
    assert (right[0, :-1] > 1e-3).any() and right[2].tolist() == [0.0] * 6
    # Mutation: responses that begin one token later, so that every row and column is another.
    moved = StepAttention(model)
    with torch.no_grad(), moved.capture(starts(batch) - 1, mask_of(RESPONSES), last=last) as wrong:
        model(**batch)
    assert (wrong.mean() - right).abs().max() > 1e-3


@every_architecture
def test_other_layers_and_heads_are_those_of_generation(name: str) -> None:
    model, batch = decoder(name), padded(sequences(), "left")
    for layer, heads in ((0, (2,)), (-1, (0, 3)), (1, ())):
        right = expected(model, layer=layer, heads=heads)
        seen = found(model, batch, layer=layer, heads=heads)
        torch.testing.assert_close(seen, right, atol=1e-5, rtol=0)
    assert torch.equal(found(model, batch, heads=range(HEADS)), found(model, batch))
    assert (found(model, batch, heads=[0]) - found(model, batch)).abs().max() > 1e-3


@every_architecture
@either_side
def test_papers_A4_padding_and_company_change_no_step(name: str, side: str) -> None:
    model, texts = decoder(name), sequences()
    whole = found(model, padded(texts, side))
    for extra in (0, 4):
        for order in ([0, 1, 2], [2, 0, 1], [1]):
            chosen = [texts[i] for i in order]
            batch = padded(chosen, side, extra, filler=VOCABULARY - 1)
            reader = StepAttention(model)
            prompts = tuple(PROMPTS[i] for i in order)
            mask = mask_of([RESPONSES[i] for i in order], width=6)
            with torch.no_grad(), reader.capture(starts(batch, prompts), mask) as seen:
                model(**batch)
            torch.testing.assert_close(seen.mean(), whole[order], atol=1e-5, rtol=0)


@every_architecture
@pytest.mark.parametrize("budget", [1, 400, 10**9])
def test_small_pieces_change_nothing_but_rounding(
    name: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = decoder(name), padded(sequences(), "right")
    whole = found(model, batch)
    monkeypatch.setattr(steps_module, "PIECE_BYTES", budget)
    torch.testing.assert_close(found(model, batch), whole, atol=1e-6, rtol=0)


@every_architecture
def test_memory_is_that_of_a_piece_not_of_all_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 steps over 64 keys: (B, H, 60, 64) would be 15 times the piece that is allowed."""
    texts = [torch.randint(2, VOCABULARY, (64,)) for _ in range(2)]
    model, batch = decoder(name), padded(texts, "right")
    row = 2 * HEADS * 64
    start, mask = torch.tensor([4, 4]), mask_of([60, 60])

    def largest(budget: int) -> int:
        monkeypatch.setattr(steps_module, "PIECE_BYTES", budget)
        reader = StepAttention(model)
        with torch.no_grad(), Operations() as plain:
            model(**batch)
        with torch.no_grad(), reader.capture(start, mask), Operations() as beside:
            model(**batch)
        added = sorted(beside.sizes, reverse=True)
        for size in plain.sizes:
            added.remove(size)
        flash = [name for name in plain.names if "attention" in name]
        assert [name for name in beside.names if "attention" in name] == flash
        return max(added)

    state = 2 * 64 * 32  # what GPT-J's keys, made again, take
    assert largest(4 * 4 * row) <= max(4 * row, state if name == "gptj" else 0)
    assert largest(4 * 60 * row) >= 59 * row  # the check would see it


@every_architecture
def test_the_pass_gives_what_it_gives_alone(name: str) -> None:
    model, batch = decoder(name), padded(sequences(), "left")
    with torch.no_grad():
        plain = model(**batch).logits
        with StepAttention(model).capture(starts(batch), mask_of(RESPONSES)):
            beside = model(**batch).logits
    assert torch.equal(plain, beside)


def test_a_sliding_window_hides_tokens_from_later_steps() -> None:
    """They do not count among the steps: a mean over those too would be smaller."""
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=3,
        **SPECIAL,
    )
    model, batch = MistralForCausalLM(config).eval(), padded(sequences(), "right")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions[-1].mean(dim=1)
    model.set_attn_implementation("sdpa")
    wanted = torch.zeros(3, 6)
    for b, (prompt, length) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        for j in range(length - 1):
            later = range(j + 1, min(length, j + 4))  # a step sees itself and two before
            wanted[b, j] = sum(maps[b, prompt - 1 + i, prompt + j] for i in later) / len(later)
    torch.testing.assert_close(found(model, batch), wanted, atol=1e-6, rtol=0)


def test_means_by_hand() -> None:
    seen = Seen.nothing(mask_of([3, 2]))
    paid = torch.tensor([[[0.4, 9.0, 9.0], [0.2, 0.3, 9.0]], [[0.5, 9.0, 9.0], [9.0, 9.0, 9.0]]])
    visible = torch.tensor([[[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 0, 0]]]).bool()
    seen.add(torch.where(visible, paid, torch.nan), visible)
    torch.testing.assert_close(seen.mean(), torch.tensor([[0.3, 0.3, 0.0], [0.5, 0.0, 0.0]]))


@pytest.mark.parametrize("heads", [[4], [0, 4], [-1]])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj"])
def test_a_missing_head_is_an_error(name: str, heads: list[int]) -> None:
    with pytest.raises(UserError, match=r"judge\.heads = .*4 attention heads a layer.* 0 to 3"):
        StepAttention(decoder(name), heads=heads)


def test_a_model_without_attention_is_refused() -> None:
    config = MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=1, **SPECIAL_IDS
    )
    with pytest.raises(UserError, match="MambaForCausalLM: its attention weights cannot be read"):
        StepAttention(MambaForCausalLM(config))


@pytest.mark.parametrize("name", ["llama", "llama_classifier"])
def test_a_kernel_that_hides_its_mask_is_refused(name: str) -> None:
    model = decoder(name)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(
        UserError, match=r"under the kernel flex_attention, which hides them.* sdpa"
    ):
        StepAttention(model)
    with pytest.raises(UserError, match="flex_attention"):
        AttentionRow(model)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(UserError, match=r"judge\.layer = 3: the model has 3 attention layers"):
        StepAttention(decoder("llama"), 3)
    with pytest.raises(UserError, match="its attention weights cannot be read"):
        StepAttention(unreadable())
