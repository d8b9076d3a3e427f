"""Wherever held-out texts or pairs are counted as right or wrong, equal scores count half."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders import tiny_classifier, train_tokenizer
from tokencredit.data.records import Record
from tokencredit.data.splits import Objective
from tokencredit.models.bag_of_grams import BagOfGrams, features
from tokencredit.settings import Oracle, RewardModel
from tokencredit.stages import oracle as stages
from tokencredit.stages.dpo import judged_pairs
from tokencredit.stages.label_model import evaluate
from tokencredit.stages.oracle import OracleStage
from tokencredit.statistics.pair_numbers import pair_numbers

GOOD, BAD = "a wonderful film", "an awful film"


def stage(objective: Objective, train: list[Record], held_out: list[Record]) -> OracleStage:
    """The oracle's stage on these records."""
    parts = {"oracle": tuple(train), "eval": tuple(held_out)}
    corpus = SimpleNamespace(labelled=parts.get, pairs=parts.get, objective=lambda _: objective)
    config = SimpleNamespace(
        oracle=Oracle(buckets=1024), stage_seed=0, reward_model=SimpleNamespace(objective=objective)
    )
    context: Any = SimpleNamespace(config=config, corpus=corpus)
    return OracleStage(context)


def test_an_oracle_that_rates_0_is_half_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the three held-out texts one is rated wrongly, and of two nothing is known."""
    known = BagOfGrams(1024)
    known.weights.data[features("wonderful", 1024)] = 1.0
    monkeypatch.setattr(stages, "fit", lambda *_: known)
    labels = {"wonderful": 1, "wonderful!": 0, "": 1, "?": 0}
    records = [Record(row=n, text=text, label=y) for n, (text, y) in enumerate(labels.items())]
    _, accuracy, count = stage(Objective.labels, records, records[1:])._labelled()
    assert (accuracy, count) == (pytest.approx((0 + 1 / 2 + 1 / 2) / 3), 3)


def test_an_oracle_counts_pairs_that_it_rates_alike_half() -> None:
    def pair(row: int, chosen: str, rejected: str) -> Record:
        return Record(row=row, text=chosen, prompt="", completion=chosen, rejected=rejected)

    held_out = [pair(0, GOOD, BAD), pair(1, "same words", "words same"), pair(2, "odd", "odd!")]
    _, accuracy, count = stage(Objective.pairs, [pair(9, GOOD, BAD)], held_out)._paired()
    assert (accuracy, count) == (pytest.approx((1 + 1 / 2 + 1 / 2) / 3), 3)


def test_a_classifier_that_says_0_is_half_right() -> None:
    model = tiny_classifier()
    torch.nn.init.zeros_(model.score.weight)
    records = [Record(row=n, text=GOOD, label=n % 2) for n in range(3)]
    settings = RewardModel(learning_rate=1e-3, max_length=16)
    found = evaluate(model, train_tokenizer(), records, settings)
    assert (found["accuracy"], found["held_out"]) == (0.5, 3)


def test_reward_models_and_dpo_count_equal_answers_half() -> None:
    assert pair_numbers([1.0, 0.0, 2.0], [0.0, 0.0, 3.0]).accuracy == 0.5
    assert judged_pairs(torch.tensor([1.0, 0.0, 0.0, 2.0]))["accuracy"] == 0.75
