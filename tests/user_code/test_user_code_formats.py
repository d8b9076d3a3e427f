"""A format of data in a plug-in: the page's file, its keys, and what a wrong one is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from case_plans import refusal, small
from case_runs import key_of
from tokencredit.config import load_plugins
from tokencredit.data.dataset import FORMATS, Dataset
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus
from tokencredit.errors import UserError
from tokencredit.pipeline.pipeline import execute
from tokencredit.store.artifacts import MANIFEST
from tokencredit.user_code.plugins import plugin_identity

PAGE = Path(__file__).parents[2] / "docs" / "write-a-format.md"
QUICK = [
    "algorithm=sft", "dataset=pairs", "dataset.format=votes", "dataset.splits={sft:0.7,reward:0.1,rl:0.1,oracle:0.05,eval:0.05}",
    "sft.max_tokens=400", "sft.batch_size=4", "oracle.enabled=false",
]  # fmt: skip


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """The file of the page, imported as `--plugin` does."""
    (text,) = re.findall(r"```python\n# votes.py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "votes.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """The row of the page, and more like it; two of 90 have no worse answer."""
    (first,) = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    row = json.loads(first)
    rows = [row | {"question": f"{row['question']} {n}"} for n in range(88)]
    rows += [row | {"question": f"Alone {n}", "answers": row["answers"][:1]} for n in range(2)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def read(path: Path, **settings: Any) -> Corpus:
    """The records of a file without labels."""
    given = {"format": "votes", "label_column": None, **settings}
    return Dataset(source=Source.path, path=str(path), **given).read()


def test_the_file_of_the_page_reads_pairs(votes: Path, questions: Path) -> None:
    load_plugins([str(votes)])
    corpus = read(questions)
    records = sorted(corpus.records(), key=lambda record: record.row)
    assert [record.row for record in records] == list(range(88))
    assert records[3].prompt == "Is it worth seeing? 3"
    assert (records[3].completion, records[3].rejected) == ("Twice.", "No.")
    assert corpus.dropped.counts == {"no answer has fewer votes than another": 2}


def test_a_format_is_part_of_the_keys_of_runs_that_use_it(
    votes: Path, questions: Path, tmp_path: Path
) -> None:
    load_plugins([str(votes)])
    named = f"plugins=[{votes}]"
    own = small(tmp_path, named, f"dataset.path={questions}", *QUICK)
    before = key_of(own, "sft")
    assert before["inputs"]["plugins"] == plugin_identity([str(votes)])
    assert before["inputs"]["format"] == "votes"
    assert "plugins" not in key_of(small(tmp_path, named, "algorithm=sft"), "sft")["inputs"]
    votes.write_text(votes.read_text("utf-8") + "\n# edited\n", encoding="utf-8")
    assert key_of(own, "sft") != before


@pytest.mark.slow
def test_a_stage_learns_from_the_records_of_the_page(
    votes: Path, questions: Path, tmp_path: Path
) -> None:
    """SFT in a process of its own, which imports the plug-in itself."""
    load_plugins([str(votes)])
    config = small(tmp_path, f"plugins=[{votes}]", f"dataset.path={questions}", *QUICK)
    execute(config)
    (manifest,) = (tmp_path / "store" / "sft").glob(f"*/{MANIFEST}")
    assert json.loads(manifest.read_text("utf-8"))["figures"]["steps"] > 0


def test_an_unknown_format_is_told_the_known_ones(tmp_path: Path) -> None:
    said = refusal(tmp_path, "dataset.format=mesages")
    assert said.startswith("dataset.format = 'mesages': there is no such format, did you mean")
    for part in ("'messages'", "prompt_completion", "ranked", "--plugin"):
        assert part in said


WRONG = {
    "raises": ("{}['k']", "raised KeyError: 'k' ("),
    "ends": ("exit()", "raised SystemExit"),
    "none": ("return [None]", "gave a value of type NoneType; give Record"),
    "no list": ("return 3", "raised TypeError"),
    "another row": ("return [pair(number + 1, 'a', 'b', 'c')]", "the record has row = 1"),
    "no pair": ("return [Record(row=number, text='ab', prompt='a', completion='b')]", "rejected is None"),
    "no text": ("return [Record(row=number, text='a', prompt='a', completion=1, rejected='b')]", "no text"),
    "no prompt": ("return [Record(row=number, text='a', rejected='b')]", "prompt is None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_a_format_of_ones_own_does_ends_in_one_line(
    kind: str, votes: Path, questions: Path
) -> None:
    body, wanted = WRONG[kind]
    text = votes.read_text("utf-8")
    text = text.replace("import Unusable", "import Record, Unusable")
    begun = text.partition("        best, *others")[0] + f"        {body}\n"
    votes.write_text(begun + '\n\nregister_component("format", Votes)\n', encoding="utf-8")
    load_plugins([str(votes)])
    with pytest.raises(UserError) as found:
        read(questions)
    said = str(found.value)
    assert said.startswith(f"dataset.format = 'votes' (of {votes})") and wanted in said
    assert "\n" not in said and (kind == "ends" or "row 0" in said)


def test_a_row_that_lacks_a_column_is_refused(votes: Path, tmp_path: Path) -> None:
    load_plugins([str(votes)])
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "Q", "replies": []}\n', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"no column 'answers'; it has 'question', 'replies'.*votes"
    ):
        read(path)


BODY = "    columns = ('a',)\n    def records(self, number, row): return []\n"
UNFIT = {
    "built-in": ("Text(Format)", BODY, "the name of the built-in class tokencredit.data.rows.Text"),
    "as a built-in": ("text(Format)", BODY, "would call it 'text', as it does Text"),
    "no format": ("Other", BODY, "derive it from tokencredit.data.formats.Format"),
    "no records": ("Other(Format)", "    columns = ('a',)\n", "define records(self, number, row)"),
    "no columns": ("Other(Format)", BODY.partition("\n")[2], "columns is None; give it a tuple"),
    "one column": ("Other(Format)", BODY.replace("('a',)", "'a'"), "columns is 'a'; give it"),
    "no holds": (
        "Other(Format)",
        f"    holds = 'pairs'\n{BODY}",
        "holds is 'pairs'; give it one of",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_format_that_cannot_be_registered(kind: str, tmp_path: Path) -> None:
    head, body, said = UNFIT[kind]
    path = tmp_path / "mine.py"
    path.write_text(
        "from tokencredit.config import register_component\n"
        "from tokencredit.data.formats import Format\n"
        f"class {head}:\n{body}\n"
        f"register_component('format', {head.partition('(')[0]})\n"
    )
    before = list(FORMATS)
    with pytest.raises(UserError, match=re.escape(said)) as found:
        load_plugins([str(path)])
    assert before == FORMATS and str(path) in str(found.value)
