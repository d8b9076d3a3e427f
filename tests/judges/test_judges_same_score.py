"""A text has one score: where the reward model is measured, and where the policy is paid by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from builders import ARCHITECTURES, TEXTS, tiny_classifier, train_tokenizer
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import prompt_ids
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.models.scorer import Scorer
from tokencredit.rollout import Rollout
from tokencredit.settings import RewardModel
from tokencredit.stages import label_model
from tokencredit.stages.label_model import evaluate, examples

TURNS: Any = (
    {"role": "user", "content": "was the movie good"},
    {"role": "assistant", "content": "I loved it"},
)
CHOSEN = {
    "text": Record(row=3, text=TEXTS[0], label=1),
    "unicode": Record(row=3, text=TEXTS[2], label=1),
    "prompt_completion": Record(
        row=3, text="the movie was good", prompt="the movie", completion=" was good", label=1
    ),
    "messages": Record(row=3, text="was the movie good\nI loved it", messages=TURNS, label=1),
}
SETTINGS = RewardModel(learning_rate=1.0, max_length=90, min_length=90)
every_record = pytest.mark.parametrize("record", CHOSEN.values(), ids=CHOSEN.keys())
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def measured(
    model: Any, tokenizer: PreTrainedTokenizerFast, record: Record, patch: pytest.MonkeyPatch
) -> float:
    """The score of a record as the reward model's evaluation computes it."""
    seen: list[torch.Tensor] = []
    own = label_model.score_of_logits

    def spy(logits: torch.Tensor) -> torch.Tensor:
        seen.append(own(logits))
        return seen[-1]

    with patch.context() as inner:
        inner.setattr(label_model, "score_of_logits", spy)
        evaluate(model, tokenizer, [record], SETTINGS)
    return float(seen[0][0])


def said(
    tokenizer: PreTrainedTokenizerFast, record: Record, *, end: bool = True
) -> list[list[int]]:
    """Prompt and response of the RL stage, if the policy says what the record says, and ends."""
    prompt = prompt_ids(record, tokenizer, PromptSpec(), 7)
    if record.messages is not None:
        answer = tokenizer(record.messages[-1]["content"], add_special_tokens=False)["input_ids"]
    else:
        answer = tokenizer(record.text)["input_ids"][len(prompt) :]
    return [prompt, [*answer, tokenizer.eos_token_id] if end else answer]


def paid(
    model: Any, tokenizer: PreTrainedTokenizerFast, record: Record, *, end: bool = True
) -> float:
    """The score that a judge gives that response, beside a longer one."""
    prompt, response = said(tokenizer, record, end=end)
    ids = torch.tensor([response + [5] * 3, [7] * (len(response) + 3)])
    mask = torch.ones(ids.shape, dtype=torch.bool)
    mask[0, len(response) :] = False
    floats = torch.zeros(ids.shape)
    rollout = Rollout(
        rows=torch.arange(2),
        groups=torch.arange(2),
        prompt_ids=torch.tensor([[1, *prompt], [9] * (len(prompt) + 1)]),
        prompt_mask=torch.tensor([[False] + [True] * len(prompt), [True] * (len(prompt) + 1)]),
        response_ids=ids,
        response_mask=mask,
        min_new=torch.zeros(2, dtype=torch.long),
        finished=torch.tensor([end, False]),
        stopped=torch.zeros(2, dtype=torch.bool),
        logp=floats,
        ref_logp=floats,
        values=floats,
    )
    return float(Scorer(model, int(tokenizer.pad_token_id)).score(rollout)[0])


@architectures
@every_record
def test_field_B14_a_text_scores_the_same_in_evaluation_and_in_a_rollout(
    architecture: str, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = train_tokenizer(chat=True), tiny_classifier(architecture)
    expected = measured(model, tokenizer, record, monkeypatch)
    assert paid(model, tokenizer, record) == pytest.approx(expected, abs=1e-5)
    assert abs(paid(model, tokenizer, record, end=False) - expected) > 1e-3


@every_record
def test_field_B14_training_reads_what_a_finished_response_is(record: Record) -> None:
    tokenizer = train_tokenizer(chat=True)
    (row,) = examples([record], tokenizer, SETTINGS, seed=0)
    prompt, response = said(tokenizer, record)
    assert row["input_ids"] == [*prompt, *response]


@every_record
def test_field_B14_a_reward_model_without_the_end_token_would_be_seen(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = train_tokenizer(chat=True), tiny_classifier()
    monkeypatch.setattr(TokenIds, "_ended", lambda *given: given[1])
    wrong = measured(model, tokenizer, record, monkeypatch)
    assert abs(wrong - paid(model, tokenizer, record)) > 1e-3
