"""Files of one's own: every format, and every mistake with its key, value, and remedy."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from builders import write_reviews
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.files import file_rows
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.errors import UserError

EVEN = Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2)


def dataset(path: Path, **numbers: Any) -> Dataset:
    return Dataset(source=Source.path, path=str(path), splits=EVEN, **numbers)


def rows(count: int = 100) -> list[dict[str, Any]]:
    return [{"text": f"review number {n} of this film", "label": n % 2} for n in range(count)]


def write_jsonl(path: Path, items: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(item, ensure_ascii=False) for item in items]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, items: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, items[0].keys())
        writer.writeheader()
        writer.writerows(items)
    return path


def error_of(data: Dataset) -> str:
    with pytest.raises(UserError) as caught:
        data.read()
    return str(caught.value)


def all_texts(data: Dataset) -> list[str]:
    return sorted(record.text for part in data.read().parts.values() for record in part)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz", "a.jsonl.gz"])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, name: str) -> None:
    plain = tmp_path / name.removesuffix(".gz")
    (write_csv if ".csv" in name else write_jsonl)(plain, rows())
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    corpus = dataset(tmp_path / name).read()
    found = sorted((r.row, r.text, r.label) for part in corpus.parts.values() for r in part)
    assert found == [(n, f"review number {n} of this film", n % 2) for n in range(100)]


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
    items = [*rows(), {"text": text, "label": 1}]
    found = list(file_rows(write_jsonl(tmp_path / "a.jsonl", items)))
    assert len(found) == 101 and found[-1]["text"] == text
    windows = tmp_path / "b.jsonl"
    windows.write_bytes((tmp_path / "a.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    assert list(file_rows(windows)) == found


def test_quotes_line_breaks_commas_and_a_byte_order_mark_in_csv(tmp_path: Path) -> None:
    text = 'She said: "no",\nand\u2028left'
    path = write_csv(tmp_path / "a.csv", [*rows(), {"text": text, "label": 1}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(file_rows(path))[-1]["text"] == text
    assert 'She said: "no", and left' in all_texts(dataset(path))


def test_html_is_removed_unless_asked_to_stay(tmp_path: Path) -> None:
    items = [*rows(), {"text": "Good.<br /><br />  A &amp; B", "label": 1}]
    path = write_jsonl(tmp_path / "a.jsonl", items)
    assert "Good. A & B" in all_texts(dataset(path))
    assert "Good.<br /><br />  A &amp; B" in all_texts(dataset(path, plain_text=False))


@pytest.mark.parametrize(
    ("value", "label"), [("pos", 1), ("NEG", 0), (True, 1), ("false", 0), (" Positive ", 1)]
)
def test_labels_in_other_words(tmp_path: Path, value: object, label: int) -> None:
    items = [*rows(), {"text": "the one that is asked about", "label": value}]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", items)).read()
    found = [r.label for part in corpus.parts.values() for r in part if "asked" in r.text]
    assert found == [label]


def test_labels_of_ones_own(tmp_path: Path) -> None:
    items = [{"text": f"review {n}", "stars": "five" if n % 2 else "one"} for n in range(100)]
    path = write_csv(tmp_path / "a.csv", items)
    data = dataset(path, label_column="stars", positive=["five"], negative=["one"])
    assert {r.label for r in data.read().parts["sft"]} == {0, 1}


def test_prompt_and_completion(tmp_path: Path) -> None:
    items = [{"prompt": f"Q{n}? ", "completion": f"answer {n}"} for n in range(100)]
    data = dataset(
        write_jsonl(tmp_path / "a.jsonl", items), format="prompt_completion", label_column=None
    )
    record = data.read().parts["sft"][0]
    assert record.prompt == f"Q{record.row}? " and record.completion == f"answer {record.row}"
    assert record.text == record.prompt + record.completion and record.label is None


def turns(n: int, last: str = "assistant") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"question {n}"},
            {"role": last, "content": f"answer {n}"},
        ]
    }


def test_messages(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [turns(n) for n in range(100)])
    record = dataset(path, format="messages", label_column=None).read().parts["sft"][0]
    assert record.messages == tuple(turns(record.row)["messages"])
    assert record.text == f"question {record.row}\nanswer {record.row}"


def test_messages_that_do_not_end_with_the_assistant_are_dropped(tmp_path: Path) -> None:
    items = [turns(n) for n in range(100)] + [turns(100, last="user"), {"messages": "hello"}]
    path = write_jsonl(tmp_path / "a.jsonl", items)
    corpus = dataset(path, format="messages", label_column=None).read()
    assert corpus.dropped.counts == {
        "messages without a final assistant turn": 1,
        "messages is not a list of messages": 1,
    }


def test_five_percent_may_be_unusable_and_are_counted(tmp_path: Path) -> None:
    items = rows(95) + [{"text": "  ", "label": 1}] * 2 + [{"text": "odd", "label": "?"}] * 3
    path = write_jsonl(tmp_path / "a.jsonl", items)
    corpus = dataset(path).read()
    assert corpus.dropped.counts["empty text"] == 2
    assert sum(n for why, n in corpus.dropped.counts.items() if "unknown label" in why) == 3
    assert sum(len(part) for part in corpus.parts.values()) == 95
    said = error_of(dataset(path, strict=True))
    assert "5 of 100" in said and "dataset.strict=true allows none" in said
    said = error_of(dataset(write_jsonl(path, [*items, {"text": "", "label": 1}])))
    assert "6 of 101" in said and "unknown label" in said and "at most 5 %" in said


def test_unknown_labels_name_the_keys_that_help(tmp_path: Path) -> None:
    items = [{"text": f"review {n}", "label": f"class {n % 2}"} for n in range(50)]
    said = error_of(dataset(write_jsonl(tmp_path / "a.jsonl", items)))
    assert "50 of 50" in said and "a.jsonl" in said
    assert "dataset.positive" in said and "dataset.negative" in said


def test_many_different_unknown_labels_are_one_short_reason(tmp_path: Path) -> None:
    items = rows(9700) + [{"text": f"odd {n}", "label": n / 300 + 1.001} for n in range(300)]
    path = write_jsonl(tmp_path / "a.jsonl", items)
    corpus = dataset(path).read()
    assert corpus.dropped.counts.total() == 300 and len(corpus.dropped.counts) < 10
    assert len(error_of(dataset(path, strict=True))) < 600


@pytest.mark.parametrize(
    ("value", "positive"),
    [("1.0", "1.0"), (1.0, "1"), (5.0, "5.0"), ("POS", "pos"), ("pos", "POS"), ("Good", " Good")],
)
def test_labels_are_compared_as_a_person_would(
    tmp_path: Path, value: object, positive: str
) -> None:
    items = [{"text": f"review {n}", "label": value if n % 2 else "bad"} for n in range(100)]
    path = write_jsonl(tmp_path / "a.jsonl", items)
    corpus = dataset(path, positive=[positive], negative=["bad"]).read()
    assert {record.label for record in corpus.parts["sft"]} == {0, 1}


def write_bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "a.csv"
    good = write_csv(path, rows(200)).read_bytes()
    packed = gzip.compress(good)
    flipped = bytearray(packed)
    flipped[len(flipped) // 2] ^= 0xFF
    contents = {
        "empty": ("a.csv", b""),
        "blank": ("a.jsonl", b" \n \n"),
        "truncated gzip": ("a.csv.gz", packed[: len(packed) // 2]),
        "damaged gzip": ("a.csv.gz", bytes(flipped)),
        "latin-1": ("a.csv", "text,label\nun caf\xe9,1\n".encode("latin-1")),
        "utf-16": ("a.csv", good.decode().encode("utf-16")),
        "no json": ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "b", "la\n'),
        "no object": ("a.jsonl", b'{"text": "a", "label": 1}\n["b", 1]\n'),
        "half a table": ("a.parquet", b"PAR1"),
    }
    if kind == "missing":
        return tmp_path / "nowhere.csv"
    if kind == "folder":
        return tmp_path
    name, content = contents[kind]
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "there is no such file"),
        ("folder", "this is a folder, but not one that `datasets` saved"),
        ("empty", "the file is empty"),
        ("blank", "the file is empty"),
        ("truncated gzip", "truncated or damaged"),
        ("damaged gzip", "truncated or damaged"),
        ("latin-1", "byte 17 is not UTF-8; convert the file to UTF-8"),
        ("utf-16", "is not UTF-8; convert the file to UTF-8"),
        ("no json", "line 2 is not JSON"),
        ("no object", "line 2 is not a JSON object"),
        ("half a table", "the Parquet file is truncated or damaged"),
    ],
)
def test_a_bad_file_is_named_with_the_rule(tmp_path: Path, kind: str, said: str) -> None:
    path = write_bad(tmp_path, kind)
    message = error_of(dataset(path))
    assert message.startswith(f"dataset.path = {str(path)!r}: ") and said in message


def test_a_file_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "dataset.path" in error_of(dataset(tmp_path / "file" / "a.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
@pytest.mark.parametrize("column", ["text", "label"])
def test_a_missing_column(tmp_path: Path, name: str, column: str) -> None:
    items = [
        {("other" if key == column else key): value for key, value in row.items()} for row in rows()
    ]
    path = (write_csv if name == "a.csv" else write_jsonl)(tmp_path / name, items)
    said = error_of(dataset(path))
    assert str(path) in said and f"has no column {column!r}" in said and "'other'" in said
    assert f"dataset.{column}_column" in said


def test_a_missing_column_of_other_formats(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows())
    said = error_of(dataset(path, format="prompt_completion", label_column=None))
    assert "no column 'prompt'" in said and "dataset.format" in said


def test_a_header_and_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n")
    said = error_of(dataset(path))
    assert "holds no records" in said and str(path) in said


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only(tmp_path: Path, label: int) -> None:
    items = [{**row, "label": label} for row in rows()]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", items)).read()
    with pytest.raises(UserError) as caught:
        corpus.labelled("reward")
    said = str(caught.value)
    assert (
        "reward split" in said
        and f"only class {{{label}}}" in said
        and "dataset.label_column" in said
    )


def test_no_labels_at_all(tmp_path: Path) -> None:
    corpus = dataset(write_reviews(tmp_path / "a.jsonl", 100), label_column=None).read()
    with pytest.raises(UserError, match=r"no labels.*dataset\.label_column"):
        corpus.labelled("oracle")


def test_too_little_data_for_the_splits(tmp_path: Path) -> None:
    said = error_of(dataset(write_jsonl(tmp_path / "a.jsonl", rows(2))))
    assert "dataset.splits." in said and "use more data" in said


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ({"source": Source.path}, "dataset.path = None"),
        ({"source": Source.hub}, "dataset.hub = None"),
        ({"name": "imbd"}, "dataset.name = 'imbd'"),
    ],
)
def test_a_source_lacks_what_it_needs(numbers: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        Dataset(**numbers).read()


@pytest.mark.parametrize(
    ("numbers", "key"),
    [
        ({"min_tokens": 0}, "min_tokens = 0"),
        ({"min_tokens": 8, "max_tokens": 8}, "max_tokens = 8"),
        ({"min_tokens": 8, "max_tokens": 2}, "max_tokens = 2"),
        ({"min_characters": -1}, "min_characters = -1"),
    ],
)
def test_prompt_lengths_out_of_range(numbers: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=rf"dataset\.prompt\.{key}: must"):
        PromptSpec(**numbers)
