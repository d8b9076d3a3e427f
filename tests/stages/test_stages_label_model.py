"""The classifier of labels: what of its training must not depend on how a batch is divided."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DataCollatorWithPadding

from builders import tiny_classifier, train_tokenizer
from tokencredit.settings import RewardModel
from tokencredit.stages.saves import Saving
from tokencredit.stages.trainer import SupervisedRun

TEXTS = (
    "a wonderful film",
    "an awful film",
    "good",
    "bad and long and slow",
    "fine",
    "no",
    "ah",
    "so",
)


def fitted(place: Path, micro: int | None) -> tuple[float, torch.Tensor]:
    """The loss and the head after three steps of the whole eight rows, none of which is clipped."""
    tokenizer = train_tokenizer()
    rows = [{**tokenizer(text), "labels": n % 2} for n, text in enumerate(TEXTS)]
    settings = RewardModel(
        learning_rate=1e-2,
        batch_size=8,
        micro_batch_size=micro,
        epochs=3,
        max_grad_norm=1e6,
        warmup_fraction=0.0,
    )
    saving = Saving(what="", folder=place / "saves", minutes=None, arithmetic={}, inexact=False)
    run = SupervisedRun(
        key="reward_model", settings=settings, out=place, seed=0, on_cpu=True, saving=saving
    )
    model, figures = run.fit_rows(tiny_classifier(), rows, DataCollatorWithPadding(tokenizer))
    return float(str(figures["loss"])), model.score.weight.detach().clone()


@pytest.mark.parametrize("micro", [4, 2, 1])
def test_passes_of_a_batch_learn_what_the_whole_batch_does(tmp_path: Path, micro: int) -> None:
    """The loss is the mean of the batch, however many passes it takes; with passes added up it is
    as many times as large."""
    whole, head = fitted(tmp_path / "whole", None)
    loss, weight = fitted(tmp_path / "passes", micro)
    assert 0.1 < whole < 1.5
    assert loss == pytest.approx(whole, abs=1e-5)
    assert torch.allclose(weight, head, atol=1e-4)
