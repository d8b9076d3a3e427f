"""The stage of revisions with the backends that ask nobody: lexical, chosen, and file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import train_tokenizer
from dpo_places import corpus_of, pair_records, place, text_records
from tokencredit.data.edits import targets
from tokencredit.data.revisions import Contest, Flaw, Revision, record_of
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.reviser_settings import Backend, Reviser, RevisingEndpoint
from tokencredit.settings import DPO, PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.revisers import checked
from tokencredit.stages.revisions import RevisionsStage, counted
from tokencredit.store.artifacts import Artifact
from tokencredit.store.jsonl import read_jsonl


def context(folder: Path, **settings: Any) -> Context:
    found = place(folder, DPO(learning_rate=1e-3))
    found.config.reviser = Reviser(**settings)
    return found


def build(found: Context) -> Artifact:
    return found.store.build(RevisionsStage(found))


def test_the_list_makes_bad_answers_good(tmp_path: Path) -> None:
    artifact = build(context(tmp_path, max_edit_ratio=1.0, held_out=5))
    rows, held_out = (
        read_jsonl(artifact.path / f"{name}.jsonl") for name in ("revisions", "held_out")
    )
    assert (len(rows), len(held_out)) == (24, 5)
    assert rows[0] == {
        "row": 0,
        "prompt": "movie 0 was",
        "chosen": " good and wonderful",
        "rejected": " bad and awful",
        "revised": " good and wonderful",
        "reason": None,
    }
    assert rows[2]["revised"] == " the plot was good"
    assert all(row["row"] >= 100 for row in held_out)
    figures = artifact.manifest["figures"]
    # two of three words in one half of the answers, one of four in the other
    assert figures["revisions/edit_ratio"] == pytest.approx((2 / 3 + 1 / 4) / 2)
    bins = {name: count for name, count in figures["revisions/edit_ratios"].items() if count}
    assert bins == {"0.2-0.3": 12, "0.6-0.7": 12}


def test_a_list_of_ones_own_is_read(tmp_path: Path) -> None:
    words = tmp_path / "words.tsv"
    words.write_text("# mine\nadjective\tbad\tspeckled\n", encoding="utf-8")
    artifact = build(context(tmp_path, words=str(words), limit=3))
    rows = read_jsonl(artifact.path / "revisions.jsonl")
    assert [row["revised"] for row in rows] == [
        " speckled and awful",
        " speckled and awful",
        " the plot was speckled",
    ]


def test_what_is_over_edited_is_dropped_and_counted(tmp_path: Path) -> None:
    figures = build(context(tmp_path, limit=8)).manifest["figures"]
    assert (figures["revisions/pairs"], figures["revisions/kept"]) == (8, 4)
    assert figures["revisions/dropped"] == {"over-edited": 4}


def test_the_chosen_answer_is_the_control_however_much_it_differs(tmp_path: Path) -> None:
    artifact = build(context(tmp_path, backend=Backend.chosen, max_edit_ratio=0.01))
    rows = read_jsonl(artifact.path / "revisions.jsonl")
    assert len(rows) == 24 and all(row["revised"] == row["chosen"] for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_revisions_of_ones_own_and_every_way_to_be_none(tmp_path: Path) -> None:
    pair = {"prompt": "movie 2 was", "rejected": "the plot was bad"}
    good = {**pair, "revised": "the plot was fine", "reason": "kinder"}
    others = [
        {"prompt": "movie 3 was", "rejected": "the plot was bad", "revised": "the plot was bad"},
        {"prompt": "movie 6 was", "rejected": "the plot was bad", "revised": ""},
        {"prompt": "movie 7 was", "rejected": "the plot was bad", "revised": "сюжет был хорош"},
        {"prompt": "movie 10 was", "rejected": "the plot was bad", "revised": "I like cats"},
    ]
    file = write(tmp_path / "own.jsonl", [good, *others])
    artifact = build(context(tmp_path, backend=Backend.file, file=file, limit=11))
    rows = read_jsonl(artifact.path / "revisions.jsonl")
    assert [(row["row"], row["revised"], row["reason"]) for row in rows] == [
        (2, " the plot was fine", "kinder")
    ]
    assert artifact.manifest["figures"]["revisions/dropped"] == {
        "not in the file": 6,
        "identical": 1,
        "empty": 1,
        "another language": 1,
        "over-edited": 1,
    }


def test_its_own_result_is_such_a_file(tmp_path: Path) -> None:
    first = build(context(tmp_path, max_edit_ratio=1.0))
    path = str(first.path / "revisions.jsonl")
    again = build(context(tmp_path, backend=Backend.file, file=path, max_edit_ratio=1.0))
    assert read_jsonl(again.path / "revisions.jsonl") == read_jsonl(Path(path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x", "rejected": "y"}, "row 1 has no column revised"),
        ({"prompt": "x", "rejected": "y", "revised": 3.5}, "row 1: revised"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    file = write(tmp_path / "own.jsonl", [row])
    with pytest.raises(UserError, match=said):
        build(context(tmp_path, backend=Backend.file, file=file))


def test_nothing_left_is_an_error_with_the_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "own.jsonl", [{"prompt": "x", "rejected": "y", "revised": "z"}])
    with pytest.raises(UserError, match=r"no revision is left of 24 pairs.*not in the file"):
        build(context(tmp_path, backend=Backend.file, file=file))


def test_records_that_are_no_pairs_are_an_error_that_names_a_remedy(tmp_path: Path) -> None:
    found = context(tmp_path)
    vars(found)["corpus"] = corpus_of(reward=text_records(8))
    with pytest.raises(UserError, match=r"reviser\.pairs=sampled"):
        RevisionsStage(found).inputs()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"backend": Backend.file}, r"reviser\.file"),
        ({"backend": Backend.endpoint}, r"reviser\.endpoint\.base_url"),
        (
            {
                "backend": Backend.endpoint,
                "endpoint": RevisingEndpoint(base_url="ftp://x", model="m"),
            },
            r"reviser\.endpoint\.base_url = 'ftp://x'",
        ),
        ({"max_edit_ratio": 0.0}, r"reviser\.max_edit_ratio"),
        ({"limit": 0}, r"reviser\.limit"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Reviser(**settings)


@pytest.mark.parametrize("name", ["words", "file"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    backend = Backend.lexical if name == "words" else Backend.file
    found = context(tmp_path, backend=backend, **{name: str(tmp_path / "none")})
    with pytest.raises(UserError, match=rf"reviser\.{name}"):
        RevisionsStage(found).inputs()


def test_the_key_follows_what_the_backend_reads_and_nothing_else(tmp_path: Path) -> None:
    base = RevisionsStage(context(tmp_path)).key
    words = tmp_path / "words.tsv"
    words.write_text("adjective\tbad\tgood\nadjective\tawful\tfine\n", encoding="utf-8")
    changed = [
        {"max_edit_ratio": 0.4},
        {"limit": 3},
        {"held_out": 3},
        {"backend": Backend.chosen},
        {"words": str(words)},
    ]
    same: list[dict[str, Any]] = [
        {"max_tokens": 77},
        {"temperature": 0.5},
        {"endpoint": RevisingEndpoint(price_in=3.0, model="m")},
    ]
    keys = [RevisionsStage(context(tmp_path, **each)).key for each in changed]
    assert len({base, *keys}) == len(changed) + 1
    assert {RevisionsStage(context(tmp_path, **each)).key for each in same} == {base}
    other = context(tmp_path)
    vars(other)["corpus"] = corpus_of(reward=pair_records(25), eval=pair_records(12, start=100))
    assert RevisionsStage(other).key != base


def test_sampled_pairs_are_those_of_dpo(tmp_path: Path) -> None:
    found = context(tmp_path, pairs=PairSource.sampled, limit=2)
    stage = RevisionsStage(found)
    (parent,) = stage.parents().values()
    assert parent.name == "sampled_pairs"
    folder = found.store.folder(parent)
    folder.mkdir(parents=True)
    rows = [
        {"row": n, "prompt": "so", "chosen": " good", "rejected": f" bad {n}", "prompt_ids": [n]}
        for n in range(4)
    ]
    write(folder / "train.jsonl", rows)
    write(folder / "held_out.jsonl", rows)
    (folder / "manifest.json").write_text(json.dumps({"sha256": {}}), encoding="utf-8")
    assert [c.rejected for c in stage.contests("revisions")] == [" bad 0", " bad 1"]
    assert len(stage.contests("held_out")) == 4


def test_labels_of_a_row_stand_beside_the_ids_in_context(tmp_path: Path) -> None:
    rows = read_jsonl(build(context(tmp_path)).path / "revisions.jsonl")
    ids = TokenIds(train_tokenizer())
    record = record_of(rows[0])
    begun = ids.begin(record)
    assert record.rejected is not None
    sides = [ids.answer(begun, text).ids for text in (record.rejected, record.answer)]
    before, after = targets(*sides)
    assert (len(before), len(after)) == (len(sides[0]), len(sides[1]))
    assert 0.0 in before and 1.0 in after and before[-1] == after[-1] == 0.5


def test_figures_by_hand() -> None:
    contests = [Contest(row=n, prompt="", chosen="", rejected="a b c d") for n in range(3)]
    found: list[Revision | Flaw] = [Revision("a b c x"), Revision("w x y z"), Flaw.cut]
    figures = counted(contests, found)
    assert (figures["pairs"], figures["kept"]) == (3, 2)
    assert figures["dropped"] == {"cut off": 1}
    assert figures["edit_ratio"] == pytest.approx((1 / 4 + 1) / 2)
    bins = figures["edit_ratios"]
    assert isinstance(bins, dict) and (bins["0.2-0.3"], bins["0.9-1.0"]) == (1, 1)


def test_a_control_is_dropped_only_where_it_is_no_other_text() -> None:
    pair = Contest(row=0, prompt="", chosen="", rejected="It was bad.")
    assert checked(pair, Revision("It was bad."), None) is Flaw.identical
    assert checked(pair, Revision("Nothing like it, but"), None) == Revision("Nothing like it, but")
    assert checked(replace(pair, rejected=" x"), Revision("y"), 1.0) == Revision(" y")
