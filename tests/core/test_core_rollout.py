"""Batches: rows chosen, joined, counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from builders import make_judgement, make_rollout
from tokencredit.rollout import Judgement, Notes, Rollout


def test_rows_are_chosen_in_every_field() -> None:
    rollout = make_rollout([3, 1, 2])
    part = rollout[torch.tensor([2, 0])]
    assert isinstance(part, Rollout) and len(part) == 2
    assert part.rows.tolist() == [2, 0]
    assert torch.equal(part.values, rollout.values[[2, 0]])
    assert part.lengths.tolist() == [2, 3]


def test_a_mask_chooses_rows_too() -> None:
    rollout = make_rollout([3, 1, 2])
    assert rollout[torch.tensor([False, True, True])].rows.tolist() == [1, 2]


def test_parts_make_the_whole() -> None:
    rollout = make_rollout([3, 1, 2, 2])
    parts = [rollout[torch.tensor([0, 1])], rollout[torch.tensor([2, 3])]]
    whole = Rollout.concatenate(parts)
    assert torch.equal(whole.logp, rollout.logp) and torch.equal(whole.rows, rollout.rows)


def test_lengths_count_the_end_token() -> None:
    assert make_rollout([3, 1, 2], width=9).lengths.tolist() == [3, 1, 2]


def test_to_keeps_the_numbers() -> None:
    rollout = make_rollout([2, 1])
    assert torch.equal(rollout.to("cpu").ref_logp, rollout.ref_logp)


def test_notes_follow_the_rows_of_their_judgement() -> None:
    rollout = make_rollout([2, 3, 1])
    notes = Notes({"gap": torch.tensor([1.0, 2.0, 6.0])})
    judgement = replace(make_judgement(rollout), notes=notes)
    picked = judgement[torch.tensor([2, 0])]
    assert picked.notes is not None and picked.notes.columns["gap"].tolist() == [6, 1]
    joined = Judgement.concatenate([picked, judgement]).notes
    assert joined is not None and joined.means() == {"gap": pytest.approx(16 / 5)}
    assert Judgement.concatenate([picked, make_judgement(rollout)]).notes is None
