"""The discriminator as a judge: what it says of a token, of an end token, and of a response."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from builders import ARCHITECTURES, handed, make_rollout, speaking, tiny_classifier, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.judges.discriminator import DiscriminatorJudge, judging
from tokencredit.models.discriminator import Discriminator, token_log_odds
from tokencredit.models.loading.model import Model
from tokencredit.rewards.tlcr import TLCR
from tokencredit.rollout import Rollout

LENGTHS = [6, 3, 5]
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def judge_of(architecture: str) -> Discriminator:
    return Discriminator(tiny_classifier(architecture, num_labels=2))


def rewards(model: Discriminator, rollout: Rollout) -> Tensor:
    return TLCR().token_rewards(rollout, judging(model)(rollout))


def said(rollout: Rollout, place: int) -> Rollout:
    """The responses with another token at that place, where there is one."""
    ids = rollout.response_ids.clone()
    there = rollout.response_mask[:, place]
    ids[there, place] = (ids[there, place] + 17) % 200 + 2
    return replace(rollout, response_ids=ids)


@architectures
def test_papers_C8_a_reward_depends_on_its_token_and_on_none_behind_it(architecture: str) -> None:
    model = judge_of(architecture)
    open_ended = torch.zeros(len(LENGTHS), dtype=torch.bool)
    rollout = replace(make_rollout(LENGTHS), finished=open_ended)
    before = rewards(model, rollout)
    for place in range(max(LENGTHS)):
        there = rollout.response_mask[:, place]
        after = rewards(model, said(rollout, place))
        assert torch.allclose(after[:, :place], before[:, :place], atol=1e-6)
        assert ((after - before)[there, place].abs() > 1e-5).all()


@architectures
def test_what_is_said_is_the_classifiers_own_score_of_the_text_so_far(architecture: str) -> None:
    model, rollout = judge_of(architecture), make_rollout([4])
    whole = torch.cat([rollout.prompt_ids, rollout.response_ids], dim=1)
    for t in range(4):
        with torch.no_grad():
            logits = model.model(input_ids=whole[:, : 3 + t]).logits[0]  # at its last token
        found = model.log_odds(rollout)[0, t]
        assert found.item() == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)


def test_the_end_token_is_not_judged_and_the_score_is_the_sum_of_rewards() -> None:
    model, rollout = judge_of("llama"), make_rollout(LENGTHS)
    verdict, odds = judging(model)(rollout), model.log_odds(rollout)
    assert rollout.finished.tolist() == [True, False, True]
    for row, length in enumerate(LENGTHS):
        kept = length - int(rollout.finished[row])
        assert torch.equal(verdict.evidence[row, :kept], odds[row, :kept])
        assert not verdict.evidence[row, kept:].any()
        total = (2 * torch.sigmoid(odds[row, :kept]) - 1).sum()
        assert verdict.scores[row].item() == pytest.approx(total.item(), abs=1e-5)
    paid = TLCR().token_rewards(rollout, verdict)
    assert torch.allclose(paid.sum(dim=1), verdict.scores, atol=1e-5)
    assert verdict.notes is not None
    assert torch.equal(verdict.notes.columns["token_reward"], verdict.scores)


def test_a_stopped_response_has_no_end_token() -> None:
    model = judge_of("llama")
    rollout = replace(make_rollout([3]), stopped=torch.ones(1, dtype=torch.bool))
    assert judging(model)(rollout).evidence[0, 2] != 0


def test_the_gradient_reaches_trunk_and_head() -> None:
    model = tiny_classifier(num_labels=2)
    token_log_odds(model, torch.tensor([[5, 6, 7]])).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("classes", "message"),
    [(1, "this model has 1: train it anew"), (3, "3 outputs")],
)
def test_a_folder_with_other_classes_is_refused(classes: int, message: str, tmp_path: Path) -> None:
    tiny_classifier(num_labels=classes).save_pretrained(tmp_path)
    train_tokenizer().save_pretrained(tmp_path)
    given = handed(folder=lambda _: tmp_path, model=Model(context=96))
    with pytest.raises(UserError, match=message):
        DiscriminatorJudge().open(given, speaking(train_tokenizer()))


def test_a_folder_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    tiny_classifier(num_labels=2).save_pretrained(tmp_path)
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    other = train_tokenizer()
    other.add_tokens(["zebra"])
    given = handed(folder=lambda _: tmp_path, model=Model(context=96))
    with pytest.raises(UserError, match="vocabulary differs from the policy's"):
        DiscriminatorJudge().open(given, speaking(other))
    assert callable(DiscriminatorJudge().open(given, speaking(tokenizer)))
