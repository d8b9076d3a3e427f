"""Row 17: several rejected answers, ranked answers, and margins."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from builders import tiny_classifier, train_tokenizer
from case_data import answers, write_jsonl
from preferences import furnish_pairs, pair_config, pair_row
from tokencredit.algorithms.procedure import PreferenceOnly
from tokencredit.data.dataset import Dataset
from tokencredit.data.pairs import read_pairs
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus, Splits
from tokencredit.errors import UserError
from tokencredit.ops import pair_loss
from tokencredit.pipeline.pipeline import plan
from tokencredit.settings import Oracle, RewardModel
from tokencredit.stages.context import Context
from tokencredit.stages.oracle import OracleStage, fit_pairs
from tokencredit.stages.preference_model import reward_trainer
from tokencredit.stages.sft import answered_once
from tokencredit.stages.trainer import trainer_settings

ONE = Splits(sft=1.0, reward=0.0, rl=0.0, oracle=0.0, eval=0.0)
EVEN = Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2)


def dataset(path: Path, layout: str, **more: Any) -> Dataset:
    settings = {"label_column": None, "splits": ONE, **more}
    return Dataset(source=Source.path, path=str(path), format=layout, **settings)


def pairs_of(corpus: Corpus) -> list[tuple[str, str]]:
    return [(record.answer, record.rejected or "") for record in corpus.parts["sft"]]


# Several answers --------------------------------------------------------------------------------

TURN = {"role": "user", "content": "Q"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "a", "rejected": ["b", "c"]},
        {"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"]},
        {"prompt": [TURN], "chosen": "a", "rejected": ["b", "c"]},
        {"prompt": [TURN], "chosen": [said("a")], "rejected": [said("b"), said("c")]},
        {"chosen": [TURN, said("a")], "rejected": [[TURN, said("b")], [TURN, said("c")]]},
        {"prompt": "Q", "chosen": said("a"), "rejected": [[said("b")], said("c")]},
    ],
)
def test_case_17_each_rejected_answer_makes_a_pair(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    corpus = dataset(path, "preference").read()
    assert pairs_of(corpus) == [("a", "b"), ("a", "c")]
    assert {record.row for record in corpus.parts["sft"]} == {0}
    assert [record.answer for record in answered_once(corpus.parts["sft"])] == ["a"]


def test_case_17_pairs_of_one_row_are_counted_one_by_one(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": ["b", "a", ""]}
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    path = write_jsonl(tmp_path / "a.jsonl", [row, *[good] * 60])
    corpus = dataset(path, "preference").read()
    assert corpus.dropped.counts == {"chosen equals rejected": 1, "empty response": 1}
    with pytest.raises(UserError, match="2 of 63 records are unusable"):
        dataset(path, "preference", strict=True).read()


@pytest.mark.parametrize(
    "row",
    [
        {"responses": ["w", "x", "y", "z"], "scores": [0.5, 3, -1, 0.5]},
        {"answers": ["w", "x", "y", "z"], "ranks": [2, 1, 3, 2]},
        {"completions": [said(t) for t in "wxyz"], "rank": [2, 1, 3, 2]},
        {"answers": [[TURN, said(t)] for t in "wxyz"], "score": [1, 2, 0, 1]},
        {"answers": json.dumps([*"wxyz"]), "scores": "[0.5, 3, -1, 0.5]"},  # as a CSV has lists
    ],
)
def test_case_17_ranked_answers_become_every_pair_of_different_rank(
    row: dict[str, Any], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Q", **row}])
    corpus = dataset(path, "ranked").read()
    assert pairs_of(corpus) == [*[("x", t) for t in "wzy"], ("w", "y"), ("z", "y")]
    assert [record.answer for record in answered_once(corpus.parts["sft"])] == ["x"]


def test_case_17_ranks_that_say_nothing_are_counted(tmp_path: Path) -> None:
    good = {"prompt": "Q", "answers": ["a", "b"], "ranks": [1, 2]}
    bad = [
        {**good, "ranks": [1, 1]},
        {**good, "ranks": [1]},
        {**good, "ranks": [1, "best"]},
        {**good, "ranks": [1, None]},
        {**good, "ranks": [1, True]},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [*bad, *[good] * 100])
    assert dataset(path, "ranked").read().dropped.counts == {
        "no answer ranks before another": 1,
        "answers and their ranks differ in number": 1,
        "a rank is not a number": 3,
    }
    path = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "Q", "answers": ["a"]}])
    with pytest.raises(UserError, match="has no column 'ranks' or 'rank' or 'scores' or 'score'"):
        dataset(path, "ranked").read()


def test_case_17_all_pairs_of_a_prompt_are_in_one_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Film {n}?", "chosen": answers(n)[0], "rejected": [answers(n)[1], "Meh.", "No."]}
        for n in range(80)
    ]  # fmt: skip
    rows += [{**row, "chosen": "Yes."} for row in rows]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", rows), "preference", splits=EVEN).read()
    home: dict[str | None, set[str]] = {}
    for name, part in corpus.parts.items():
        for record in part:
            home.setdefault(record.prompt, set()).add(name)
    assert len(home) == 80 and all(len(names) == 1 for names in home.values())
    assert sum(map(len, corpus.parts.values())) == 480


# Margins ----------------------------------------------------------------------------------------


def with_margins(count: int = 60) -> list[dict[str, Any]]:
    return [pair_row(n) | {"margin": float(n % 3)} for n in range(count)]


def test_case_17_margins_are_read_and_bad_ones_counted(tmp_path: Path) -> None:
    bad = ["wide", True, -1, math.nan, [1, 2]]
    rows = [pair_row(0) | {"margin": value} for value in (*bad, 2, "1.5", 0, None, "")]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, *with_margins(100)])
    corpus = dataset(path, "preference").read()
    assert [record.margin for record in corpus.parts["sft"]][:5] == [2.0, 1.5, 0.0, None, None]
    assert corpus.dropped.counts == {
        "margin is not a number": 3,
        "margin is negative": 1,
        "margins and pairs differ in number": 1,
    }
    several = {"prompt": "Q", "chosen": "a", "rejected": ["b", "c"]}
    for name, gap in {"list": [0.5, 2], "text": "[0.5, 2]"}.items():
        path = write_jsonl(tmp_path / f"{name}.jsonl", [several | {"gap": gap}])
        corpus = dataset(path, "preference", margin_column="gap").read()
        assert [record.margin for record in corpus.parts["sft"]] == [0.5, 2.0]


def test_case_17_margins_enter_fingerprints_only_where_there_are_some(tmp_path: Path) -> None:
    def prints(rows: list[dict[str, Any]], **more: Any) -> str:
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        return dataset(path, "preference", **more).read().fingerprints["sft"]

    plain = prints([pair_row(n) for n in range(60)])
    assert prints(with_margins()) != plain
    assert prints(with_margins(), margin_column=None) == plain
    assert prints([row | {"margin": None} for row in with_margins()]) == plain


@pytest.mark.parametrize(("margin", "loss"), [(0.0, 0.554355), (1.0, 1.103186), (2.5, 2.305083)])
def test_case_17_the_loss_of_a_margin_by_hand(margin: float, loss: float) -> None:
    """-log sigmoid(1.0 - 0.7 - m), computed with a pocket calculator."""
    pair = torch.tensor([1.0]), torch.tensor([0.7])
    assert pair_loss(*pair, margin).item() == pytest.approx(loss, abs=1e-6)
    assert math.log1p(math.exp(margin - 0.3)) == pytest.approx(loss, abs=1e-6)


def test_case_17_the_trainer_takes_the_margins(tmp_path: Path) -> None:
    """RewardTrainer's loss of a batch is that of the scores of the model by hand."""
    path = write_jsonl(tmp_path / "a.jsonl", with_margins(6))
    records = dataset(path, "preference").read().parts["sft"]
    tokenizer = train_tokenizer()
    pairs, _ = read_pairs(records, tokenizer, 90)
    assert [pair.margin for pair in pairs] == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    settings = trainer_settings(RewardModel(learning_rate=1e-3), tmp_path, 0, True, 1)

    def losses(pairs: Any) -> tuple[float, torch.Tensor]:
        model = tiny_classifier(num_labels=1).eval()
        trainer = reward_trainer(model, tokenizer, pairs, settings, None)
        # Through the trainer's own loader, which must let the column pass.
        batch = next(iter(trainer.get_train_dataloader()))
        found = batch.pop("margin", torch.zeros(len(pairs)))
        batch["margin"] = found
        with torch.no_grad():
            scores = model(batch["input_ids"], batch["attention_mask"]).logits.flatten()
            loss = float(trainer.compute_loss(model, dict(batch)))
        won, lost = scores.chunk(2)
        assert loss == pytest.approx(float(-logsigmoid(won - lost - found).mean()), abs=1e-6)
        return loss, found

    with_them, found = losses(pairs)
    assert sorted(found.tolist()) == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    without, found = losses([replace(pair, margin=None) for pair in pairs])
    assert not found.any() and with_them > without + 0.3


def test_case_17_the_oracle_learns_margins_too(tmp_path: Path) -> None:
    """A pair that is to win by 3 is held further apart than one that is to win by nothing."""
    settings = Oracle(buckets=1024, epochs=300, l2=0.0)
    better, worse = [[1], [2]], [[3], [4]]

    def gaps(margins: list[float]) -> list[float]:
        oracle = fit_pairs(better, worse, settings, 0, margins)
        with torch.no_grad():
            return (oracle(better) - oracle(worse)).tolist()

    plain, wide = gaps([]), gaps([0.0, 3.0])
    assert plain == gaps([0.0, 0.0]) and wide[0] == pytest.approx(plain[0], abs=1e-6)
    assert wide[1] > plain[1] + 0.5
    path = write_jsonl(tmp_path / "pairs.jsonl", with_margins())
    place = tmp_path / "place"
    place.mkdir()
    config = pair_config(furnish_pairs(place))
    plain_key = OracleStage(Context(config)).key
    config.dataset.path = str(path)
    assert OracleStage(Context(config)).key != plain_key


def test_case_17_dpo_refuses_margins_in_plan(tmp_path: Path) -> None:
    furnish_pairs(tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", with_margins())
    config = replace(pair_config(tmp_path), algorithm=PreferenceOnly(), store=str(tmp_path / "s"))
    with pytest.raises(UserError, match=r"dataset\.margin_column = 'margin'.*no loss of TRL's DPO"):
        plan(config)
    config.dataset.margin_column = None
    assert [each.name for each in plan(config)] == ["sft", "dpo", "oracle", "evaluation"]
