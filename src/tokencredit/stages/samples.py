"""Rows of samples.jsonl: what was said, and every number about every token of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokencredit.models.texts import decode
from tokencredit.ops import k1
from tokencredit.rollout import Judgement, Rollout, Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Said:
    """One step's responses, and what was thought of them."""

    rollout: Rollout
    judgement: Judgement
    targets: Targets
    rewards: dict[str, Tensor]
    """Columns (B, T) by name."""


def sample_rows(
    step: int, said: Said, count: int, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """One row for each of the first `count` responses; columns hold their counting tokens only."""
    rollout = said.rollout[torch.arange(min(count, len(said.rollout)))]
    prompts = decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask)
    responses = decode(tokenizer, rollout.response_ids, rollout.response_mask)
    per_token = {
        **said.rewards,
        "kl": k1(said.rollout.logp, said.rollout.ref_logp),
        "values": said.rollout.values,
        "advantages": said.targets.advantages,
    }
    rows = []
    for index, mask in enumerate(rollout.response_mask):
        ids = rollout.response_ids[index][mask].tolist()
        rows.append(
            {
                "step": step,
                "row": int(rollout.rows[index]),
                "prompt": prompts[index],
                "response": responses[index],
                "score": float(said.judgement.scores[index]),
                "tokens": [tokenizer.decode([token]) for token in ids],
                **{name: values[index][mask].tolist() for name, values in per_token.items()},
            }
        )
    return rows
