"""Pad is never EOS, and the model agrees with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokencredit.errors import UserError
from tokencredit.models.tokens.padding import CANDIDATES, ensure_pad, fit_embeddings

EOS = "<|endoftext|>"
TEXTS = ["the movie was good", "the movie was bad", "<pad> is a word here"]


def tokenizer(special: tuple[str, ...] = (EOS,), **roles: str) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **({"eos_token": EOS} | roles))


def llama(vocabulary: int, tied: bool = False) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def test_distinct_pad_is_kept() -> None:
    words = tokenizer((EOS, "<|x|>"), pad_token="<|x|>")
    size = len(words)
    assert ensure_pad(words) is False
    assert (words.pad_token, words.pad_token_id, len(words)) == ("<|x|>", 1, size)


@pytest.mark.parametrize("roles", [{"pad_token": EOS}, {}], ids=["pad_is_eos", "no_pad"])
def test_one_token_is_added(roles: dict[str, str]) -> None:
    words = tokenizer(**roles)
    size = len(words)
    assert ensure_pad(words) is True
    assert (words.pad_token, words.pad_token_id, len(words)) == ("<|pad|>", size, size + 1)
    assert words.eos_token_id == 0
    assert ensure_pad(words) is False  # a second call finds the first one's work
    assert words("the <|pad|> movie")["input_ids"].count(size) == 1


@pytest.mark.parametrize("roles", [{"pad_token": EOS}, {}], ids=["pad_is_eos", "no_pad"])
@pytest.mark.parametrize("name", CANDIDATES)
def test_special_token_of_the_vocabulary_is_used(name: str, roles: dict[str, str]) -> None:
    words = tokenizer((EOS, "<|a|>", name), **roles)
    size = len(words)
    assert ensure_pad(words) is False
    assert (words.pad_token, words.pad_token_id, len(words)) == (name, 2, size)


def test_tokens_with_another_role_are_not_used() -> None:
    """`<pad>` stands for the beginning here, and the unknown token could stand in a text."""
    words = tokenizer((EOS, "<pad>", "<unk>"), bos_token="<pad>", unk_token="<unk>")
    assert ensure_pad(words) is True
    assert words.pad_token == "<|pad|>"


def test_an_ordinary_word_is_not_taken() -> None:
    words = tokenizer()
    words.add_tokens(["<|pad|>"])  # a word that text can produce, not a special token
    assert ensure_pad(words) is True
    assert words.pad_token == "<|pad_|>"
    assert words.pad_token_id not in words("a <|pad|> b")["input_ids"]


def test_pad_survives_saving(tmp_path: Path) -> None:
    words = tokenizer(pad_token=EOS)
    ensure_pad(words)
    words.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token_id == words.pad_token_id != again.eos_token_id


def test_tokenizer_without_eos_is_refused() -> None:
    words = tokenizer()
    words.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token; set eos_token"):
        ensure_pad(words)


@pytest.mark.parametrize("tied", [False, True])
def test_new_row_is_the_mean_and_draws_nothing(tied: bool) -> None:
    words = tokenizer(pad_token=EOS)
    model = llama(len(words), tied)
    size = len(words)
    old_in = model.get_input_embeddings().weight.detach().clone()
    old_out = model.get_output_embeddings().weight.detach().clone()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = model(ids).logits
    ensure_pad(words)
    torch.manual_seed(1)
    expected_draw = torch.rand(1)
    torch.manual_seed(1)
    assert fit_embeddings(model, words) is True
    assert torch.equal(torch.rand(1), expected_draw)
    new_in, new_out = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert new_in.shape == new_out.shape == (size + 1, 16)
    assert (new_in is new_out) == tied
    assert torch.equal(new_in[:size], old_in)
    assert torch.equal(new_out[:size], old_out)
    torch.testing.assert_close(new_in[size], old_in.mean(0))
    torch.testing.assert_close(new_out[size], old_out.mean(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[..., :size], before)
    assert model.config.vocab_size == size + 1
    assert model.config.pad_token_id == model.generation_config.pad_token_id == size
    assert fit_embeddings(model, words) is False


def test_spare_rows_are_used_before_growing() -> None:
    words = tokenizer()
    model = llama(len(words) + 3)
    assert ensure_pad(words) is True
    assert fit_embeddings(model, words) is False
    assert model.config.vocab_size == len(words) + 2
    assert model.config.pad_token_id == len(words) - 1


def test_bias_of_the_head_grows_too() -> None:
    words = tokenizer()
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=16)
    )
    model.lm_head = torch.nn.Linear(16, len(words))
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.arange(len(words)).float())
    ensure_pad(words)
    fit_embeddings(model, words)
    assert model.lm_head.bias[-1].item() == (len(words) - 2) / 2


def test_saved_model_loads_with_its_pad_row(tmp_path: Path) -> None:
    words = tokenizer(pad_token=EOS)
    model = llama(len(words), tied=True)
    ensure_pad(words)
    fit_embeddings(model, words)
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert again.config.pad_token_id == words.pad_token_id
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


DELIVERED = {
    "pad_is_eos": ((EOS,), {"pad_token": EOS}),
    "distinct": ((EOS, "<|x|>"), {"pad_token": "<|x|>"}),
    "none": ((EOS,), {}),
}


@pytest.mark.parametrize("delivered", DELIVERED)
def test_field_B9_classifier_reads_its_score_at_eos(delivered: str, tmp_path: Path) -> None:
    """With a pad id of its own, the score of a padded batch is the score at the EOS position."""
    special, roles = DELIVERED[delivered]
    words = tokenizer(special, **roles)
    base = llama(len(words))
    ensure_pad(words)
    fit_embeddings(base, words)
    base.save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1).eval()
    texts = ["the movie was good" + EOS, "bad" + EOS]
    batch = words(texts, return_tensors="pt", padding=True, padding_side="right")
    ends = batch["attention_mask"].sum(-1) - 1
    assert (batch["input_ids"][torch.arange(2), ends] == words.eos_token_id).all()
    with torch.no_grad():
        scores = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"])
        at_eos = model.score(hidden.last_hidden_state)[torch.arange(2), ends, 0]
        model.config.pad_token_id = words.eos_token_id  # mutation: the trap that is avoided
        trapped = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(scores, at_eos)
    assert (trapped - at_eos).abs().max() > 1e-4
