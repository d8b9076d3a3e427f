"""Settings of direct preference optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokencredit.errors import require
from tokencredit.stages.training import Training


class PairSource(str, Enum):
    """Where preference pairs come from."""

    dataset = "dataset"
    """The records of the data set, which must be pairs."""
    sampled = "sampled"
    """Two continuations of each prompt by the SFT model, the one with the higher score of the
    reward model first (the controlled sentiment task of Rafailov et al. 2023)."""


class PairLoss(str, Enum):
    """TRL's losses in the margin β (Σρ of chosen − Σρ of rejected)."""

    sigmoid = "sigmoid"
    """−log σ(margin): DPO."""
    robust = "robust"
    """The same, unbiased where a share `label_smoothing` of the pairs is the wrong way round."""
    hinge = "hinge"
    """max(0, 1 − margin)."""
    ipo = "ipo"
    """The squared distance of the mean log-ratios a token from 1 / 2β."""


@dataclass(slots=True, kw_only=True)
class DPO(Training):
    """Direct preference optimisation: the model behind judge=implicit, and algorithm=dpo."""

    train: bool = True
    """False: `model.dpo` is a DPO model already, made from what `model.policy` names."""
    batch_size: int = 32
    """Pairs of one optimizer step."""
    max_length: int = 256
    """Longest prompt and response, in tokens, within model.context; pairs with a longer one
    are dropped and counted."""
    beta: float = 0.1
    """β, the strength of the tie to the SFT model."""
    loss: PairLoss = PairLoss.sigmoid
    """sigmoid, robust, hinge, or ipo."""
    label_smoothing: float = 0.0
    """Share of the pairs that are the wrong way round (loss=robust)."""
    pairs: PairSource = PairSource.dataset
    """dataset, or sampled."""
    prompts: int = 2000
    """Prompts that are continued twice (pairs=sampled)."""
    held_out: int = 500
    """Held-out pairs on which accuracy and margin are measured."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        self.check("dpo")
        require(self.beta > 0, "dpo.beta", self.beta, "must be > 0")
        require(self.prompts >= 1, "dpo.prompts", self.prompts, "must be >= 1")
        require(self.held_out >= 1, "dpo.held_out", self.held_out, "must be >= 1")
        share, robust = self.label_smoothing, self.loss is PairLoss.robust
        require(
            0 <= share < 0.5 and (robust or share == 0),
            "dpo.label_smoothing",
            share,
            "must lie in [0, 0.5), and be 0 unless dpo.loss=robust",
        )


def loss_settings(settings: DPO) -> dict[str, Any]:
    """What TRL's DPOConfig calls the loss."""
    return {
        "beta": settings.beta,
        "loss_type": [settings.loss.value],
        "label_smoothing": settings.label_smoothing,
    }
