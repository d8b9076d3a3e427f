"""Rows of samples.jsonl: what was said, and every number about every token of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from tokencredit.judges.function import decode
from tokencredit.ops import k1
from tokencredit.rollout import Judgement, Rollout, Targets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sample_rows(
    step: int,
    rollout: Rollout,
    judgement: Judgement,
    targets: Targets,
    columns: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict[str, Any]]:
    """One row a response; per-token columns hold its counting tokens only."""
    prompts = decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask)
    responses = decode(tokenizer, rollout.response_ids, rollout.response_mask)
    per_token = {
        **columns,
        "kl": k1(rollout.logp, rollout.ref_logp),
        "values": rollout.values,
        "advantages": targets.advantages,
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
                "score": float(judgement.scores[index]),
                "tokens": [tokenizer.decode([token]) for token in ids],
                **{name: values[index][mask].tolist() for name, values in per_token.items()},
            }
        )
    return rows
