"""What a language model makes of demonstrations that it was not trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch

from tokencredit.data.pairs import read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.store.finite import check_scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECORDS: Final = 128
"""Held-out records that are read: enough for a standard error of some hundredths of a nat."""


@torch.no_grad()
def held_out_loss(
    model: PreTrainedModel, records: Sequence[Record], ids: TokenIds, longest: int, rows: int
) -> dict[str, object]:
    """Cross-entropy in nats a token of the first held-out records, `rows` in one pass.

    As in training, texts are cut at `longest` tokens and prompts are read and not counted. Nothing
    where no token is left.
    """
    both = _demonstrations(records[:RECORDS], ids)
    cut = [(prompt, answer[: max(longest - len(prompt), 0)]) for prompt, answer in both]
    kept = sorted((pair for pair in cut if pair[1]), key=lambda pair: len(pair[0]) + len(pair[1]))
    total, count = torch.zeros(()), 0
    model.eval()
    for start in range(0, len(kept), rows):
        some = kept[start : start + rows]
        width = max(len(prompt) + len(answer) for prompt, answer in some)
        read = torch.zeros(len(some), width, dtype=torch.long)
        mask, said = torch.zeros_like(read), torch.zeros_like(read, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(some):
            end = len(prompt) + len(answer)
            read[row, :end] = torch.tensor([*prompt, *answer])
            mask[row, :end] = 1
            said[row, len(prompt) : end] = True
        read, mask, said = (x.to(model.device) for x in (read, mask, said))
        logits = model(input_ids=read, attention_mask=mask).logits[:, :-1].float()
        chosen = said[:, 1:]  # the first token of a text has nothing before it
        losses = torch.nn.functional.cross_entropy(
            logits[chosen], read[:, 1:][chosen], reduction="sum"
        )
        total, count = total + losses.cpu(), count + int(chosen.sum())
    if not count:
        return {}
    check_scores("sft", total[None])
    return {"held_out": len(kept), "held_out_tokens": count, "held_out_loss": float(total) / count}


def _demonstrations(records: Sequence[Record], ids: TokenIds) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each record that has one; of pairs, the better answer."""
    paired = [record for record in records if record.rejected is not None]
    if paired:
        pairs, _ = read_pairs(paired, ids, sys.maxsize)
        return [(pair.prompt_ids, pair.chosen_ids) for pair in pairs]
    refused = ids.refusals(records)
    return [ids.example(record)[:2] for record in records if record.row not in refused]
