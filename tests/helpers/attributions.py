"""Models whose attributions are known: a linear one, and one whose only bend is ReLU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from builders import PAD_ID, VOCABULARY
from tokencredit.models.scorer import Scorer


class Summing(nn.Module):
    """A causal trunk whose state is the sum of what was read so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width)

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any
    ) -> Any:
        read = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(last_hidden_state=read.cumsum(dim=1))


class Linear(nn.Module):
    """score = w · Σ_t e_t: a token adds w · e_t, whatever stands around it."""

    base_model_prefix = "model"
    dtype = torch.float32

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = Summing(width)
        self.score = nn.Linear(width, 1, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.table


def linear_scorer() -> Scorer:
    model: Any = Linear()
    return Scorer(model, PAD_ID)
