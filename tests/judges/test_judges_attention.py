"""Which layer, which heads, and whose row: the options of the reward model's attention."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_models import CLASSIFIERS, unreadable
from builders import (
    ARCHITECTURES,
    EOS_ID,
    PAD_ID,
    make_prompts,
    tiny_actors,
    tiny_classifier,
    train_tokenizer,
)
from tokencredit.canonical import canonical
from tokencredit.data.records import Record
from tokencredit.errors import UserError
from tokencredit.judges.attention import AttentionJudge, RowAt
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.redistribute import Redistribute, shares
from tokencredit.rollout import Rollout
from tokencredit.settings import RewardModel
from tokencredit.stages.label_model import examples

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
ENDED = [False, True, True, True, True]
STOPPED = [False, False, False, True, False]


def rolled() -> Rollout:
    """Cut off; ended by the end token, twice; by a stop string; an end token alone."""
    prompts = make_prompts([2, 7, 4, 5, 3], max_new=[6, 9, 12, 3, 1], min_new=9)
    rollout = tiny_actors().roll_out(prompts, ("test", 0))
    ids = rollout.response_ids.clone()
    for row in (1, 2, 4):
        ids[row, int(rollout.lengths[row]) - 1] = EOS_ID
    return replace(
        rollout,
        response_ids=ids,
        finished=torch.tensor(ENDED),
        stopped=torch.tensor(STOPPED),
    )


def maps_of(model: Any, rollout: Rollout, row: int, layer: int = -1) -> tuple[Tensor, int]:
    """(H, S, S) eager attention of prompt and response without padding; where the latter begins."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    response = rollout.response_ids[row][rollout.response_mask[row]]
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(torch.cat([prompt, response])[None], output_attentions=True)
    return out.attentions[layer][0], len(prompt)


def read(judge: AttentionJudge, scorer: Scorer, rollout: Rollout) -> Tensor:
    return judge.judging(scorer)(rollout).evidence


@every_architecture
@pytest.mark.parametrize("heads", [[0], [3, 1], [0, 1, 2, 3], []])
@pytest.mark.parametrize("layer", [-1, 0])
def test_evidence_is_the_mean_of_the_named_heads(
    architecture: str, heads: list[int], layer: int
) -> None:
    model, rollout = tiny_classifier(architecture), rolled()
    found = read(AttentionJudge(layer=layer, heads=heads), Scorer(model, PAD_ID), rollout)
    for row, length in enumerate(rollout.lengths.tolist()):
        maps, start = maps_of(model, rollout, row, layer)
        mean = (maps[heads] if heads else maps).mean(dim=0)[-1, start:]
        torch.testing.assert_close(found[row, :length], mean, atol=1e-5, rtol=0)


def test_heads_differ_and_all_of_them_are_the_default() -> None:
    scorer, rollout = Scorer(tiny_classifier(), PAD_ID), rolled()
    default = read(AttentionJudge(), scorer, rollout)
    assert torch.equal(read(AttentionJudge(heads=[0, 1, 2, 3]), scorer, rollout), default)
    single = [read(AttentionJudge(heads=[head]), scorer, rollout) for head in range(4)]
    assert all((one - default).abs().max() > 1e-3 for one in single)
    torch.testing.assert_close(torch.stack(single).mean(dim=0), default, atol=1e-6, rtol=0)


@every_architecture
def test_papers_A4_the_row_is_that_of_the_score(architecture: str) -> None:
    """Read before the end token, the score is the one of the response without it, and so is the
    row, which does not see the end token; `row=last` is the end token's row, as in the authors'
    code, where pad is the end token."""
    model, rollout = tiny_classifier(architecture), rolled()
    scorer = Scorer(model, PAD_ID, ScoreAt.before_end)
    tied = AttentionJudge().judging(scorer)(rollout)
    last = AttentionJudge(row=RowAt.last).judging(scorer)(rollout)
    assert torch.equal(tied.scores, last.scores)
    for row, length in enumerate(rollout.lengths.tolist()):
        ended = ENDED[row] and not STOPPED[row]
        maps, start = maps_of(model, rollout, row)
        mean, read_at = maps.mean(dim=0), start + length - 1 - ended
        ids = torch.cat(
            [rollout.prompt_ids[row][rollout.prompt_mask[row]], rollout.response_ids[row, :length]]
        )
        with torch.no_grad():
            hidden = scorer.backbone(ids[None, : read_at + 1]).last_hidden_state[0, -1]
            logits = model.score(hidden)
        assert tied.scores[row].item() == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)
        torch.testing.assert_close(
            tied.evidence[row, :length], mean[read_at, start:], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(last.evidence[row, :length], mean[-1, start:], atol=1e-5, rtol=0)
        if ended:
            assert tied.evidence[row, length - 1] == 0 and last.evidence[row, length - 1] > 0
        else:
            assert torch.equal(tied.evidence[row], last.evidence[row])
    assert (tied.evidence - last.evidence)[1:3, :-1].abs().max() > 1e-3
    # A response of the end token alone has nothing before it: all its credit is still its own.
    assert tied.evidence[4].tolist() == [0.0] * tied.evidence.shape[1]
    assert shares(tied.evidence, rollout.response_mask)[4, 0] == 1
    assert Redistribute().measure(rollout, tied) == {
        "credit/fallback_fraction": 0.0,
        "credit/single_fraction": 0.2,
    }


def test_both_rows_are_one_where_the_score_is_read_at_the_end() -> None:
    scorer, rollout = Scorer(tiny_classifier(), PAD_ID), rolled()
    assert torch.equal(
        read(AttentionJudge(), scorer, rollout),
        read(AttentionJudge(row=RowAt.last), scorer, rollout),
    )


@every_architecture
def test_papers_A4_a_classifier_whose_pad_is_the_end_token_reads_its_score_there(
    architecture: str,
) -> None:
    model, rollout = tiny_classifier(architecture), rolled()
    found = Scorer(model, PAD_ID, ScoreAt.before_end).score(rollout)
    model.config.pad_token_id = EOS_ID
    for row in (1, 2):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        ids = torch.cat([prompt, rollout.response_ids[row][rollout.response_mask[row]]])
        with torch.no_grad():
            logits = model(torch.nn.functional.pad(ids, (0, 2), value=EOS_ID)[None]).logits[0]
        assert found[row].item() == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)
    at_end = Scorer(model, PAD_ID).score(rollout)
    assert (found - at_end).abs()[1:3].min() > 1e-3 and torch.equal(found[:1], at_end[:1])


def test_training_texts_end_where_the_score_is_read() -> None:
    tokenizer, record = train_tokenizer(), Record(row=3, text="the movie was good", label=1)
    rows = {
        at: examples(
            [record], tokenizer, RewardModel(learning_rate=1.0, min_length=128, score_at=at), 0
        )[0]["input_ids"]
        for at in ScoreAt
    }
    assert rows[ScoreAt.end] == [*rows[ScoreAt.before_end], EOS_ID]
    assert tokenizer.decode(rows[ScoreAt.before_end]) == record.text


def test_keys_of_earlier_results_stay() -> None:
    assert canonical(AttentionJudge()) == {"class": "AttentionJudge", "layer": -1}
    assert set(canonical(AttentionJudge(heads=[1], row=RowAt.last))) == {  # type: ignore[call-overload]
        "class",
        "layer",
        "heads",
        "row",
    }
    plain: Any = canonical(RewardModel())
    assert "score_at" not in plain


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (AttentionJudge(layer=2), r"judge\.layer = 2: the model has 2 attention layers"),
        (AttentionJudge(layer=-3), r"judge\.layer = -3: the model has 2 attention layers"),
        (AttentionJudge(heads=[0, 4]), r"judge\.heads = \[0, 4\]: the model has 4 attention heads"),
    ],
)
def test_what_the_reward_model_lacks_is_refused_when_the_judge_is_opened(
    judge: AttentionJudge, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        judge.judging(Scorer(tiny_classifier(), PAD_ID))


def test_a_reward_model_without_readable_attention_is_refused_when_the_judge_is_opened() -> None:
    assert len(CLASSIFIERS) == 4  # these can be read
    with pytest.raises(UserError, match="its attention weights cannot be read"):
        AttentionJudge().judging(Scorer(unreadable(), PAD_ID))


@pytest.mark.parametrize("heads", [[-1], [1, 1]])
def test_numbers_that_name_no_heads_are_refused(heads: list[int]) -> None:
    with pytest.raises(UserError, match=r"judge\.heads = .*different numbers from 0 on"):
        AttentionJudge(heads=heads)
