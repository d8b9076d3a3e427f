"""What a stage keeps of its training: the loss of each step, and of texts that it did not see."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from case_models import make_causal, make_tokenizer
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.stages.sft import RECORDS, held_out_loss

TEXTS = ["a good film", "the film is bad", "good", "a bad story of the cast and the plot"]


@torch.no_grad()
def by_hand(model: Any, sequences: list[tuple[list[int], int]]) -> tuple[float, int]:
    """The mean loss of all tokens from a place on, one sequence at a time, and their number."""
    losses = []
    for ids, first in sequences:
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-logits[t - 1, ids[t]] for t in range(max(first, 1), len(ids))]
    return float(torch.stack(losses).mean()), len(losses)


@pytest.mark.parametrize("prompted", [False, True])
def test_held_out_loss_is_that_of_every_token_by_hand(prompted: bool) -> None:
    tokenizer = make_tokenizer()
    model, ids = make_causal(tokenizer).eval(), TokenIds(tokenizer)
    records = [
        Record(row=row, text=text)
        if not prompted
        else Record(row=row, text=text, prompt="the film", completion=f" {text}")
        for row, text in enumerate(TEXTS)
    ]
    longest = 12
    wanted = []
    for record in records:
        prompt, answer, _ = ids.example(record)
        both = [*prompt, *answer][:longest]
        if len(both) > max(len(prompt), 1):
            wanted.append((both, len(prompt)))
    loss, tokens = by_hand(model, wanted)
    for rows in (1, 3, 32):
        found = held_out_loss(model, records, ids, longest, rows)
        assert found["held_out_loss"] == pytest.approx(loss, rel=1e-5)
        assert found["held_out_tokens"] == tokens
    if prompted:
        assert held_out_loss(model, records, ids, 2, 4) == {}  # no room for any answer


def test_held_out_loss_reads_some_records_and_may_have_none() -> None:
    tokenizer = make_tokenizer()
    model, ids = make_causal(tokenizer), TokenIds(tokenizer)
    assert held_out_loss(model, [], ids, 8, 4) == {}
    records = [Record(row=row, text=TEXTS[0]) for row in range(RECORDS + 5)]
    assert held_out_loss(model, records, ids, 8, 64)["held_out"] == RECORDS
