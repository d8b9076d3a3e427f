"""Splits: disjoint, deterministic, the same in any order; copies stay together."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencredit.data.dataset import Dataset
from tokencredit.data.records import Dropped, Record, normalised, plain_text, read_label
from tokencredit.data.splits import Corpus, Splits, fingerprint, group_key, split_of, split_records
from tokencredit.errors import UserError

SHARES = Splits()


def records(count: int = 600) -> list[Record]:
    return [Record(row=n, text=f"Review number {n}!", label=n % 2) for n in range(count)]


def placed(corpus: Corpus) -> dict[str, str]:
    return {record.text: name for name, part in corpus.parts.items() for record in part}


def test_splits_are_disjoint_whole_and_of_the_right_size() -> None:
    corpus = split_records(records(4000), SHARES, Dropped())
    rows = [record.row for part in corpus.parts.values() for record in part]
    assert sorted(rows) == list(range(4000))
    for name, share in (
        ("sft", 0.4),
        ("reward", 0.3),
        ("rl", 0.15),
        ("oracle", 0.1),
        ("eval", 0.05),
    ):
        error = 4 * (share * (1 - share) / 4000) ** 0.5
        assert abs(len(corpus.parts[name]) / 4000 - share) < error


def test_splits_do_not_depend_on_order_or_company() -> None:
    whole = split_records(records(), SHARES, Dropped())
    shuffled = records()
    random.Random(0).shuffle(shuffled)
    assert placed(split_records(shuffled, SHARES, Dropped())) == placed(whole)
    half = placed(split_records(records()[::2], SHARES, Dropped()))
    assert half.items() <= placed(whole).items()


def test_splits_are_the_same_in_every_process() -> None:
    keys = [f"text {n}" for n in range(12)]
    assert [split_of(key, SHARES) for key in keys] == STORED_SPLITS


STORED_SPLITS = [
    "reward",
    "eval",
    "eval",
    "sft",
    "oracle",
    "sft",
    "reward",
    "reward",
    "sft",
    "reward",
    "sft",
    "sft",
]


def test_copies_stay_together_and_are_counted() -> None:
    copies = [
        Record(row=1000 + n, text=f"  review -- NUMBER {n}… ", label=n % 2)
        for n in range(0, 600, 7)
    ]
    corpus = split_records([*records(), *copies], SHARES, Dropped())
    assert corpus.duplicates == len(copies)
    home = {normalised(record.text): name for name, part in corpus.parts.items() for record in part}
    for name, part in corpus.parts.items():
        assert all(home[normalised(record.text)] == name for record in part)
    by_raw_text = [
        (split_of(copy.text, SHARES), split_of(f"Review number {copy.row - 1000}!", SHARES))
        for copy in copies
    ]
    assert any(a != b for a, b in by_raw_text)  # without normalising, some would cross


@pytest.mark.slow
def test_duplicates_of_imdb_never_cross(imdb: Corpus) -> None:
    assert imdb.duplicates == 99
    homes: dict[str, set[str]] = {}
    for name, part in imdb.parts.items():
        for record in part:
            homes.setdefault(normalised(record.text), set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    total = sum(len(part) for part in imdb.parts.values())
    assert total - len(homes) == imdb.duplicates
    assert imdb.dropped.counts.total() == 0
    for name in ("sft", "reward", "rl", "oracle", "eval"):
        imdb.labelled(name)


@pytest.mark.slow
def test_rotten_tomatoes_is_another_data_set(imdb: Corpus) -> None:
    other = Dataset(name="rotten_tomatoes").read()
    assert other.fingerprints["sft"] != imdb.fingerprints["sft"]
    assert sum(len(part) for part in other.parts.values()) == 8530


def test_conversations_are_grouped_by_their_question() -> None:
    def chat(row: int, question: str, answer: str) -> Record:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        return Record(row=row, text=f"{question}\n{answer}", messages=turns)

    assert group_key(chat(0, "Who?", "me")) == group_key(chat(1, "who", "you"))
    assert group_key(chat(0, "Who?", "me")) != group_key(chat(1, "What?", "me"))
    first = Record(row=0, text="Q: a", prompt="Q: ", completion="a")
    assert group_key(first) == group_key(replace(first, completion="b", text="Q: b"))


def test_a_longer_part_of_a_conversation_stays_with_it() -> None:
    """By its first question, in transcripts and in messages; copies are still whole prompts."""
    turns = ["\n\nHuman: Who?", "\n\nAssistant: me", "\n\nHuman: Why?", "\n\nAssistant:"]
    short, long = turns[0] + turns[3], "".join(turns)
    pair = [Record(row=k, text=x, prompt=x, completion="a") for k, x in enumerate((short, long))]
    assert group_key(pair[0]) == group_key(pair[1])
    other = "\n\nHuman: What?" + turns[3]
    assert group_key(Record(row=2, text=other, prompt=other, completion="a")) != group_key(pair[0])

    def chat(*said: str) -> Record:
        roles = ["system", "user", "assistant", "user", "assistant"]
        own = tuple({"role": r, "content": c} for r, c in zip(roles, said, strict=False))
        return Record(row=0, text="", messages=own)

    assert group_key(chat("S", "Who?", "me")) == group_key(chat("S", "Who?", "me", "Why?", "so"))
    assert group_key(chat("S", "Who?", "me")) != group_key(chat("S", "What?", "me"))
    whole = {"sft": 1.0, "reward": 0.0, "rl": 0.0, "oracle": 0.0, "eval": 0.0}
    corpus = split_records([*pair, replace(pair[1], row=3)], Splits(**whole), Dropped())
    assert corpus.duplicates == 1


def test_fingerprint_changes_with_everything_a_record_says() -> None:
    base = records(5)
    changes = [
        {"label": 0},
        {"text": "Review number 1?"},
        {"row": 77},
        {"prompt": "x"},
        {"completion": "x"},
        {"messages": ({"role": "user", "content": "x"},)},
    ]
    prints = {fingerprint(base), fingerprint(base[::-1]), fingerprint(base[:4])}
    for change in changes:
        prints.add(fingerprint([base[0], replace(base[1], **change), *base[2:]]))  # type: ignore[arg-type]
    assert len(prints) == 3 + len(changes)
    assert fingerprint(records(5)) == fingerprint(base) == STORED_PRINT


STORED_PRINT = "d7d8fd235bf0b7c9"


def test_a_changed_label_changes_the_print_of_its_split_only() -> None:
    before = split_records(records(), SHARES, Dropped())
    changed = records()
    changed[3] = replace(changed[3], label=0)
    after = split_records(changed, SHARES, Dropped())
    home = placed(before)[changed[3].text]
    different = {
        name
        for name in before.fingerprints
        if before.fingerprints[name] != after.fingerprints[name]
    }
    assert different == {home}


@pytest.mark.parametrize(
    ("shares", "key"),
    [
        ({"sft": 0.5}, r"dataset\.splits = 1\.1: the shares must sum to 1"),
        ({"sft": -0.1}, r"dataset\.splits\.sft = -0\.1"),
        ({"eval": 1.5}, r"dataset\.splits\.eval = 1\.5"),
    ],
)
def test_shares_out_of_range(shares: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        Splits(**shares)


def test_a_split_may_be_switched_off() -> None:
    corpus = split_records(records(), Splits(oracle=0.0, sft=0.5), Dropped())
    assert corpus.parts["oracle"] == ()


@given(st.text(max_size=40))
def test_normalised_text_forgets_case_punctuation_and_space(text: str) -> None:
    once = normalised(f"a {text}")
    assert normalised(f"  ...A --- {text}?!\n") == once
    assert normalised(once) == once


def test_normalised_and_plain_by_hand() -> None:
    assert normalised("It's GREAT -- really_great!") == "it s great really great"
    assert normalised("!!!") == "!!!"
    assert plain_text(" a<br/>b<BR />c &quot;d&quot;\t\n e ") == 'a b c "d" e'
    assert [read_label(value, ["1", "pos"], ["0"]) for value in (1, "POS ", 0, None, 2)] == [
        1,
        1,
        0,
        None,
        None,
    ]


def pair(row: int, rejected: str | None) -> Record:
    return Record(
        row=row, text=f"Q{row} yes", prompt=f"Q{row}", completion=" yes", rejected=rejected
    )


def test_pairs_are_asked_of_data_that_has_them() -> None:
    everything = replace(SHARES, sft=0.0, reward=1.0, rl=0.0, oracle=0.0, eval=0.0)
    corpus = split_records([pair(n, " no") for n in range(5)], everything, Dropped())
    assert [record.rejected for record in corpus.pairs("reward")] == [" no"] * 5
    mixed = split_records([pair(0, " no"), pair(1, None)], everything, Dropped())
    with pytest.raises(UserError, match="1 of 2 records of the reward split have no rejected"):
        mixed.pairs("reward")


def test_what_was_rejected_counts_in_the_fingerprint() -> None:
    assert fingerprint([pair(0, " no")]) != fingerprint([pair(0, " never")])
    assert fingerprint([pair(0, None)]) != fingerprint([pair(0, " no")])
