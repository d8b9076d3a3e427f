"""A judge with another tokenizer: its scores stay, and where its evidence goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import EOS_ID, make_rollout, tiny_classifier, train_tokenizer
from strangers import OWN, names, read_by, reading, said, signed, weights
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.retokenised import retokenised
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.scorer import Scorer
from tokencredit.models.tokens.retokenise import Retokeniser
from tokencredit.rollout import Judgement, Rollout
from vocabularies import KINDS, PAD, conversation, spell, vocabulary

OTHERS = ["byte_level", "wordpiece", "unigram", "byte_fallback"]
policies = pytest.mark.parametrize("policy", [*KINDS])
judges = pytest.mark.parametrize("judge", OTHERS)
PIECES = [" was", " wonderful", "é", "🎬", "東京", "\u0301", "  ", "!", "<s>", "ab", "\n", "ﬁ"]


@pytest.mark.parametrize("text", ["the movie was good", "naïve 🎬東京 café", "two\u0301 words"])
@pytest.mark.parametrize("judge", [RewardModelJudge(), AttentionJudge()])
def test_field_E3_identity_tokenizers_are_the_identity(judge: Any, text: str) -> None:
    """Through text and back: bit for bit the scores and the evidence of the ids themselves."""
    model = Scorer(tiny_classifier(), 1)
    plain = judge.judging(model)
    through = retokenised(plain, Retokeniser(OWN, train_tokenizer()))
    rollout = said("own", [("the plot", " was bad"), ("I", text), ("the", " a" + text)], [1, 0, 1])
    expected, found = plain(rollout), through(rollout)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.evidence, expected.evidence)
    assert found.notes is not None and set(found.notes.means().values()) == {0.0}


@policies
@judges
@given(
    texts=st.lists(
        st.tuples(
            st.text(max_size=8) | st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
            st.text(max_size=12) | st.lists(st.sampled_from(PIECES), max_size=5).map("".join),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_field_E3_sums_are_preserved(
    policy: str, judge: str, texts: list[tuple[str, str, bool]]
) -> None:
    pairs = [(f"the {prompt}", response or "!") for prompt, response, _ in texts]
    rollout = said(policy, pairs, [end for *_, end in texts])
    seen: list[Judgement] = []

    def spy(there: Rollout) -> Judgement:
        seen.append(signed(there))
        return seen[-1]

    found = reading(policy, judge, spy)(rollout)
    assert torch.equal(found.scores, seen[0].scores)
    assert found.evidence.shape == rollout.response_mask.shape
    assert (found.evidence[~rollout.response_mask] == 0).all()
    given_sum, got = seen[0].evidence.double().sum(dim=1), found.evidence.double().sum(dim=1)
    scale = seen[0].evidence.abs().sum(dim=1).clamp(min=1)
    assert ((got - given_sum).abs() <= 1e-6 * scale).all()


@policies
@judges
def test_papers_A2_padding_and_neighbours_move_nothing(policy: str, judge: str) -> None:
    texts = [("the plot", " was bad 🎬"), ("I", " loved it, naïve"), ("the movie", " was")]
    ended = [True, False, True]
    judged = reading(policy, judge)
    expected = judged(said(policy, texts, ended))
    wide = judged(said(policy, texts, ended, extra=3, fill=5))
    width = expected.evidence.shape[1]
    assert torch.equal(wide.scores, expected.scores)
    assert torch.equal(wide.evidence[:, :width], expected.evidence)
    assert (wide.evidence[:, width:] == 0).all()
    order = torch.tensor([2, 0, 1])
    moved = judged(said(policy, texts, ended)[order])
    assert torch.equal(moved.scores, expected.scores[order])
    assert torch.equal(moved.evidence, expected.evidence[order])
    assert moved.notes is not None and expected.notes is not None
    assert moved.notes.means() == expected.notes.means()


def test_field_E3_letters_by_hand() -> None:
    """Letter by letter, and what the judge's end token has goes to the policy's end token."""
    rollout = conversation([spell("a")], [[*names("own", "the", "m", "o", "v"), EOS_ID]], [True])
    there = read_by(OWN, vocabulary("byte_level"), rollout)[0]
    assert there == (["a"], ["the", "m", "o", "v", "<|endoftext|>"])
    found = reading("own", "byte_level", weights(6.0, 1.0, 2.0, 3.0, 9.0))(rollout)
    assert found.evidence[0].tolist() == pytest.approx([6, 1, 2, 3, 9])


def test_field_E3_one_token_of_the_judge_pays_two_of_the_policy_by_hand() -> None:
    """A token of six bytes: a space, c, a, f, and the two of é."""
    tokens = [*names("own", "Ġ", "c", "a", "f", "Ã", "©", "!"), EOS_ID]
    rollout = conversation([spell("a")], [tokens], [True])
    assert read_by(OWN, vocabulary("byte_level"), rollout)[0][1] == ["ĠcafÃ©", "!", "<|endoftext|>"]
    found = reading("own", "byte_level", weights(6.0, -2.0, 1.0))(rollout)
    assert found.evidence[0].tolist() == pytest.approx([1, 1, 1, 1, 1, 1, -2, 1])
    coarse = conversation([spell("a")], [names("own", "Ġmovie", "Ġ", "Ã", "©")], [False])
    assert read_by(OWN, vocabulary("wordpiece"), coarse)[0][1] == ["movie", "e"]
    found = reading("own", "wordpiece", weights(6.0, 4.0))(coarse)  # é reads e; a space is nothing
    assert found.evidence[0].tolist() == pytest.approx([6, 0, 2, 2])


@judges
def test_a_response_of_its_end_token_alone(judge: str) -> None:
    rollout = conversation([spell("the plot")], [[EOS_ID]], [True])
    found = reading("own", judge, weights(3.0))(rollout)
    assert found.evidence.tolist() == [[3.0]]


@judges
def test_a_special_token_inside_a_response_has_no_bytes_and_no_mass(judge: str) -> None:
    plain = said("own", [("the", " movie was good")], [True])
    ids = plain.response_ids[0].tolist()
    broken = conversation([spell("the")], [[*ids[:2], *names("own", PAD), *ids[2:]]], [True])
    judged = reading("own", judge)
    expected, found = judged(plain), judged(broken)
    assert torch.equal(found.scores, expected.scores)
    evidence = found.evidence[0].tolist()
    assert evidence.pop(2) == 0 and evidence == expected.evidence[0].tolist()
    assert found.notes is not None and found.notes.means()["respelled_fraction"] == 1


def test_half_an_emoji_at_the_cut_is_read_as_such_counted_and_paid() -> None:
    whole = spell(" 🎬")
    assert len(whole) == 4  # a space, two bytes in one token, one, one
    rollout = conversation([spell("the")] * 2, [whole[:3], whole], [False, False])
    response = read_by(OWN, vocabulary("byte_level"), rollout)[0][1]
    assert "".join(response) == "Ġï¿½"  # U+FFFD, whose three bytes are three tokens here
    found = reading("own", "byte_level", signed)(rollout)
    assert found.notes is not None
    assert found.notes.columns["unaligned_fraction"].tolist() == [1, 0]
    row = rollout[torch.tensor([0])]
    found = reading("own", "byte_level", weights(5.0, 1.0, 2.0, 4.0))(row)
    # Three bytes of U+FFFD for the three that were written: two by one token, one by the next.
    assert found.evidence[0, :3].tolist() == pytest.approx([5, 3, 4])


def test_an_emoji_that_the_prompt_begins_belongs_to_the_response_that_ends_it() -> None:
    whole = spell("🎬")
    rollout = conversation([[*spell("the "), *whole[:1]]], [[*whole[1:], *spell("!")]], [False])
    there = read_by(OWN, vocabulary("wordpiece"), rollout)[0]
    assert there == (["the"], ["🎬", "!"])
    found = reading("own", "wordpiece", weights(6.0, 5.0))(rollout)
    assert found.evidence.tolist() == [[3, 3, 5]]  # the emoji's two bytes that were written here
    assert found.notes is not None and found.notes.means()["unaligned_fraction"] == 0


def test_numbers_of_the_judge_itself_are_kept() -> None:
    found = reading("own", "wordpiece")(said("own", [("the", " was")], [False]))
    assert found.notes is not None
    assert found.notes.means() == {
        "tokens": 1,
        "unaligned_fraction": 0,
        "respelled_fraction": 0,
        "shortened_fraction": 0,
    }


def test_random_rollouts_of_random_ids_lose_nothing() -> None:
    rollout = make_rollout([5, 1, 9, 3])
    seen: list[Tensor] = []

    def spy(there: Rollout) -> Judgement:
        verdict = signed(there)
        seen.append(verdict.evidence.sum(dim=1))
        return verdict

    for judge in OTHERS:
        found = reading("own", judge, spy)(rollout)
        assert found.evidence.sum(dim=1).tolist() == pytest.approx(seen[-1].tolist(), abs=1e-5)
