"""TRL's loss, as the stage calls it, is that of the judge's log-ratios."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import EOS_ID, PAD_ID, tiny_causal, train_tokenizer
from dpo_places import LORA
from tabular_lm import tabular_lm, tokenizer_of
from token_mdp import FLOAT, TokenMDP
from tokencredit.data.pairs import Pair, as_rollout
from tokencredit.models.adapters.lora import POLICY, lora_config
from tokencredit.models.log_ratio import LogRatio, adapter_of, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.ops import masked_sum
from tokencredit.settings import DPO, PairLoss
from tokencredit.stages.dpo import judged_pairs, loss_settings, margins, pair_trainer
from tokencredit.stages.trainer import trainer_settings
from tokencredit.statistics.intervals import wilson

PAIRS = [
    Pair(prompt_ids=[5, 6, 7], chosen_ids=[8, 9, EOS_ID], rejected_ids=[10, EOS_ID]),
    Pair(prompt_ids=[11], chosen_ids=[12, EOS_ID], rejected_ids=[13, 14, 15, 16, EOS_ID]),
    Pair(prompt_ids=[17, 18], chosen_ids=[EOS_ID], rejected_ids=[19, 20]),
]


def trainer_of(model: Any, reference: Any, folder: Path, **dpo: Any) -> Any:
    settings = DPO(learning_rate=0.1, **dpo)
    arguments = trainer_settings(settings, folder, 0, True, 1) | loss_settings(settings)
    return pair_trainer(model, reference, train_tokenizer(), PAIRS, arguments)


def loss_of(trainer: Any, pairs: list[Pair]) -> float:
    """What TRL's loss function gives for a batch as its own collator makes it."""
    batch = trainer.data_collator([pair.columns() for pair in pairs])
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def test_papers_B4_the_logit_is_the_difference_of_the_judges_sums(tmp_path: Path) -> None:
    model, frozen = tiny_causal(seed=5), tiny_causal(seed=6)
    trainer = trainer_of(model, frozen, tmp_path, beta=0.2)
    ratio = LogRatio(as_it_is(model), as_it_is(frozen), Computation(), EOS_ID)
    logits = margins(ratio, PAIRS, 0.2)
    expected = float(-torch.nn.functional.logsigmoid(logits).mean())
    assert loss_of(trainer, PAIRS) == pytest.approx(expected, abs=1e-5)
    assert trainer._metrics["eval"]["rewards/margins"][-1] == pytest.approx(
        float(logits.mean()), abs=1e-5
    )
    for index, pair in enumerate(PAIRS):
        alone = float(-torch.nn.functional.logsigmoid(logits[index]))
        assert loss_of(trainer, [pair]) == pytest.approx(alone, abs=1e-5)


def masks_of(trainer: Any) -> tuple[Tensor, Tensor]:
    batch = trainer.data_collator([pair.columns() for pair in PAIRS])
    return batch["input_ids"], batch["completion_mask"].bool()


def test_papers_B4_the_masks_are_those_of_rollouts(tmp_path: Path) -> None:
    """The response with its end token counts, the prompt and the padding do not."""
    ids, mask = masks_of(trainer_of(tiny_causal(), tiny_causal(), tmp_path))
    said = [ids[row][mask[row]].tolist() for row in range(6)]
    assert said == [p.chosen_ids for p in PAIRS] + [p.rejected_ids for p in PAIRS]
    rollout = as_rollout([p.prompt_ids for p in PAIRS], [p.chosen_ids for p in PAIRS], PAD_ID)
    again = [rollout.response_ids[row][rollout.response_mask[row]].tolist() for row in range(3)]
    assert again == said[:3]


def test_papers_B4_without_the_end_token_the_logit_is_another() -> None:
    model, frozen = tiny_causal(seed=5), tiny_causal(seed=6)
    ratio = LogRatio(as_it_is(model), as_it_is(frozen), Computation(), EOS_ID)
    short = [
        Pair(
            prompt_ids=p.prompt_ids,
            chosen_ids=p.chosen_ids[:-1] or [9],
            rejected_ids=p.rejected_ids[:-1],
        )
        for p in PAIRS
    ]
    change = margins(ratio, short, 0.1) - margins(ratio, PAIRS, 0.1)
    assert change.abs().min() > 1e-3


@pytest.mark.parametrize("lora", [False, True])
def test_papers_B4_loss_at_the_start_is_ln_2(tmp_path: Path, lora: bool) -> None:
    reference = lora_config(LORA, "CAUSAL_LM") if lora else tiny_causal()
    trainer = trainer_of(tiny_causal(), reference, tmp_path)
    assert loss_of(trainer, PAIRS) == pytest.approx(math.log(2), abs=1e-6)
    ratio = adapted_ratio(trainer) if lora else None
    if ratio is not None:
        assert judged_pairs(margins(ratio, PAIRS, 0.1))["held_out_loss"] == pytest.approx(
            0.693147, abs=1e-6
        )


def adapted_ratio(trainer: Any) -> LogRatio:
    model = trainer.model
    return LogRatio(adapter_of(model, POLICY), adapter_of(model, None), Computation(), EOS_ID)


def test_papers_B4_numbers_of_the_notes(tmp_path: Path) -> None:
    """Log-probabilities −10 against −12 and −9 against −8 with β = 0.1: logit 0.3, loss 0.554355."""
    mdp = TokenMDP(length=1)

    def table(first: float, second: float) -> Tensor:
        rest = math.log1p(-math.exp(first) - math.exp(second))
        return torch.tensor([[first, second, rest]], dtype=FLOAT)

    model, frozen = tabular_lm(mdp, table(-10, -9)), tabular_lm(mdp, table(-12, -8))
    settings = DPO(learning_rate=0.1)
    pair = Pair(prompt_ids=[0], chosen_ids=[0], rejected_ids=[1])
    arguments = trainer_settings(settings, tmp_path, 0, True, 1) | loss_settings(settings)
    trainer = pair_trainer(model, frozen, tokenizer_of(mdp), [pair], arguments)
    assert loss_of(trainer, [pair]) == pytest.approx(0.554355, abs=1e-6)
    ratio = LogRatio(as_it_is(model), as_it_is(frozen), Computation(), 0)
    assert float(margins(ratio, [pair], 0.1)) == pytest.approx(0.3, abs=1e-5)


FORMULAS = {
    PairLoss.hinge: lambda m: torch.relu(1 - m),
    PairLoss.robust: lambda m: (
        (-0.8 * torch.nn.functional.logsigmoid(m) + 0.2 * torch.nn.functional.logsigmoid(-m)) / 0.6
    ),
}


@pytest.mark.parametrize("loss", FORMULAS)
def test_other_losses_are_functions_of_the_same_margin(tmp_path: Path, loss: PairLoss) -> None:
    model, frozen = tiny_causal(seed=5), tiny_causal(seed=6)
    smoothing = {"label_smoothing": 0.2} if loss is PairLoss.robust else {}
    trainer = trainer_of(model, frozen, tmp_path, loss=loss, **smoothing)
    ratio = LogRatio(as_it_is(model), as_it_is(frozen), Computation(), EOS_ID)
    expected = FORMULAS[loss](margins(ratio, PAIRS, 0.1)).mean()
    assert loss_of(trainer, PAIRS) == pytest.approx(float(expected), abs=1e-5)


def test_ipo_is_the_distance_of_mean_log_ratios(tmp_path: Path) -> None:
    model, frozen = tiny_causal(seed=5), tiny_causal(seed=6)
    trainer = trainer_of(model, frozen, tmp_path, loss=PairLoss.ipo)
    ratio = LogRatio(as_it_is(model), as_it_is(frozen), Computation(), EOS_ID)
    means = []
    for responses in ([p.chosen_ids for p in PAIRS], [p.rejected_ids for p in PAIRS]):
        rollout = as_rollout([p.prompt_ids for p in PAIRS], responses, PAD_ID)
        means.append(masked_sum(ratio(rollout), rollout.response_mask) / rollout.lengths)
    expected = (means[0] - means[1] - 5).square().mean()
    assert loss_of(trainer, PAIRS) == pytest.approx(float(expected), rel=1e-5)


def test_figures_of_held_out_pairs_by_hand() -> None:
    figures = judged_pairs(torch.tensor([2.0, -1.0, 0.0, 3.0]))
    assert figures["accuracy"] == pytest.approx(2.5 / 4) and figures["margin"] == 1.0
    assert figures["held_out"] == 4
    assert wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-5)
    assert wilson(1.0, 4) == pytest.approx((0.510109, 1.0), abs=1e-5)
    assert (figures["accuracy_low"], figures["accuracy_high"]) == wilson(2.5 / 4, 4)
    assert figures["margin_low"] < 1 < figures["margin_high"]
    half = (figures["margin_high"] - figures["margin_low"]) / 2
    assert half == pytest.approx(3.182446 * 1.825742 / 2, rel=1e-5)  # t(3), sd of the four
