"""The attention judge's scores are the reward-model judge's, in passes of bounded size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attention_models import (
    CLASSIFIERS,
    LAYERS,
    PAD,
    VOCABULARY,
    decoder,
    eager_rows,
    unreadable,
)
from builders import make_rollout
from tokencredit.errors import UserError
from tokencredit.models.passes import sequences
from tokencredit.models.passes.sequences import compact, parts, position_ids
from tokencredit.models.scorer import Scorer
from tokencredit.ops import keep
from tokencredit.rollout import Rollout

every_classifier = pytest.mark.parametrize("name", CLASSIFIERS)


def rollout_of(prompts: list[int], responses: list[int]) -> Rollout:
    """Random tokens behind left-padded prompts of the given lengths."""
    rollout, size, width = make_rollout(responses), len(prompts), max(prompts)
    generator = torch.Generator().manual_seed(7)
    mask = torch.arange(width)[None] >= width - torch.tensor(prompts)[:, None]
    shape = rollout.response_mask.shape
    ids = torch.randint(2, VOCABULARY, (size, width), generator=generator)
    response = torch.randint(2, VOCABULARY, shape, generator=generator)
    return replace(
        rollout,
        prompt_ids=torch.where(mask, ids, PAD),
        prompt_mask=mask,
        response_ids=torch.where(rollout.response_mask, response, PAD),
    )


ROLLOUTS = {
    "ragged": rollout_of([3, 6, 4, 1], [9, 2, 5, 7]),
    "equal": rollout_of([4, 4, 4, 4], [6, 6, 6, 6]),
}
every_rollout = pytest.mark.parametrize("rollout", ROLLOUTS.values(), ids=ROLLOUTS.keys())


@every_classifier
@every_rollout
@pytest.mark.parametrize("size", [2048, 20])
def test_scores_are_bit_for_bit_the_same_with_attention_and_without(
    name: str, rollout: Rollout, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "PART_TOKENS", size)
    model = decoder(name)
    scorer = Scorer(model, PAD)
    plain = scorer.score(rollout)
    assert (plain - plain[0]).abs().max() > 1e-2
    for layer in (-1, 0, 1):
        scores, _ = scorer.score_and_attention(rollout, layer)
        assert torch.equal(scores, plain)
    assert torch.equal(scorer.score(rollout), plain)


@every_classifier
@every_rollout
def test_papers_A5_evidence_is_the_eager_row(name: str, rollout: Rollout) -> None:
    model = decoder(name)
    ids, mask, start, last = compact(rollout, PAD)
    batch = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": position_ids(mask)}
    columns = (start[:, None] + torch.arange(rollout.response_mask.shape[1])).clamp(
        max=ids.shape[1] - 1
    )
    for layer in range(LAYERS):
        _, evidence = Scorer(model, PAD).score_and_attention(rollout, layer)

        def expected(rows: Tensor, layer: int = layer) -> Tensor:
            mean = eager_rows(model, batch, rows, layer).mean(dim=1)
            return keep(mean.gather(1, columns), rollout.response_mask)

        torch.testing.assert_close(evidence, expected(last), atol=3e-6, rtol=0)
        # Mutation: the row one before the score's.
        assert (evidence - expected(last - 1)).abs().max() > 1e-3


def test_parts_hold_every_row_once_and_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "PART_TOKENS", 20)
    lengths = torch.tensor([3, 30, 7, 6, 1, 7, 10])
    found = [(rows.tolist(), width) for rows, width in parts(lengths)]
    assert found == [([1], 30), ([6, 2], 10), ([5, 3], 7), ([0, 4], 3)]
    assert [len(rows) for rows, _ in parts(torch.full((7,), 5))] == [4, 3]


@every_classifier
def test_small_parts_change_scores_by_rounding_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, rollout = Scorer(decoder(name), PAD), ROLLOUTS["ragged"]
    scores, evidence = scorer.score_and_attention(rollout, -1)
    shapes: list[tuple[int, ...]] = []
    hook = scorer.backbone.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(sequences, "PART_TOKENS", 20)
    small, other = scorer.score_and_attention(rollout, -1)
    hook.remove()
    assert shapes == [(1, 12), (2, 9), (1, 8)]
    torch.testing.assert_close(small, scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, evidence, rtol=0, atol=1e-5)


def test_activations_are_fused_in_the_frozen_model() -> None:
    model = decoder("gpt2_classifier")
    Scorer(model, PAD)
    kinds = {type(module).__name__ for module in model.modules()}
    assert "GELU" in kinds and "NewGELUActivation" not in kinds


def test_a_layer_is_looked_for_once() -> None:
    scorer = Scorer(decoder("llama_classifier"), PAD)
    assert scorer.attention_row(-1) is scorer.attention_row(-1)
    assert scorer.attention_row(0) is not scorer.attention_row(-1)


def test_an_architecture_without_a_way_to_its_attention_is_refused_and_still_scores() -> None:
    scorer = Scorer(unreadable(), PAD)
    assert torch.isfinite(scorer.score(ROLLOUTS["ragged"])).all()
    with pytest.raises(UserError, match="its attention weights cannot be read"):
        scorer.score_and_attention(ROLLOUTS["ragged"], -1)
