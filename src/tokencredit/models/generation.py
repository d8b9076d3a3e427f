"""Sampling responses. Each token's noise is named by (stream, row, position), so neither the batch
a row stands in nor the order of rows can change what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokencredit.models.policy import SpecialIds, backbone
from tokencredit.models.sampling import Sampling
from tokencredit.models.sequences import position_ids
from tokencredit.rollout import Prompts
from tokencredit.streams import fold, gumbels, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Prompts,
    sampling: Sampling,
    special: SpecialIds,
    stream: tuple[int | str, ...],
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """Response ids (right-padded with the end id), lengths, and whether each ended by itself."""
    device = prompts.ids.device
    named = zip(prompts.rows.tolist(), prompts.samples.tolist(), strict=True)
    keys = torch.tensor([stream_key(*stream, row, sample) for row, sample in named], device=device)
    width = int(prompts.max_new.max())
    ids = torch.full((len(prompts), width), special.eos, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for start in range(0, len(prompts), sampling.chunk):
        rows = torch.arange(start, min(start + sampling.chunk, len(prompts)), device=device)
        part, ended = _generate_chunk(model, prompts[rows], keys[rows], sampling, special)
        ids[rows, : part.shape[1]] = torch.where(part >= 0, part, special.eos)
        lengths[rows] = (part >= 0).sum(dim=1)
        finished[rows] = ended
    longest = int(lengths.max())
    return ids[:, :longest], lengths, finished


def _generate_chunk(
    model: PreTrainedModel,
    prompts: Prompts,
    keys: Int[Tensor, "n"],
    sampling: Sampling,
    special: SpecialIds,
) -> tuple[Int[Tensor, "n T"], Bool[Tensor, "n"]]:
    """Ids, -1 behind the end, of one chunk; rows that have ended leave the batch."""
    from transformers import DynamicCache

    head, trunk = model.get_output_embeddings(), backbone(model)
    width = int(prompts.mask.sum(dim=1).max())
    ids, mask = prompts.ids[:, -width:], prompts.mask[:, -width:]
    out = torch.full((len(prompts), int(prompts.max_new.max())), -1, device=ids.device)
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=ids.device)
    active = torch.arange(len(prompts), device=ids.device)
    cache, positions = DynamicCache(), position_ids(mask)
    for t in range(out.shape[1]):
        states = trunk(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = head(states[:, -1]).double() / sampling.temperature
        logits[t < prompts.min_new[active], special.eos] = -torch.inf
        logits[:, special.pad] = -torch.inf
        token = (logits + gumbels(fold(keys[active], t), logits.shape[1])).argmax(dim=1)
        out[active, t] = token
        ended = token == special.eos
        finished[active] = ended
        going = ~ended & (t + 1 < prompts.max_new[active])
        if not going.any():
            break
        chosen = going.nonzero().squeeze(1)
        if len(chosen) < len(active):
            cache.batch_select_indices(chosen)
        active, ids = active[chosen], token[chosen, None]
        mask = torch.cat([mask[chosen], torch.ones_like(ids, dtype=torch.bool)], dim=1)
        positions = mask.sum(dim=1, keepdim=True) - 1
    return out, finished
