"""Pairs of answers in the schemas they are published in, and every way to be of no use."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokencredit.data.dataset import Dataset
from tokencredit.data.preferences import TEMPLATE
from tokencredit.data.records import Record
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus, Objective, Splits
from tokencredit.data.transcripts import ASSISTANT, HUMAN, join, parse
from tokencredit.errors import UserError

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TOKENCREDIT_DATA", ROOT.parent / "shared" / "data"))
HH = DATA / "hh_rlhf" / "harmless_base_1800.jsonl.gz"
OWN = ROOT / "experiments" / "abc" / "summarisation"
ONE = Splits(sft=1.0, reward=0.0, rl=0.0, oracle=0.0, eval=0.0)
SMALL = Splits(sft=0.25, reward=0.25, rl=0.2, oracle=0.15, eval=0.15)


def dataset(path: Path, layout: str, **numbers: Any) -> Dataset:
    settings = {"label_column": None, "splits": ONE, **numbers}
    return Dataset(source=Source.path, path=str(path), format=layout, **settings)


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def everything(corpus: Corpus) -> list[Record]:
    records = [record for part in corpus.parts.values() for record in part]
    return sorted(records, key=lambda record: record.row)


def counts(folder: Path, layout: str, good: dict[str, Any], *bad: dict[str, Any]) -> Any:
    """What is dropped of a file with a few bad rows among enough good ones."""
    rows = [*bad, *[good] * (20 * len(bad))]
    corpus = dataset(written(folder, rows), layout).read()
    assert len(corpus.parts["sft"]) == 20 * len(bad)
    return dict(corpus.dropped.counts)


# Transcripts ------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from([HUMAN, ASSISTANT, "\n\n", "\n\nHuman", "Assistant:", " Human: "]),
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_a_transcript_that_is_parsed_and_joined_is_the_same(text: str) -> None:
    turns = parse(text)
    assert join(turns) == text
    assert all(turn.mark in {HUMAN, ASSISTANT} for turn in turns[1:])
    assert all(HUMAN not in turn.said and ASSISTANT not in turn.said for turn in turns)


def test_turns_by_hand() -> None:
    text = "\n\nHuman: Hi\n\nwho?\n\nAssistant: A: \n\nHuman: ok\n\nAssistant:"
    assert [tuple(turn) for turn in parse(text)] == [
        (HUMAN, " Hi\n\nwho?"),
        (ASSISTANT, " A: "),
        (HUMAN, " ok"),
        (ASSISTANT, ""),
    ]
    assert parse("") == [] and parse("Hello")[0].mark == ""


def hh(question: str, chosen: str, rejected: str) -> dict[str, str]:
    before = f"\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": before + chosen, "rejected": before + rejected}


def test_a_pair_of_transcripts_shares_all_but_its_last_answer(tmp_path: Path) -> None:
    row = hh("one\n\nAssistant: two\n\nHuman: three", " yes\n\nindeed", " no")
    (record,) = dataset(written(tmp_path, [row]), "hh").read().parts["sft"]
    assert record.prompt == (
        "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"  # what a policy continues
    )
    assert (record.completion, record.rejected) == (" yes\n\nindeed", " no")
    assert record.text == row["chosen"] and record.answer == " yes\n\nindeed"


def test_a_pair_of_transcripts_is_a_conversation_as_well(tmp_path: Path) -> None:
    row = hh("one\n\nAssistant: two \n\nHuman: three", " yes\n\nindeed ", " no")
    (record,) = dataset(written(tmp_path, [row]), "hh_chat").read().parts["sft"]
    assert record.asked == (
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    )
    assert (record.answer, record.rejected, record.prompt) == ("yes\n\nindeed", "no", None)
    assert counts(
        tmp_path, "hh_chat", hh("q", " x", " y"), hh("a", " x", "x "),
        {name: f"Once.{text}" for name, text in hh("a", " x", " y").items()},
    ) == {"chosen equals rejected": 1, "no Human turn at the beginning": 1}  # fmt: skip


@pytest.mark.skipif(not HH.exists(), reason=f"no {HH.name} in $TOKENCREDIT_DATA")
def test_the_shared_pairs_are_the_same_in_both_readings() -> None:
    texts, chats = (dataset(HH, name, splits=Splits()).read() for name in ("hh", "hh_chat"))
    assert texts.dropped.counts == chats.dropped.counts
    said = {record.row: record.answer.strip() for record in everything(texts)}
    assert said == {record.row: record.answer for record in everything(chats)}


def test_transcripts_of_no_use_are_counted_by_reason(tmp_path: Path) -> None:
    other = {"chosen": hh("a", " x", "")["chosen"], "rejected": hh("b", " y", "")["chosen"]}
    asks = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
        "rejected": hh("a", "", "d")["rejected"],
    }
    bad = [
        hh("a", " ", " y"),
        hh("a", " x", ""),
        hh("a", " x", "x "),
        other,
        asks,
        {"chosen": "no turns", "rejected": "none"},
    ]
    assert counts(tmp_path, "hh", hh("q", " x", " y"), *bad) == {
        "empty response": 2,
        "chosen equals rejected": 1,
        "prompts differ": 1,
        "no final Assistant turn": 2,
    }


def test_single_turns_are_a_choice_that_is_counted_apart(tmp_path: Path) -> None:
    rows = [hh(f"q {n}", " x", " y") for n in range(4)]
    rows += [hh(f"q {n}\n\nAssistant: a\n\nHuman: b", " x", " y") for n in range(9)]
    path = written(tmp_path, rows)
    corpus = dataset(path, "hh", single_turn=True, strict=True).read()
    assert [record.row for record in everything(corpus)] == [0, 1, 2, 3]
    assert corpus.dropped.filtered == {"dataset.single_turn": 9}
    assert not corpus.dropped.counts
    with pytest.raises(UserError, match=r"dataset\.single_turn = True: leaves none of 9 records"):
        dataset(written(tmp_path, rows[4:]), "hh", single_turn=True).read()


@pytest.mark.skipif(not HH.exists(), reason=f"no {HH.name} in $TOKENCREDIT_DATA")
def test_the_shared_pairs_have_four_empty_responses_and_two_differing_prompts() -> None:
    corpus = dataset(HH, "hh", splits=Splits()).read()
    assert corpus.dropped.counts == {"empty response": 4, "prompts differ": 2}
    rows = [*corpus.dropped.examples["empty response"], *corpus.dropped.examples["prompts differ"]]
    assert rows == ["row 86", "row 516", "row 925", "row 1103", "row 1254", "row 1688"]
    records = everything(corpus)
    assert len(records) == 1794
    assert all(r.prompt is not None and r.prompt.endswith(ASSISTANT) for r in records)
    home = {r.prompt: name for name, part in corpus.parts.items() for r in part}
    begun = [
        (name, whole.removesuffix(ASSISTANT))
        for whole, name in home.items()
        if whole is not None and any(o != whole and str(o).startswith(whole) for o in home)
    ]
    assert len(begun) > 20, "prompts that others go on from"
    for name, beginning in begun:
        assert {home[o] for o in home if str(o).startswith(beginning + ASSISTANT)} == {name}
    single = dataset(HH, "hh", splits=Splits(), single_turn=True).read()
    assert len(everything(single)) == 521 and single.dropped.filtered.total() == 1273


# Prompt, chosen, rejected -----------------------------------------------------------------------

GOOD = {"prompt": "Q: ", "chosen": "yes", "rejected": "no"}


def test_pairs_of_strings_in_jsonl_and_csv(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}: ", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)]
    table = tmp_path / "pairs.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for path in (written(tmp_path, rows), table):
        found = dataset(path, "preference").read().parts["sft"]
        assert [(r.prompt, r.completion, r.rejected) for r in found] == [
            (f"Q{n}: ", f"yes {n}", "no") for n in range(5)
        ]


USER, SYSTEM = {"role": "user", "content": "why"}, {"role": "system", "content": "be brief"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [SYSTEM, USER], "chosen": [said("so")], "rejected": [said("no")]},
        {"prompt": [SYSTEM, USER], "chosen": "so", "rejected": "no"},
        {"chosen": [SYSTEM, USER, said("so")], "rejected": [SYSTEM, USER, said("no")]},
        {
            "prompt": [SYSTEM, USER],
            "chosen": [SYSTEM, USER, said("so")],
            "rejected": [SYSTEM, USER, said("no")],
        },
        {
            "prompt": "a copy of it as text",
            "chosen": [SYSTEM, USER, said("so")],
            "rejected": [SYSTEM, USER, said("no")],
        },
    ],
    ids=["apart", "answers as text", "whole", "prompt twice", "prompt as text"],
)
def test_pairs_of_chat_messages_in_every_layout(tmp_path: Path, row: dict[str, Any]) -> None:
    (record,) = dataset(written(tmp_path, [row]), "preference").read().parts["sft"]
    assert record.messages == (SYSTEM, USER, said("so"))
    assert (record.rejected, record.answer, record.prompt) == ("no", "so", None)


def test_a_prompt_in_words_before_one_answer_is_what_the_user_says(tmp_path: Path) -> None:
    row = {"prompt": "why", "chosen": [said("so")], "rejected": [said("no")]}
    (record,) = dataset(written(tmp_path, [row]), "preference").read().parts["sft"]
    assert record.messages == (USER, said("so"))


def test_pairs_of_no_use_are_counted_by_reason(tmp_path: Path) -> None:
    bad = [
        {**GOOD, "prompt": ""},
        {"chosen": "yes", "rejected": "no"},
        {**GOOD, "rejected": None},
        {**GOOD, "rejected": " yes "},
        {"chosen": [USER, said("so")], "rejected": [SYSTEM, said("no")]},
        {"chosen": [USER, said("so")], "rejected": [USER]},
        {"chosen": [USER, said("so")], "rejected": [USER, said(" ")]},
        {"chosen": [USER, said("so")], "rejected": [USER, said("so")]},
        {"chosen": [], "rejected": [USER, said("so")]},
    ]
    assert counts(tmp_path, "preference", GOOD, *bad) == {
        "no prompt": 2,
        "empty response": 3,
        "chosen equals rejected": 2,
        "prompts differ": 1,
        "messages without a final assistant turn": 1,
    }


def test_pairs_may_have_labels_too(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"Q{n}", "label": n % 2} for n in range(8)]
    corpus = dataset(written(tmp_path, rows), "preference", label_column="label").read()
    assert {record.label for record in corpus.labelled("sft")} == {0, 1}
    assert corpus.objective(Objective.auto) is Objective.pairs
    assert corpus.objective(Objective.labels) is Objective.labels


def test_data_without_pairs_is_learnt_from_by_its_labels(tmp_path: Path) -> None:
    rows = [{"text": f"review {n}", "label": n % 2} for n in range(8)]
    corpus = dataset(written(tmp_path, rows), "text", label_column="label").read()
    assert corpus.objective(Objective.auto) is Objective.labels
    with pytest.raises(UserError, match="8 of 8 records of the sft split have no rejected answer"):
        corpus.pairs("sft")
    with pytest.raises(UserError, match=r"dataset\.splits\.reward.*give the split a share above 0"):
        corpus.pairs("reward")


# Summaries --------------------------------------------------------------------------------------


def post(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "info": {"id": "t3", "post": " A long day. ", "title": "Day", "subreddit": "life"},
        "summaries": [{"text": " bad", "policy": "a"}, {"text": " good\n", "policy": "b"}],
        "choice": 1,
    }
    return row | changes


def test_the_chosen_summary_follows_the_template_directly(tmp_path: Path) -> None:
    path = written(tmp_path, [post(), post(choice=0)])
    first, second = dataset(path, "summaries").read().parts["sft"]
    assert TEMPLATE == "### Text to Summarize: {post}\n ### Summary: "
    assert first.prompt == "### Text to Summarize: A long day.\n ### Summary: "
    assert (first.completion, first.rejected) == ("good", "bad")
    assert (second.completion, second.rejected) == ("bad", "good")


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    template = "r/{subreddit}: {title}\n{post}\nTL;DR: "
    (record,) = (
        dataset(written(tmp_path, [post()]), "summaries", template=template).read().parts["sft"]
    )
    assert record.prompt == "r/life: Day\nA long day.\nTL;DR: "


@pytest.mark.parametrize("template", ["Summarise: ", "{post} by {author}", "{post", "{}"])
def test_a_template_without_its_post(template: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.template = .*must contain \{post\}"):
        Dataset(template=template)


def test_summaries_of_no_use_are_counted_by_reason(tmp_path: Path) -> None:
    article = {"id": "c", "post": None, "title": None, "article": "An article of a newspaper."}
    bad = [
        post(info=article),
        post(info=None),
        post(choice=None),
        post(choice=2),
        post(summaries=[{"text": "one"}]),
        post(summaries=[{"text": " "}, {"text": "b"}]),
        post(summaries=[{"text": "b "}, {"text": " b"}]),
    ]
    assert counts(tmp_path, "summaries", post(), *bad) == {
        "no post": 2,
        "no choice between two summaries": 3,
        "empty response": 1,
        "chosen equals rejected": 1,
    }


def test_our_own_posts_are_the_same_pairs_in_both_published_schemas() -> None:
    nested = everything(dataset(OWN / "comparisons.jsonl", "summaries", splits=SMALL).read())
    flat = everything(dataset(OWN / "preference.jsonl", "preference", splits=SMALL).read())
    assert len(nested) == len(flat) == 24
    for one, other in zip(nested, flat, strict=True):
        assert other.completion == f" {one.completion}" and other.rejected == f" {one.rejected}"
