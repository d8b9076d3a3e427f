"""Sequences without gaps, by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from builders import make_rollout, mask_of
from tokencredit.models.passes.sequences import compact, position_ids


def test_positions_count_real_tokens() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    assert position_ids(mask).tolist() == [
        [0, 0, 0, 1, 2, 2],
        [0, 1, 2, 3, 4, 5],
        [0, 0, 1, 1, 1, 1],
    ]


def test_prompt_and_response_are_joined_without_gaps() -> None:
    rollout = replace(
        make_rollout([1, 3]),
        prompt_ids=torch.tensor([[9, 9, 11], [12, 13, 14]]),
        prompt_mask=torch.tensor([[False, False, True], [True, True, True]]),
        response_ids=torch.tensor([[21, 0, 0], [22, 23, 0]]),
        response_mask=mask_of([1, 3]),
    )
    ids, mask, start, last = compact(rollout, pad_id=7)
    assert ids.tolist() == [[11, 21, 7, 7, 7, 7], [12, 13, 14, 22, 23, 0]]
    assert mask.sum(dim=1).tolist() == [2, 6]
    assert start.tolist() == [1, 3] and last.tolist() == [1, 5]


def test_field_B9_ends_are_lengths_not_ids() -> None:
    """An end token that counts stays, one behind the end goes, and pads inside stay too."""
    rollout = replace(
        make_rollout([3, 1]),
        response_ids=torch.tensor([[1, 7, 0], [0, 0, 0]]),
        response_mask=mask_of([3, 1]),
    )
    ids, mask, _, last = compact(rollout, pad_id=0)
    assert ids[0, 2:].tolist() == [1, 7, 0] and mask[0].all() and last.tolist() == [4, 2]
    assert mask[1].tolist() == [True, True, True, False, False]
