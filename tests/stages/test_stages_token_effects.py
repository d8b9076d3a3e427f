"""The advantages of tokens that the advantage model's stage leaves: whose, where, and of what class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import train_tokenizer
from built_stages import build, furnish, stage_of
from tokencredit.data.pairs import as_rollout, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.data.word_classes import shipped_classes
from tokencredit.errors import UserError
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.models.advantage import open_advantages
from tokencredit.models.loading.model import Model
from tokencredit.papers.token_classes import ADVANTAGES, HEAD, class_means
from tokencredit.settings import PairSource
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.context import Context
from tokencredit.stages.token_effects import Told, spans_of, told_of, write_effects
from tokencredit.store.files import csv_rows

pytestmark = pytest.mark.xdist_group("advantages")  # one process, which trains the stage once


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("effects"))


def stage(place: Path, **settings: Any) -> AdvantageStage:
    config = stage_of("advantage model", place, place / "store").context.config
    assert isinstance(config.judge, AdvantageJudge)
    return AdvantageStage(Context(replace(config, judge=replace(config.judge, **settings))))


def pair(row: int, chosen: str = " It was good.", rejected: str = " It was bad.") -> Record:
    return Record(row=row, text="", prompt="The film.", completion=chosen, rejected=rejected)


def test_the_stage_leaves_the_advantages_of_the_first_answers(place: Path) -> None:
    """Every token of both answers of each held-out pair but the end token, as the judge says it."""
    one = stage(place)
    artifact = build(one)
    lines = [line for _, line in csv_rows(artifact.path / ADVANTAGES)]
    assert tuple(lines[0]) == HEAD and artifact.manifest["figures"]["effects"] == 8
    records = {record.row: record for record in one.records("held_out")}
    assert {int(line["row"]) for line in lines} == set(records)
    tokenizer = train_tokenizer()
    model = open_advantages(
        artifact.path, one.made("sft"), tokenizer, Model(context=96), device="cpu"
    )
    ids = TokenIds(tokenizer)
    for row, record in records.items():
        (found,), _ = read_pairs([record], ids, 96)
        for name, said, text in (
            ("chosen", found.chosen_ids, record.answer),
            ("rejected", found.rejected_ids, str(record.rejected)),
        ):
            own = [line for line in lines if (int(line["row"]), line["answer"]) == (row, name)]
            assert [int(line["position"]) for line in own] == list(range(len(said) - 1))
            spelt = "".join(text[int(line["start"]) : int(line["end"])] for line in own)
            assert spelt == text
            with torch.no_grad():
                expected = model.own(as_rollout([found.prompt_ids], [said], 1))[0][0, :-1]
            values = torch.tensor([float(line["advantage"]) for line in own])
            assert torch.allclose(values, expected, atol=2e-6)
    assert any(float(line["advantage"]) for line in lines)
    assert class_means(artifact.path / ADVANTAGES)["other"].keys() == set(records)


def test_a_limit_and_none_and_sampled_pairs(place: Path, capsys: Any) -> None:
    few = build(stage(place, effects=3))
    lines = [line for _, line in csv_rows(few.path / ADVANTAGES)]
    assert len({line["row"] for line in lines}) == few.manifest["figures"]["effects"] == 3
    assert few.manifest["figures"]["effects_noted"] == {"beyond judge.effects": 5}
    assert "3 held-out pairs, 5 left out: beyond judge.effects" in capsys.readouterr().err
    none = build(stage(place, effects=0))
    assert not (none.path / ADVANTAGES).exists()
    assert "effects" not in none.manifest["figures"]
    config = stage(place).context.config
    sampled = replace(config, dpo=replace(config.dpo, pairs=PairSource.sampled))
    assert not {"effects", "word_classes"} & AdvantageStage(Context(sampled)).inputs().keys()
    with pytest.raises(UserError, match=r"judge.effects = -1"):
        AdvantageJudge(effects=-1)


def test_the_list_of_words_is_an_input(place: Path) -> None:
    assert stage(place).inputs()["word_classes"] == shipped_classes().fingerprint
    assert "word_classes" not in stage(place, effects=0).inputs()


def test_whose_tokens_there_are() -> None:
    """One pair a row, whole, of answers that their tokens spell."""
    ids = TokenIds(train_tokenizer())
    records = [
        pair(1),
        pair(1, rejected=" It was dull."),
        pair(2, chosen=" good" * 60),
        pair(2),  # else it would be shown with the text of the one before it
        pair(3, rejected=" It was good."),
        pair(4),
        pair(5),
    ]
    told, noted = told_of(records, ids, longest=40, most=2)
    assert [one.row for one, _ in told] == [1, 4]
    assert [other.answer for _, other in told] == ["rejected", "rejected"]
    assert noted == {
        "a further pair of its row": 2,
        "unusable or too long": 2,
        "beyond judge.effects": 1,
    }


def test_where_tokens_stand_in_a_text() -> None:
    """Leading spaces, letters of several bytes, and the end token; a text that is another."""
    ids = TokenIds(train_tokenizer())
    text = " Caf\u00e9 \u4f60 good.  "
    said = ids.answer(ids.begin(pair(1)), text).ids
    spans = spans_of(ids.tokenizer, said, text)
    assert spans is not None and len(spans) == len(said)
    assert "".join(text[start:end] for start, end in spans) == text
    assert spans[-1] == (len(text), len(text)), "the end token has no character"
    inside = text.strip()
    moved = spans_of(ids.tokenizer, said, inside)
    assert moved is not None
    assert "".join(inside[start:end] for start, end in moved) == inside
    assert spans_of(ids.tokenizer, said, text + "x") is None


def test_tokens_get_the_classes_of_their_words() -> None:
    """By letters: the space before a word is its own token's, and a phrase has all its tokens."""
    text = " I'm not sure"
    told = Told(
        7, "chosen", [1], [5, 6, 7, 8, 0], text, [(0, 4), (4, 8), (8, 10), (10, 13), (13, 13)]
    )
    lines = list(told.lines(shipped_classes(), [0.125, -1.0, 2.0, 1 / 3, 9.0]))
    assert [line[5] for line in lines] == ["other", "avoiding", "avoiding", "avoiding"]
    assert lines[0] == [7, "chosen", 0, 0, 4, "other", "0.125"]
    assert lines[3] == [7, "chosen", 3, 10, 13, "avoiding", "0.333333"]


def test_an_advantage_that_is_no_number_is_refused(tmp_path: Path) -> None:
    class Broken:
        head = type("Head", (), {"up": torch.zeros(1)})

        def own(self, rollout: Any, filler: int) -> torch.Tensor:
            del filler
            return torch.full(rollout.response_ids.shape, float("nan"))

    ids = TokenIds(train_tokenizer())
    told, noted = told_of([pair(1)], ids, 60, 5)
    with pytest.raises(UserError, match=r"advantage: .* not finite"):
        write_effects(Broken(), told, noted, 1, tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / ADVANTAGES).exists()
