"""What a judge with another tokenizer reads: its own opening, text, and what closes what has ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import ByT5Tokenizer

from builders import EOS_ID, train_tokenizer
from strangers import OWN, end_of, names, read_by, reading, said, signed, weights
from tokencredit.errors import UserError
from tokencredit.judges.retokenised import retokenised
from tokencredit.models.loading.model import RewardReads
from tokencredit.models.tokens.retokenise import Retokeniser, retokeniser_between
from vocabularies import (
    BOS,
    PAD,
    byte_fallback,
    byte_level,
    conversation,
    spell,
    unigram,
    vocabulary,
    wordpiece,
)

judges = pytest.mark.parametrize("judge", ["byte_level", "wordpiece", "unigram", "byte_fallback"])


def test_field_E3_the_same_vocabulary_is_read_as_it_is() -> None:
    for reads in RewardReads:
        assert retokeniser_between(OWN, train_tokenizer(), reads) is None
    assert retokenised(signed, None) is signed


def test_papers_A3_the_judge_opens_once_and_closes_only_what_has_ended() -> None:
    """The policy's own BOS and end token are no text; a special token's name in a text is text."""
    policy, texts = byte_level(opens=True), ["the plot <s>", "the plot"]
    prompts = [policy(texts[0])["input_ids"], policy(texts[1])["input_ids"]]
    answer = spell(" was<|endoftext|>", "byte_level")
    rollout = conversation(prompts, [[*answer, policy.eos_token_id], answer], [True, False])
    assert prompts[1][0] == policy.bos_token_id
    for make in (wordpiece, unigram, byte_fallback):
        judge = make(opens=True)
        for row, (prompt, response) in enumerate(read_by(policy, judge, rollout)):
            together = prompt + response
            assert together[0] == BOS and BOS not in together[1:]
            assert (together[-1] == "<|endoftext|>") == (row == 0)
            assert "<|endoftext|>" not in together[:-1]


def test_a_closing_token_of_the_judge_is_paid_to_the_end_token() -> None:
    judge = wordpiece()
    closing = judge.convert_tokens_to_ids(BOS)
    from tokenizers import processors

    judge.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {BOS}", special_tokens=[(BOS, closing)]
    )
    rollout = conversation([spell("the")], [[*spell(" was"), EOS_ID]], [True])
    there = Retokeniser(OWN, judge)(rollout).rollout
    assert there.response_ids[0].tolist()[1:] == [closing, judge.eos_token_id]
    found = retokenised(weights(1.0, 2.0, 4.0), Retokeniser(OWN, judge))(rollout)
    assert found.evidence[0].tolist() == pytest.approx([1, 6])


@judges
def test_a_response_without_text_that_was_cut_off_is_judged_by_its_prompt(judge: str) -> None:
    tokens = names("own", PAD, PAD)
    rollout = conversation([spell("the plot")], [tokens], [False])
    found = reading("own", judge)(rollout)
    assert found.evidence.tolist() == [[0.0, 0.0]] and found.scores.tolist() == [0.0]
    assert found.notes is not None and found.notes.means()["respelled_fraction"] == 1
    nothing = conversation([names("own", PAD)], [tokens], [False])
    there = Retokeniser(OWN, vocabulary(judge))(nothing).rollout
    assert there.prompt_ids.tolist() == [[end_of(judge)]] and there.total_lengths.tolist() == [1]


def test_other_spellings_than_the_tokenizers_own_are_counted() -> None:
    canonical, other = spell(" movie"), spell(" m") + spell("ovie")
    assert OWN.decode(canonical) == OWN.decode(other) and canonical != other
    rollout = conversation([spell("the")] * 2, [canonical, other], [False, False])
    found = reading("own", "wordpiece", weights(5.0))(rollout)
    assert found.notes is not None
    assert found.notes.columns["respelled_fraction"].tolist() == [0, 1]
    assert found.notes.columns["unaligned_fraction"].tolist() == [0, 0]
    assert found.evidence.sum(dim=1).tolist() == pytest.approx([5, 5])


def test_prompts_are_cut_from_the_left_where_the_judge_reads_less() -> None:
    texts = [("the movie was good and the plot", " was bad"), ("the", " was bad")]
    rollout = said("own", texts, [True, True])
    judge = byte_level(opens=True)
    cut = Retokeniser(OWN, judge, longest=14)(rollout)
    free = Retokeniser(OWN, judge)(rollout)
    assert cut.rollout.total_lengths.tolist() == [14, int(free.rollout.total_lengths[1])]
    assert torch.equal(cut.rollout.response_ids, free.rollout.response_ids)
    for there in (cut, free):
        opening = there.rollout.prompt_ids[there.rollout.prompt_ids == judge.bos_token_id]
        assert len(opening) == 2
    assert cut.notes().columns["shortened_fraction"].tolist() == [1, 0]
    assert free.notes().columns["shortened_fraction"].tolist() == [0, 0]
    with pytest.raises(UserError, match=r"reward_reads.*at most 5; lower rollout\.max_new_tokens"):
        Retokeniser(OWN, judge, longest=5)(rollout)


def test_stop_strings_end_a_response_without_an_end_token() -> None:
    rollout = said("own", [("the", " was")], [False])
    rollout = replace(rollout, finished=torch.tensor([True]), stopped=torch.tensor([True]))
    assert "<|endoftext|>" not in read_by(OWN, vocabulary("wordpiece"), rollout)[0][1]


def test_field_B39_other_vocabularies_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"vocabulary differs.*model\.reward_reads=text"):
        retokeniser_between(OWN, wordpiece(), RewardReads.ids)
    assert retokeniser_between(OWN, wordpiece(), RewardReads.text) is not None


def test_a_tokenizer_without_offsets_is_refused_for_the_judge_alone() -> None:
    slow = ByT5Tokenizer()
    with pytest.raises(UserError, match=r"reward_reads = 'text'.*ByT5Tokenizer.*use a fast one"):
        Retokeniser(OWN, slow)
    ids = slow("é!", add_special_tokens=False)["input_ids"]  # one id a byte, after three special
    rollout = conversation([slow("the", add_special_tokens=False)["input_ids"]], [ids], [False])
    found = retokenised(weights(1.0, 2.0), Retokeniser(slow, vocabulary("byte_level")))(rollout)
    assert found.evidence.tolist() == [[0, 1, 2]]  # its decoder shows é when it is whole
