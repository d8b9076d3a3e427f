"""The prompts of every step: a pure function of (seed, step)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from builders import PAD_ID, train_tokenizer
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import PromptStream, prompt_ids
from tokencredit.data.records import Record
from tokencredit.errors import UserError
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.rollout import Prompts

SPEC = PromptSpec(min_characters=20)


def texts(count: int = 10) -> list[Record]:
    return [
        Record(row=100 + n, text=f"{n} the movie was good and long, and so is this review")
        for n in range(count)
    ]


def stream(
    records: list[Record],
    spec: PromptSpec = SPEC,
    sampling: Sampling | None = None,
    context: int = 96,
) -> PromptStream:
    return PromptStream(records, train_tokenizer(chat=True), spec, sampling or Sampling(), context)


def rows(source: PromptStream, seed: int, steps: range, size: int) -> list[int]:
    return [row for step in steps for row in source.batch(seed, step, size).rows.tolist()]


def same(a: Prompts, b: Prompts) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("rows", "samples", "ids", "mask", "min_new", "max_new")
    )


def test_field_B34_a_batch_is_a_function_of_seed_and_step() -> None:
    source = stream(texts())
    in_order = [source.batch(3, step, 4) for step in range(12)]
    for step in (7, 2, 11, 2, 0):
        assert same(stream(texts()).batch(3, step, 4), in_order[step])
        assert same(source.batch(3, step, 4), in_order[step])
    assert not same(source.batch(4, 0, 4), in_order[0])
    assert not same(source.batch(3, 0, 4, "evaluation"), in_order[0])


@pytest.mark.parametrize("size", [1, 3, 4, 10, 16])
def test_field_B34_each_epoch_has_every_record_once(size: int) -> None:
    source = stream(texts())
    steps = -(-30 // size)
    found = rows(source, 0, range(steps), size)[:30]
    epochs = [found[start : start + 10] for start in (0, 10, 20)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 110))
    assert epochs[0] != epochs[1] != epochs[2]
    assert found == rows(source, 0, range(30), 1)  # whatever the batch size


def test_lengths_fill_their_half_open_ranges() -> None:
    source = stream(texts())
    batches = [source.batch(0, step, 16) for step in range(40)]
    prompts = {n for batch in batches for n in batch.mask.sum(dim=1).tolist()}
    responses = {n for batch in batches for n in batch.max_new.tolist()}
    assert prompts == set(range(2, 8))
    assert responses == set(range(8, 16))
    assert {n for batch in batches for n in batch.min_new.tolist()} == {8}


def test_end_token_may_be_allowed_earlier() -> None:
    batch = stream(texts(), sampling=Sampling(eos_masked_before=0)).batch(0, 0, 4)
    assert batch.min_new.tolist() == [0] * 4


def test_prompts_are_the_first_tokens_padded_on_the_left() -> None:
    tokenizer = train_tokenizer()
    records = {record.row: record for record in texts()}
    batch = stream(texts()).batch(0, 0, 8)
    assert len({int(n) for n in batch.mask.sum(dim=1)}) > 1
    assert int(batch.mask.sum(dim=1).max()) == batch.ids.shape[1]
    for row, ids, mask in zip(batch.rows.tolist(), batch.ids, batch.mask, strict=True):
        length = int(mask.sum())
        whole = tokenizer(records[row].text)["input_ids"]
        assert ids[-length:].tolist() == whole[:length]
        assert (ids[:-length] == PAD_ID).all() and not mask[:-length].any() and mask[-length:].all()


def test_lengths_belong_to_the_record_and_its_epoch_not_to_its_place() -> None:
    source = stream(texts())
    by_size = []
    for size in (5, 10):
        found = {}
        for step in range(10 // size):
            batch = source.batch(0, step, size)
            found.update(zip(batch.rows.tolist(), batch.mask.sum(dim=1).tolist(), strict=True))
        by_size.append(found)
    assert by_size[0] == by_size[1]


def test_a_record_that_comes_twice_in_a_batch_gets_other_random_numbers() -> None:
    """Two identical prompts must not be answered with the same noise."""
    records = [Record(row=n, text="Q: A", prompt="Q: ", completion="A") for n in range(3)]
    batch = stream(records).batch(0, 0, 12)
    assert len(set(batch.rows.tolist())) == 3
    assert len(set(zip(batch.rows.tolist(), batch.samples.tolist(), strict=True))) == 12
    assert len(set(batch.max_new[batch.rows == batch.rows[0]].tolist())) > 1


def test_each_stream_has_response_lengths_of_its_own() -> None:
    """The same records, samples, and step: the held-out answers must not be as long as those that
    are trained on.
    """

    def lengths(name: str) -> dict[int, int]:
        batch = stream(texts()).batch(0, 0, 10, name)
        return dict(zip(batch.rows.tolist(), batch.max_new.tolist(), strict=True))

    found = [lengths(name) for name in ("rl", "evaluation", "reference")]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    assert found[0] != found[1] != found[2] != found[0]


def test_short_reviews_are_left_out_and_counted() -> None:
    records = [*texts(4), Record(row=1, text="short"), Record(row=2, text="x" * 20)]
    source = stream(records)
    assert source.dropped == {"too short for a prompt": 2}
    assert set(rows(source, 0, range(2), 2)) == {100, 101, 102, 103}


def test_no_review_is_long_enough() -> None:
    with pytest.raises(UserError, match=r"dataset\.prompt\.min_characters = 500.*lower it"):
        stream(texts(), PromptSpec(min_characters=500))


def test_no_records_at_all() -> None:
    with pytest.raises(UserError, match=r"dataset"):
        stream([]).batch(0, 0, 2)


def chat(row: int, words: int = 3) -> Record:
    turns: Any = (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "why " * words},
        {"role": "assistant", "content": "so"},
    )
    return Record(row=row, text="why\nso", messages=turns)


def test_a_conversation_goes_through_the_template() -> None:
    tokenizer = train_tokenizer(chat=True)
    text = tokenizer.decode(prompt_ids(chat(0), tokenizer, SPEC, 0))
    assert text == "<system>be brief\n<user>why why why \n<assistant>"


def test_a_conversation_without_a_template() -> None:
    with pytest.raises(UserError, match=r"the records are conversations.*no chat template"):
        prompt_ids(chat(0), train_tokenizer(), SPEC, 0)


def test_a_prompt_of_its_own_is_used_whole() -> None:
    tokenizer = train_tokenizer()
    record = Record(row=0, text="Q: long question A", prompt="Q: long question ", completion="A")
    assert tokenizer.decode(prompt_ids(record, tokenizer, SPEC, 0)) == "Q: long question "


def test_prompts_longer_than_the_context() -> None:
    few = [chat(n) for n in range(39)] + [chat(39, words=60)]
    source = stream(few)
    assert source.dropped == {"prompt longer than the context": 1} and len(source.records) == 39
    with pytest.raises(UserError) as caught:
        stream([chat(n, words=60) for n in range(10)])
    said = str(caught.value)
    assert "10 of 10 prompts" in said and "81 tokens" in said
    assert "model.context" in said and "rollout.max_new_tokens" in said


def test_the_longest_prompt_that_fits_is_kept() -> None:
    tokenizer = train_tokenizer(chat=True)
    longest = len(prompt_ids(chat(0), tokenizer, SPEC, 0))
    sampling = Sampling(min_new_tokens=1, max_new_tokens=5)  # at most 4 tokens
    assert len(stream([chat(0)], sampling=sampling, context=longest + 4).records) == 1
    with pytest.raises(UserError, match="1 of 1 prompts"):
        stream([chat(0)], sampling=sampling, context=longest + 3)


def test_prompts_above_a_named_limit_are_left_out_and_counted() -> None:
    """A choice, and no sign of bad data: nine of ten may go, but not all."""
    tokenizer = train_tokenizer(chat=True)
    longest = len(prompt_ids(chat(0), tokenizer, SPEC, 0))
    many = [
        chat(0),
        *(chat(n, words=30) for n in range(1, 7)),
        *(chat(n, 60) for n in range(7, 10)),
    ]
    source = stream(many, PromptSpec(max_prompt_tokens=longest))
    assert [record.row for record in source.records] == [0]
    assert source.dropped == {
        "prompt longer than max_prompt_tokens": 9,
        "prompt longer than the context": 0,
    }
    wide = PromptSpec(max_prompt_tokens=10_000)
    with pytest.raises(UserError, match=r"of 10 prompts leave no room.*max_prompt_tokens"):
        stream(many, wide)
    with pytest.raises(UserError) as caught:
        stream(many, PromptSpec(max_prompt_tokens=longest - 1))
    assert f"dataset.prompt.max_prompt_tokens = {longest - 1}: each of 10" in str(caught.value)
    assert f"the shortest has {longest}" in str(caught.value)


def test_the_share_of_prompts_too_long_is_taken_of_those_that_may_stay() -> None:
    """One of 10 is too much, though it is one of 100 records: the choice took the other 90."""
    spec = PromptSpec(max_prompt_tokens=300)
    short, long = [chat(n) for n in range(9)], chat(9, words=60)  # 42 and 213 tokens
    left_out = [chat(n, words=200) for n in range(10, 100)]
    assert len(stream(short + left_out, spec).records) == 9
    with pytest.raises(UserError, match="1 of 10 "):
        stream([*short, long, *left_out], spec)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"dataset\.prompt\.max_prompt_tokens = 0: must be null or"):
        PromptSpec(max_prompt_tokens=0)


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ({"min_new_tokens": 0}, "min_new_tokens = 0"),
        ({"max_new_tokens": 8}, "max_new_tokens = 8"),
        ({"max_new_tokens": 3}, "max_new_tokens = 3"),
        ({"eos_masked_before": -1}, "eos_masked_before = -1"),
        ({"temperature": 0.0}, r"temperature = 0\.0"),
        ({"chunk": 0}, "chunk = 0"),
    ],
)
def test_lengths_of_responses_out_of_range(numbers: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"rollout\.{key}: must"):
        Sampling(**numbers)
