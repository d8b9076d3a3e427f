"""The loss that a discriminator learns by, against the numbers of papers.md (C3, C4, C9)."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import tiny_classifier
from tokencredit.data.pairs import Pair
from tokencredit.ops import edit_loss, soft_label_loss
from tokencredit.stages.discriminator import (
    UNJUDGED,
    Edited,
    batch_loss,
    batch_of,
    edit_trainer,
    training_row,
)
from tokencredit.stages.trainer import train, trainer_settings
from tokencredit.training_settings import JudgeTraining

NAN = math.nan


def loss_of(odds: list[float], wanted: list[float]) -> float:
    every = torch.ones(1, len(odds), dtype=torch.bool)
    return soft_label_loss(torch.tensor([odds]), torch.tensor([wanted]), every).item()


# The formula ------------------------------------------------------------------------------------


def test_papers_C3_loss_of_a_pair_by_hand() -> None:
    # log(1 + e⁻¹) = .313262; log(1 + e^½) − ¼ = .724077; log(1 + e⁻²) = .126928; log 2 = .693147
    assert loss_of([1.0], [1.0]) == pytest.approx(0.313262, abs=1e-6)
    assert loss_of([0.5], [0.5]) == pytest.approx(0.724077, abs=1e-6)
    assert loss_of([-2.0], [0.0]) == pytest.approx(0.126928, abs=1e-6)
    revised, rejected = loss_of([1.0, 0.5], [1.0, 0.5]), loss_of([-2.0, 0.0], [0.0, 0.5])
    assert revised == pytest.approx(0.518669, abs=1e-6)
    assert rejected == pytest.approx(0.410038, abs=1e-6)
    whole = edit_loss(torch.tensor([revised]), torch.tensor([rejected]))
    assert whole.item() == pytest.approx(0.928707, abs=1e-6)


def test_papers_C4_logits_of_zero_cost_two_log_two_whatever_is_wanted() -> None:
    wanted = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.5, 1.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    each = soft_label_loss(torch.zeros(2, 3), wanted, mask)
    assert edit_loss(each, each).item() == pytest.approx(2 * math.log(2))


def test_papers_C9_neutral_tokens_alone_push_D_to_one_half() -> None:
    odds = torch.tensor([[3.0, -2.0, 0.0, 40.0]], requires_grad=True)
    every = torch.ones(1, 4, dtype=torch.bool)
    soft_label_loss(odds, torch.full((1, 4), 0.5), every).sum().backward()
    gradient = odds.grad
    assert gradient is not None
    # (D − ½) / 4 of each token
    expected = (torch.sigmoid(odds.detach()) - 0.5) / 4
    assert torch.allclose(gradient, expected, atol=1e-7)
    free = torch.tensor([[3.0, -2.0]], requires_grad=True)
    optimizer = torch.optim.SGD([free], lr=5.0)
    for _ in range(60):
        optimizer.zero_grad()
        soft_label_loss(
            free, torch.full((1, 2), 0.5), torch.ones(1, 2, dtype=torch.bool)
        ).sum().backward()
        optimizer.step()
    assert torch.allclose(torch.sigmoid(free.detach()), torch.tensor(0.5), atol=1e-3)


rows_of = st.lists(
    st.tuples(st.floats(-30, 30, width=32), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=6,
)


@given(rows_of)
def test_it_is_the_cross_entropy_of_two_logits(row: list[tuple[float, float]]) -> None:
    odds, wanted = (
        torch.tensor([values], dtype=torch.float64) for values in zip(*row, strict=True)
    )
    logits = torch.stack([-0.3 * odds, 0.7 * odds], dim=-1)  # any two with that difference
    soft = torch.stack([1 - wanted, wanted], dim=-1)
    usual = torch.nn.functional.cross_entropy(logits[0], soft[0], reduction="mean")
    ours = soft_label_loss(odds, wanted, torch.ones_like(odds, dtype=torch.bool))
    assert ours.item() == pytest.approx(usual.item(), abs=1e-9)


def test_padding_changes_nothing_and_what_is_masked_may_be_poison() -> None:
    odds = torch.tensor([[1.0, -2.0, NAN, NAN], [0.5, 3.0, -1.0, NAN]], requires_grad=True)
    wanted = torch.tensor([[1.0, 0.0, NAN, 7.0], [0.5, 1.0, 0.5, NAN]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    each = soft_label_loss(odds, wanted, mask)
    alone = [loss_of([1.0, -2.0], [1.0, 0.0]), loss_of([0.5, 3.0, -1.0], [0.5, 1.0, 0.5])]
    assert each.tolist() == pytest.approx(alone)
    each.sum().backward()
    assert odds.grad is not None and odds.grad.isfinite().all()
    assert not odds.grad[~mask].any()
    assert soft_label_loss(odds, wanted, torch.zeros_like(mask)).tolist() == [0, 0]


# Batches ----------------------------------------------------------------------------------------


def edits(count: int, seed: int = 0) -> list[Edited]:
    """Made-up pairs of different lengths with targets for all tokens but the end."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: int) -> list[int]:
        return torch.randint(low, high, (size,), generator=generator).tolist()

    found = []
    for n in range(count):
        before, after = 2 + n % 4, 1 + n % 5
        pair = Pair(
            prompt_ids=draw(3, 40, 2 + n % 3),
            rejected_ids=[*draw(3, 40, before), 2],
            chosen_ids=[*draw(3, 40, after), 2],
        )
        halves = [
            tuple(x / 2 for x in draw(low, low + 2, size))
            for low, size in ((0, before), (1, after))
        ]
        found.append(Edited(pair, *halves))
    return found


def whole(model: Any, pairs: list[Edited]) -> Tensor:
    return batch_loss(model, batch_of([training_row(each) for each in pairs], 0))


def test_prompts_ends_and_padding_have_no_target() -> None:
    pair = Pair(prompt_ids=[5, 6], rejected_ids=[7, 8, 9, 2], chosen_ids=[7, 2])
    batch = batch_of([training_row(Edited(pair, (0.5, 0.0, 0.0), (0.5,)))], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2, 0, 0], [5, 6, 7, 8, 9, 2]]
    no = UNJUDGED
    assert batch["targets"].tolist() == [[no, no, 0.5, no, no, no], [no, no, 0.5, 0, 0, no]]


def test_a_batch_has_the_mean_loss_of_its_pairs_in_any_order_and_padding() -> None:
    model = tiny_classifier(num_labels=2).eval()
    pairs = edits(6)
    with torch.no_grad():
        together = whole(model, pairs)
        apart = torch.stack([whole(model, [each]) for each in pairs])
        turned = whole(model, pairs[::-1])
        halves = (whole(model, pairs[:3]) + whole(model, pairs[3:])) / 2
    for other in (apart.mean(), turned, halves):
        assert other.item() == pytest.approx(together.item(), abs=1e-6)
    assert apart.std() > 1e-4  # else nothing would be seen


def test_micro_batches_learn_what_the_whole_batch_does(tmp_path: Path) -> None:
    ends = []
    for micro in (None, 2, 1):
        training = JudgeTraining(
            learning_rate=1e-2, batch_size=4, micro_batch_size=micro, warmup_fraction=0.0
        )
        model = tiny_classifier(num_labels=2)
        common = trainer_settings(training, tmp_path / str(micro), 0, True, 3)
        trainer = edit_trainer(model, edits(4), 0, common)
        figures = train(trainer, "judge.training")
        ends.append((figures["loss"], model.score.weight.detach().clone()))
    for loss, weight in ends[1:]:
        assert loss == pytest.approx(ends[0][0], abs=1e-5)
        assert torch.allclose(weight, ends[0][1], atol=1e-5)


def test_the_trainer_reads_the_loss_of_the_batch_and_nothing_of_the_model(tmp_path: Path) -> None:
    training = JudgeTraining(learning_rate=1e-2, batch_size=4, warmup_fraction=0.0)
    model = tiny_classifier(num_labels=2)
    trainer = edit_trainer(model, edits(4), 0, trainer_settings(training, tmp_path, 0, True, 1))
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(4)])
    with torch.no_grad():
        found = trainer.compute_loss(model.eval(), batch)
    assert found.item() == pytest.approx(whole(model, edits(4)).item())
    assert SimpleNamespace(**batch).input_ids.shape[0] == 8
