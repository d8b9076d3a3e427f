"""DPO with TRL's trainer on pairs of ids, and what a pair of models says of held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokencredit.data.pairs import Pair, as_rollout
from tokencredit.models.log_ratio import LogRatio
from tokencredit.ops import masked_sum
from tokencredit.settings import DPO
from tokencredit.statistics.intervals import mean_ci, wilson

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def loss_settings(settings: DPO) -> dict[str, Any]:
    """What TRL's DPOConfig calls the loss."""
    return {
        "beta": settings.beta,
        "loss_type": [settings.loss.value],
        "label_smoothing": settings.label_smoothing,
    }


def pair_trainer(
    model: PreTrainedModel,
    reference: PreTrainedModel | LoraConfig,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    settings: dict[str, Any],
) -> Any:
    """TRL's DPOTrainer of `model`, on pairs whose ids stay as they are.

    `reference` is the frozen model that it is compared with, or else the adapters that it is to
    train, without which it is its own reference. TRL would load the reference anew from the place
    that the model's configuration names if it were not given, and would make ids of its own from
    texts.
    """
    import datasets
    from trl import DPOConfig, DPOTrainer

    class OnIds(DPOTrainer):  # type: ignore[misc]
        """The same loss and collator; the data set holds token ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    datasets.disable_progress_bars()
    whole = hasattr(reference, "forward")
    return OnIds(
        model=model,
        ref_model=reference if whole else None,
        peft_config=None if whole else reference,
        args=DPOConfig(
            **settings,
            gradient_checkpointing=False,
            max_length=None,
            disable_dropout=True,
            precompute_ref_log_probs=False,
        ),
        train_dataset=datasets.Dataset.from_list([pair.columns() for pair in pairs]),
        processing_class=tokenizer,
    )


def margins(
    ratio: LogRatio, pairs: Sequence[Pair], beta: float, device: torch.device | str = "cpu"
) -> Float[Tensor, "N"]:
    """β Σρ of the chosen response less that of the rejected one: the logit of DPO's loss."""
    prompts = [pair.prompt_ids for pair in pairs]
    sums = []
    for responses in ([p.chosen_ids for p in pairs], [p.rejected_ids for p in pairs]):
        rollout = as_rollout(prompts, responses, ratio.filler).to(device)
        sums.append(masked_sum(ratio(rollout), rollout.response_mask).double().cpu())
    return beta * (sums[0] - sums[1])


def judged_pairs(found: Float[Tensor, "N"]) -> dict[str, object]:
    """Accuracy, margin, and loss on held-out pairs, the first two with 95 % intervals.

    That of the accuracy is Wilson's, that of the margin Student's.
    """
    right = float(((found > 0).double() + 0.5 * (found == 0)).mean())
    low, high = wilson(right, len(found))
    margin = mean_ci(found.tolist())
    return {
        "held_out": len(found),
        "accuracy": right,
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": margin.mean,
        "margin_low": margin.low,
        "margin_high": margin.high,
        "held_out_loss": float(-torch.nn.functional.logsigmoid(found).mean()),
    }
