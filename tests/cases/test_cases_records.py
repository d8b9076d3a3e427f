"""Rows 3 and 13: what values of a row become text, and what is dropped and counted instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from case_data import answers, review, write_jsonl
from case_models import CHATML, make_tokenizer
from tokencredit.data.contents import said, text_of
from tokencredit.data.dataset import Dataset
from tokencredit.data.pairs import read_pairs
from tokencredit.data.records import Dropped, Record, Unusable
from tokencredit.data.rows import records_of
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus, Splits
from tokencredit.errors import UserError

ONE = Splits(sft=1.0, reward=0.0, rl=0.0, oracle=0.0, eval=0.0)
ASKED, CALL = "Find facts.", {"type": "function", "function": {"name": "look", "arguments": "{}"}}


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def read(path: Path, layout: str, **more: Any) -> Corpus:
    settings = {"label_column": None, "splits": ONE, **more}
    return Dataset(source=Source.path, path=str(path), format=layout, **settings).read()


def one(layout: str, **row: Any) -> Record:
    """The record of one row."""
    dropped = Dropped()
    spec = Dataset(source=Source.path, path="-", format=layout, label_column=None)
    (record,) = records_of(spec.reader(), [row], dropped, None)
    assert not dropped.counts
    return record


def reasons(layout: str, **row: Any) -> dict[str, int]:
    """Why one row is dropped."""
    dropped = Dropped()
    spec = Dataset(source=Source.path, path="-", format=layout, label_column=None)
    assert records_of(spec.reader(), [row], dropped, None) == []
    return dict(dropped.counts)


def test_case_3_null_is_an_empty_turn_where_the_assistant_calls_a_tool(tmp_path: Path) -> None:
    middle = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    told = [turn("user", ASKED), middle, turn("tool", "42"), turn("assistant", "So 42.")]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": told}] * 3)
    for record in read(path, "messages").parts["sft"]:
        assert record.messages is not None
        assert [t["content"] for t in record.messages] == [ASKED, "", "42", "So 42."]
        assert "None" not in record.text
    del middle["content"]
    assert one("messages", messages=told).messages == record.messages


PARTS = [part("It was "), "love", part("ly.")]


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("messages", {"messages": [turn("user", [part("Q")]), turn("assistant", PARTS)]}),
        ("preference", {"prompt": [part("Q")], "chosen": PARTS, "rejected": [part("no")]}),
        (
            "preference",
            {
                "prompt": [turn("user", [part("Q")])],
                "chosen": [turn("assistant", PARTS)],
                "rejected": turn("assistant", [part("no")]),
            },
        ),
        ("prompt_completion", {"prompt": [part("Q")], "completion": PARTS}),
        ("text", {"text": PARTS}),
        (
            "summaries",
            {
                "info": {"post": [part("Q")]},
                "summaries": [{"text": PARTS}, {"text": [part("no")]}],
                "choice": 0,
            },
        ),
    ],
)
def test_case_3_parts_of_text_are_joined(layout: str, row: dict[str, Any]) -> None:
    record = one(layout, **row)
    assert record.answer == "It was lovely."
    assert "type" not in record.text and "{" not in record.text
    assert record.rejected in (None, "no")


def test_case_3_parts_reach_the_ids_of_pairs_as_text() -> None:
    record = one(
        "preference",
        prompt=[turn("user", [part("Q")])],
        chosen=turn("assistant", PARTS),
        rejected=turn("assistant", [part("dull")]),
    )
    tokenizer = make_tokenizer(template=CHATML)
    (pair,), _ = read_pairs([record], tokenizer, 99)
    assert tokenizer.decode(pair.chosen_ids[:-1]) == "It was lovely."
    assert tokenizer.decode(pair.rejected_ids[:-1]) == "dull"


def test_case_3_one_message_stands_for_a_list_of_one(tmp_path: Path) -> None:
    good, bad = answers(1)
    won, lost = turn("assistant", good), turn("assistant", bad)
    asked = turn("user", "Well?")
    for prompt in (asked, [asked], "Well?"):
        record = one("preference", prompt=prompt, chosen=won, rejected=lost)
        assert record.messages == (asked, won) and record.rejected == bad
    record = one("prompt_completion", prompt=asked, completion=won)
    assert record.messages == (asked, won)
    assert one("messages", messages=asked).messages == (asked,)
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"prompt": f"Film {n}?", "chosen": won, "rejected": lost} for n in range(4)],
    )
    corpus = read(path, "preference")
    assert not corpus.dropped.counts and len(corpus.parts["sft"]) == 4


SHAREGPT = [{"from": "human", "value": "Film?"}, {"from": "gpt", "value": "It was lovely."}]


def test_case_3_conversations_of_sharegpt_are_messages() -> None:
    record = one("messages", conversations=SHAREGPT)
    assert record.messages == (turn("user", "Film?"), turn("assistant", "It was lovely."))
    odd = [*SHAREGPT[:1], {"from": "observation", "value": "4"}, *SHAREGPT[1:]]
    assert reasons("messages", conversations=odd) == {"a turn of an unknown speaker": 1}


def test_case_3_a_table_of_text_holds_messages_as_json(tmp_path: Path) -> None:
    turns = [turn("user", "Film?"), turn("assistant", "It was lovely.")]
    table = tmp_path / "a.csv"
    quoted = json.dumps(turns).replace('"', '""')
    table.write_text(f'messages\n"{quoted}"\n', encoding="utf-8")
    (record,) = read(table, "messages").parts["sft"]
    assert record.messages == tuple(turns)
    assert reasons("messages", messages=repr(turns)) == {
        "a conversation written as text that is not JSON": 1
    }
    assert one("preference", prompt="Q", chosen=json.dumps(turns[1]), rejected="no").messages


IMAGE = {"type": "image_url", "image_url": {"url": "a.png"}}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "is not text but int"),
        (2.5, "is not text but float"),
        (True, "is not text but bool"),
        ({"body": "x"}, "has a part that is not text"),
        ([IMAGE, part("what?")], "has a part that is not text"),
        ([{"type": "tool_use", "text": "x"}], "has a part that is not text"),
        ([part("a"), 7], "has a part that is not text"),
        ([{"type": "text", "text": 7}], "has a part that is not text"),
    ],
)
def test_case_3_anything_else_is_dropped_and_counted(value: Any, reason: str) -> None:
    (said_why,) = reasons("text", text=value)
    assert said_why == f"text {reason}"
    (said_why,) = reasons("preference", prompt=value, chosen="a", rejected="b")
    assert said_why == f"prompt {reason}"
    for name, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if not isinstance(value, list) or IMAGE in value:
            (said_why,) = reasons("preference", **{"prompt": "Q", name: value, other: "b"})
            assert said_why == f"{name} {reason}"
    told = [turn("user", value), turn("assistant", "a")]
    assert reasons("messages", messages=told) == {f"a message {reason}": 1}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": 3, "content": "x"}, "a message without a role"),
        ({"role": "user", "text": "x"}, "a message without content"),
        ("x", "a turn that is not a message"),
    ],
)
def test_case_3_turns_that_are_none_are_counted(message: Any, reason: str) -> None:
    told = [message, turn("user", "Well?"), turn("assistant", "a")]
    assert reasons("messages", messages=told) == {reason: 1}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from strings(item)


KEYS = st.sampled_from(["type", "text", "role", "content", "from", "value", "x"])
WORDS = st.sampled_from(["text", "user", "assistant", "lovely", "bad"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_case_3_no_text_is_made_of_anything_but_text(value: Any) -> None:
    try:
        found = said(value, "chosen")
    except Unusable:
        return
    texts = [found] if isinstance(found, str) else [t["content"] for t in found]
    there = list(strings(value))
    for text in texts:
        while text:
            begun = [word for word in there if word and text.startswith(word)]
            assert begun, f"{text!r} stands nowhere in {value!r}"
            text = text.removeprefix(max(begun, key=len))  # noqa: PLW2901


@pytest.mark.parametrize("label", [1, "1", 1.0, True, "pos"])
def test_case_3_labels_may_be_any_scalar(tmp_path: Path, label: Any) -> None:
    rows = [review(n) | {"label": label if n % 2 else 0} for n in range(40)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    corpus = read(path, "text", label_column="label")
    assert {record.label for record in corpus.parts["sft"]} == {0, 1}
    assert not corpus.dropped.counts


# Row 13 -----------------------------------------------------------------------------------------

HALF = "It was \ud83d"


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        ("text", {"text": HALF}),
        ("prompt_completion", {"prompt": HALF, "completion": "a"}),
        ("prompt_completion", {"prompt": "Q", "completion": HALF}),
        ("preference", {"prompt": "Q", "chosen": HALF, "rejected": "b"}),
        ("preference", {"prompt": "Q", "chosen": "a", "rejected": HALF}),
        ("messages", {"messages": [turn("user", HALF), turn("assistant", "a")]}),
        ("messages", {"messages": [turn("user", "Q"), turn("assistant", [part(HALF)])]}),
        ("hh", {"chosen": f"\n\nHuman: Q\n\nAssistant: {HALF}",
                     "rejected": "\n\nHuman: Q\n\nAssistant: b"}),
    ],
)  # fmt: skip
def test_case_13_half_an_emoji_is_dropped_and_counted(layout: str, row: dict[str, Any]) -> None:
    assert reasons(layout, **row) == {"not valid Unicode": 1}
    whole = json.loads(json.dumps(row).replace("\\ud83d", "\\ud83d\\ude00"))
    assert "\U0001f600" in "".join(strings([*vars_of(one(layout, **whole))]))


def vars_of(record: Record) -> list[Any]:
    return [
        record.text,
        record.prompt,
        record.completion,
        record.rejected,
        list(record.messages or ()),
    ]


def test_case_13_one_row_is_counted_and_many_are_an_error(tmp_path: Path) -> None:
    rows = [review(n) for n in range(60)]
    rows[7]["text"] += " \ud83d"
    rows[8]["text"] += "\x00"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    corpus = read(path, "text", label_column="label")
    assert corpus.dropped.counts == {"not valid Unicode": 1, "a NUL character": 1}
    assert len(corpus.parts["sft"]) == 58
    with pytest.raises(UserError, match=r"2 of 60.*not valid Unicode: 1.*row 7") as caught:
        read(path, "text", label_column="label", strict=True)
    str(caught.value).encode("utf-8")
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps(rows), encoding="utf-8")
    assert read(listed, "text", label_column="label").fingerprints == corpus.fingerprints


def test_case_13_byte_order_marks_and_line_ends_are_no_text(tmp_path: Path) -> None:
    assert text_of("\ufeffgood", "text") == "good"
    lines = [json.dumps({"prompt": f"Q{n}", "chosen": "a", "rejected": "b"}) for n in range(3)]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    unix = write_jsonl(tmp_path / "b.jsonl", map(json.loads, lines))
    table = tmp_path / "a.csv"
    text = "prompt,chosen,rejected\r\n" + "".join(f"Q{n},a,b\r\n" for n in range(3))
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    prints = {read(each, "preference").fingerprints["sft"] for each in (path, unix, table)}
    assert len(prints) == 1
    told = "\r\n\r\nHuman: Q\r\n\r\nAssistant:"
    assert one("hh", chosen=f"{told} a", rejected=f"{told} b").rejected == " b"
