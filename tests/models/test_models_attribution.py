"""Attributions of the reward model's score: numbers by hand, completeness, and no traces."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from attributions import linear_scorer
from builders import ARCHITECTURES, EOS_ID, PAD_ID, make_rollout, tiny_classifier
from models.test_models_scorer import rolled, widened
from tokencredit.models.attribution import Attributions, Attributor, Baseline, Method, filler
from tokencredit.models.scorer import Scorer
from tokencredit.rollout import Rollout

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
every_method = pytest.mark.parametrize("method", Method)
every_baseline = pytest.mark.parametrize("baseline", Baseline)
LENGTHS = [4, 1, 9, 3]
FINE = 256
"""Steps after which the tiny models, rough as they are, leave next to no gap."""


def tiny(architecture: str = "gpt2") -> Scorer:
    return Scorer(tiny_classifier(architecture), PAD_ID)


def gaps(scorer: Scorer, rollout: Rollout, **settings: Any) -> Tensor:
    found = Attributor(scorer, **settings).attribute(rollout)
    return found.gaps(scorer.score(rollout))


@every_method
@every_baseline
def test_a_linear_scorer_by_hand(method: Method, baseline: Baseline) -> None:
    scorer, rollout = linear_scorer(), make_rollout(LENGTHS, width=11)
    model: Any = scorer.model
    weight, table = model.score.weight[0], model.model.table.weight
    beside = {
        Baseline.zero: torch.zeros(4),
        Baseline.pad: table[PAD_ID],
        Baseline.mean: table.mean(dim=0),
    }[baseline]
    worth = (table[rollout.response_ids] - beside) @ weight
    expected = torch.where(rollout.response_mask, worth, 0.0)
    found = Attributor(scorer, method, baseline, steps=3).attribute(rollout)
    assert torch.allclose(found.evidence, expected, atol=1e-6)
    assert (found.evidence[~rollout.response_mask] == 0).all()
    assert (expected > 0.1).any() and (expected < -0.1).any()
    # the baseline's score: the prompt's tokens as they are, and as many fillers as tokens
    prompt = (table[rollout.prompt_ids] @ weight).sum(dim=1)
    filled = prompt + rollout.lengths * (beside @ weight)
    assert torch.allclose(found.baseline_scores, filled, atol=1e-5)
    assert found.gaps(scorer.score(rollout)).max() < 1e-4


def test_gradient_x_input_is_the_gradient_times_the_embedding() -> None:
    scorer, rollout = tiny("llama"), make_rollout([5])
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    read = scorer.embed(ids).requires_grad_()
    (slope,) = torch.autograd.grad(scorer.score_embedded(read, torch.tensor([6])).sum(), read)
    by_hand = (slope * read).sum(dim=-1)[:, 2:]
    found = Attributor(scorer, Method.gradient_x_input, Baseline.zero).attribute(rollout)
    assert torch.allclose(found.evidence, by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("evidence", "base", "score", "gap"),
    [
        ([1.0, 2.0], 1.0, 4.0, 0.0),
        ([1.0, 1.0], 1.0, 5.0, 0.5),  # 2 of 4
        ([10.0, -10.0], 1.0, 1.1, 0.5),  # 0.1 of at least 20 / 100
        ([0.0, 0.0], 1.0, 1.0, 0.0),
    ],
)
def test_gap_by_hand(evidence: list[float], base: float, score: float, gap: float) -> None:
    found = Attributions(torch.tensor([evidence]), torch.tensor([base]))
    assert found.gaps(torch.tensor([score])).item() == pytest.approx(gap, abs=1e-6)


@architectures
def test_integrated_gradients_are_complete_with_enough_steps(architecture: str) -> None:
    scorer, rollout = tiny(architecture), make_rollout(LENGTHS)
    few, many = (gaps(scorer, rollout, steps=steps) for steps in (4, FINE))
    assert many.max() < 1e-3
    assert few.mean() > 100 * many.mean()


@architectures
def test_a_single_gradient_is_not_complete(architecture: str) -> None:
    scorer, rollout = tiny(architecture), make_rollout(LENGTHS)
    assert gaps(scorer, rollout, method=Method.gradient_x_input).max() > 0.1


@architectures
def test_a_response_of_other_tokens_has_other_attributions_and_the_prompt_none(
    architecture: str,
) -> None:
    scorer, rollout = tiny(architecture), make_rollout([3, 3])
    found = Attributor(scorer).attribute(rollout)
    assert not torch.allclose(found.evidence[0], found.evidence[1], atol=1e-3)
    assert (found.evidence > 0).any() and (found.evidence < 0).any()
    model: Any = scorer.model
    with torch.no_grad():
        model.score.weight.neg_()  # what was good is bad
    negated = Attributor(scorer).attribute(rollout)
    assert torch.allclose(negated.evidence, -found.evidence, atol=1e-5)


@architectures
@every_method
@pytest.mark.parametrize(("left", "right", "fill"), [(5, 0, PAD_ID), (0, 5, EOS_ID), (3, 4, 50)])
def test_papers_A4_padding_moves_no_attribution(
    architecture: str, method: Method, left: int, right: int, fill: int
) -> None:
    scorer, rollout = tiny(architecture), rolled()
    attributor = Attributor(scorer, method, steps=8)
    narrow = attributor.attribute(rollout)
    wide = attributor.attribute(widened(rollout, left, right, fill))
    width = narrow.evidence.shape[1]
    assert torch.allclose(wide.evidence[:, :width], narrow.evidence, atol=1e-4)
    assert (wide.evidence[:, width:] == 0).all()
    assert torch.allclose(wide.baseline_scores, narrow.baseline_scores, atol=1e-5)


@every_method
def test_order_and_company_of_responses_do_not_matter(method: Method) -> None:
    scorer, rollout = tiny("llama"), rolled()
    attributor = Attributor(scorer, method, steps=8)
    found, order = attributor.attribute(rollout).evidence, torch.tensor([2, 0, 3, 1])
    assert torch.allclose(attributor.attribute(rollout[order]).evidence, found[order], atol=1e-4)
    for row in range(4):
        alone = attributor.attribute(rollout[torch.tensor([row])]).evidence[0]
        assert torch.allclose(alone, found[row], atol=1e-4)


@every_method
def test_passes_are_as_small_as_they_are_told_to_be(method: Method) -> None:
    scorer, rollout = tiny(), make_rollout([14, 2, 2, 3, 9, 2])
    seen: list[tuple[int, ...]] = []
    scorer.backbone.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    small = Attributor(scorer, method, steps=5, pass_tokens=32).attribute(rollout)
    assert max(rows * width for rows, width in seen) <= 32
    count = len(seen)
    whole = Attributor(scorer, method, steps=5).attribute(rollout)
    assert len(seen) - count < count
    assert torch.allclose(whole.evidence, small.evidence, atol=1e-4)


@architectures
@every_method
def test_nothing_is_left_behind(architecture: str, method: Method) -> None:
    model = tiny_classifier(architecture)
    scorer, rollout = Scorer(model, PAD_ID), make_rollout(LENGTHS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    names = [set(vars(module)) for module in model.modules()]
    with torch.no_grad(), warnings.catch_warnings():  # as judges are called
        warnings.simplefilter("error")
        found = Attributor(scorer, method, steps=4).attribute(rollout)
        assert not torch.is_grad_enabled()
    assert not found.evidence.requires_grad and not found.baseline_scores.requires_grad
    assert found.evidence.abs().sum() > 0
    for parameter in model.parameters():
        assert not parameter.requires_grad and parameter.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    assert names == [set(vars(module)) for module in model.modules()]


def test_dropout_is_off() -> None:
    model = tiny_classifier("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    attributor, rollout = Attributor(Scorer(model, PAD_ID), steps=4), make_rollout(LENGTHS)
    first = attributor.attribute(rollout).evidence
    assert torch.equal(attributor.attribute(rollout).evidence, first)


@architectures
def test_embeddings_score_as_the_ids_they_are_of(architecture: str) -> None:
    scorer, rollout = tiny(architecture), make_rollout([5, 5])
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    embedded = scorer.score_embedded(scorer.embed(ids), torch.tensor([6, 6]))
    assert torch.equal(embedded, scorer.score(rollout))


def test_a_model_in_bfloat16_is_read_in_it() -> None:
    scorer, rollout = Scorer(tiny_classifier().bfloat16(), PAD_ID), make_rollout(LENGTHS)
    found = Attributor(scorer, steps=4).attribute(rollout)
    assert found.evidence.dtype == torch.float32 and found.evidence.isfinite().all()


def test_fillers_by_hand() -> None:
    scorer = tiny()
    table = scorer.model.get_input_embeddings().weight
    found = [filler(scorer, baseline, torch.device("cpu")) for baseline in Baseline]
    assert torch.allclose(found[0], table.mean(dim=0), atol=1e-6)
    assert torch.equal(found[1], table[PAD_ID]) and torch.equal(found[2], torch.zeros(32))
