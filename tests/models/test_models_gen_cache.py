"""The cache of keys and values: written in place, rows leave, room grows."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from builders import ARCHITECTURES, make_prompts, tiny_causal
from tokencredit.models.decoding import cache as caches
from tokencredit.models.decoding.cache import RoomyCache, RoomyLayer
from tokencredit.models.loading.trunk import backbone
from tokencredit.models.passes.sequences import position_ids


def fill(layer: RoomyLayer | DynamicCache, rows: int, length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, rows, 2, length, 3, generator=generator)
    layer.update(keys, values, 0)


def pair(limit: int = 40, rows: int = 5) -> tuple[RoomyCache, DynamicCache]:
    """Ours and the library's, filled with the same numbers."""
    both = RoomyCache(limit), DynamicCache()
    for each in both:
        fill(each, rows, 4, 0)
    return both


def equal(ours: RoomyCache, theirs: DynamicCache) -> bool:
    one, other = ours.layers[0], theirs.layers[0]
    return torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values)


@pytest.mark.parametrize("first", [1, 4, 5, 9, 256])
def test_growing_keeps_everything(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "FIRST", first)
    ours, theirs = pair()
    for step in range(30):
        if step % 7 == 3:
            for each in (ours, theirs):
                each.batch_select_indices(torch.arange(len(each.layers[0].keys) - 1))
        for each in (ours, theirs):
            fill(each, len(each.layers[0].keys), 1, step)
        assert equal(ours, theirs)
        assert ours.get_seq_length() == theirs.get_seq_length() == 5 + step
        assert ours.layers[0].buffers[0].shape[2] <= 40


@pytest.mark.parametrize(
    "indices",
    [
        [0, 1, 2, 3, 4],
        [4, 1, 3],
        [0, 4],
        [2],
        [4, 3, 2, 1, 0],
        [1, 1, 1],
        [3, 0, 3, 2],
        [0, 0, 1, 2, 2, 3, 4, 4],
    ],
)
def test_any_rows_can_be_selected(indices: list[int]) -> None:
    ours, theirs = pair()
    for step in range(3):
        for each in (ours, theirs):
            each.batch_select_indices(torch.tensor(indices))
            fill(each, len(indices), 1, step)
        assert equal(ours, theirs)
        indices = list(range(len(indices)))


def test_tokens_are_written_where_they_stay() -> None:
    """Nothing is copied from step to step, and little where a row leaves."""
    ours, _ = pair()
    layer = ours.layers[0]
    start = layer.keys.data_ptr()
    kept = layer.keys[1].clone()
    fill(ours, 5, 1, 1)
    ours.batch_select_indices(torch.tensor([4, 1, 2]))
    assert layer.keys.data_ptr() == start and len(layer.keys) == 3
    assert torch.equal(layer.keys[1, :, :4], kept)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_model_reads_the_same_from_both(architecture: str) -> None:
    model, prompts = tiny_causal(architecture), make_prompts([4, 7, 2])
    trunk, mask, ids = backbone(model), prompts.mask, prompts.ids
    both, positions = (RoomyCache(12), DynamicCache()), position_ids(mask)
    for step in range(4):
        states = [
            trunk(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=each,
                use_cache=True,
            ).last_hidden_state
            for each in both
        ]
        assert torch.equal(*states)
        assert all(each.get_seq_length() == 7 + step for each in both)
        ids = ids[:, -1:] + 1
        mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.bool)], dim=1)
        positions = positions[:, -1:] + 1
