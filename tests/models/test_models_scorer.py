"""The reward model at work: its score, and the attention behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

import tokencredit.models.scorer as scorer_module
from builders import (
    ARCHITECTURES,
    EOS,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    make_prompts,
    tiny_actors,
    tiny_classifier,
    train_tokenizer,
)
from tokencredit.errors import UserError
from tokencredit.models.loading.trunk import check_readable
from tokencredit.models.passes.sequences import compact
from tokencredit.models.scorer import Scorer
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.rollout import Rollout

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def rolled() -> Rollout:
    """Responses of different lengths, two of which end with the end token."""
    prompts = make_prompts([2, 7, 4, 5], max_new=[6, 9, 12, 3])
    rollout = tiny_actors().roll_out(prompts, ("test", 0))
    ids = rollout.response_ids.clone()
    for row in (1, 3):
        ids[row, int(rollout.lengths[row]) - 1] = EOS_ID
    return replace(rollout, response_ids=ids)


def tokens_of(rollout: Rollout, row: int) -> Tensor:
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    return torch.cat([prompt, rollout.response_ids[row][rollout.response_mask[row]]])


@torch.no_grad()
def own_score(model: PreTrainedModel, tokens: Tensor, padding: int = 0) -> float:
    """What the Hugging Face classifier itself says, right-padded with its own pad id."""
    ids = torch.nn.functional.pad(tokens, (0, padding), value=int(model.config.pad_token_id))
    mask = torch.arange(len(ids)) < len(tokens)
    logits = model(input_ids=ids[None], attention_mask=mask[None].long()).logits[0]
    return float(logits[1] - logits[0])


@architectures
@pytest.mark.parametrize("padding", [0, 6])
def test_score_is_the_classifiers_own(architecture: str, padding: int) -> None:
    model, rollout = tiny_classifier(architecture), rolled()
    scores = Scorer(model, PAD_ID).score(rollout)
    for row in range(4):
        assert scores[row].item() == pytest.approx(
            own_score(model, tokens_of(rollout, row), padding), abs=1e-5
        )


@architectures
def test_a_pad_that_is_the_end_token_would_be_read_elsewhere(architecture: str) -> None:
    model, rollout = tiny_classifier(architecture), rolled()
    scores = Scorer(model, PAD_ID).score(rollout)
    model.config.pad_token_id = EOS_ID
    wrong = own_score(model, tokens_of(rollout, 1), 3)
    before_the_end = own_score(model, tokens_of(rollout, 1)[:-1], 0)
    assert wrong == pytest.approx(before_the_end, abs=1e-5)
    assert abs(wrong - scores[1].item()) > 1e-3


@pytest.mark.parametrize(
    "roles", [{"pad_token": EOS}, {}, {"pad_token": None}], ids=["eos", "own", "none"]
)
def test_field_B9_score_is_read_at_the_end_token_for_every_tokenizer(
    roles: dict[str, str | None],
) -> None:
    tokenizer = train_tokenizer(**roles)  # type: ignore[arg-type]
    ensure_pad(tokenizer)
    model = tiny_classifier()
    fit_embeddings(model, tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    pad, rollout = int(tokenizer.pad_token_id), rolled()
    scores = Scorer(model, pad).score(rollout)
    for row in (1, 3):
        tokens = tokens_of(rollout, row)
        assert tokens[-1] == EOS_ID
        with torch.no_grad():
            hidden = model.model(input_ids=tokens[None]).last_hidden_state[0, -1]
            logits = model.score(hidden)
        at_end = float(logits[1] - logits[0])
        assert scores[row].item() == pytest.approx(at_end, abs=1e-5)
        assert own_score(model, tokens, 4) == pytest.approx(at_end, abs=1e-5)


def widened(rollout: Rollout, left: int, right: int, fill: int) -> Rollout:
    def pad(x: Tensor, before: int, after: int, value: float = 0) -> Tensor:
        return torch.nn.functional.pad(x, (before, after), value=value)

    mask = pad(rollout.response_mask, 0, right)
    return replace(
        rollout,
        prompt_ids=pad(rollout.prompt_ids, left, 0, fill),
        prompt_mask=pad(rollout.prompt_mask, left, 0),
        response_ids=torch.where(mask, pad(rollout.response_ids, 0, right, fill), fill),
        response_mask=mask,
        logp=pad(rollout.logp, 0, right),
        ref_logp=pad(rollout.ref_logp, 0, right),
        values=pad(rollout.values, 0, right),
    )


@architectures
@pytest.mark.parametrize(("left", "right", "fill"), [(5, 0, PAD_ID), (0, 5, EOS_ID), (3, 4, 50)])
def test_papers_A4_padding_moves_neither_score_nor_attention(
    architecture: str, left: int, right: int, fill: int
) -> None:
    scorer, rollout = Scorer(tiny_classifier(architecture), PAD_ID), rolled()
    scores, weights = scorer.score_and_attention(rollout, -1)
    other, wide = scorer.score_and_attention(widened(rollout, left, right, fill), -1)
    assert torch.allclose(scores, other, atol=1e-5)
    assert torch.allclose(weights, wide[:, : weights.shape[1]], atol=1e-5)
    assert (wide[:, weights.shape[1] :] == 0).all()
    for row in range(4):
        single = scorer.score_and_attention(rollout[torch.tensor([row])], -1)
        assert single[0].item() == pytest.approx(scores[row].item(), abs=1e-5)
        assert torch.allclose(single[1][0], weights[row], atol=1e-5)


def test_papers_A4_fails_where_positions_count_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: with padding in front, positions from the left are those of other tokens."""
    scorer, rollout = Scorer(tiny_classifier("gpt2"), PAD_ID), rolled()
    right = scorer.score(rollout)

    def gap(rollout: Rollout, pad_id: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids, mask, start, last = compact(rollout, pad_id)
        ids, mask = (torch.nn.functional.pad(x, (3, 0), value=v) for x, v in ((ids, 1), (mask, 0)))
        return ids, mask, start + 3, last + 3

    monkeypatch.setattr(scorer_module, "compact", gap)
    assert (scorer.score(rollout) - right).abs().max() > 1e-3


@architectures
@pytest.mark.parametrize("layer", [-1, 0])
def test_papers_A5_attention_is_the_eager_row_of_the_score_position(
    architecture: str, layer: int
) -> None:
    model, rollout = tiny_classifier(architecture), rolled()
    scores, weights = Scorer(model, PAD_ID).score_and_attention(rollout, layer)
    assert torch.allclose(scores, Scorer(model, PAD_ID).score(rollout), atol=1e-6)
    eager = tiny_classifier(architecture)
    eager.set_attn_implementation("eager")
    for row in range(4):
        tokens, length = tokens_of(rollout, row), int(rollout.lengths[row])
        with torch.no_grad():
            maps = eager(input_ids=tokens[None], output_attentions=True).attentions[layer]
        last = maps[0].mean(dim=0)[-1]
        assert torch.allclose(weights[row, :length], last[-length:], atol=1e-5)
        assert (weights[row, length:] == 0).all()
        assert not torch.allclose(weights[row, :length], last[-length - 1 : -1], atol=1e-3)
    share = weights.sum(dim=1)
    assert (share > 0).all() and (share < 1).all()  # the prompt has the rest


def test_a_single_output_is_the_score() -> None:
    model, rollout = tiny_classifier(num_labels=1), rolled()
    scores = Scorer(model, PAD_ID).score(rollout)
    tokens = tokens_of(rollout, 0)
    with torch.no_grad():
        expected = model(input_ids=tokens[None]).logits[0, 0].item()
    assert scores[0].item() == pytest.approx(expected, abs=1e-5)


def test_the_scorer_is_frozen_and_without_dropout() -> None:
    model = tiny_classifier("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    scorer, rollout = Scorer(model, PAD_ID), rolled()
    assert torch.equal(scorer.score(rollout), scorer.score(rollout))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not scorer.score(rollout).requires_grad and model.config.vocab_size == VOCABULARY


def test_classifiers_without_a_score_at_a_token_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.reward = '3 outputs': a score is one output"):
        check_readable(tiny_classifier(num_labels=3))
    whole = BertForSequenceClassification(
        BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            vocab_size=20,
        )
    )
    with pytest.raises(UserError, match="reads a whole text at once"):
        check_readable(whole)
    check_readable(tiny_classifier(num_labels=1))
