"""Row 17: what is too long for a run is refused, or counted and said, before any work."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from case_data import review, write_jsonl
from case_models import CHATML, make_causal, make_tokenizer, save
from case_runs import run_on
from tokencredit.algorithms.procedure import JudgeOnly, PreferenceOnly
from tokencredit.config import Config
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.pipeline.pipeline import execute, plan
from tokencredit.settings import DPO, SFT
from tokencredit.stages.sft import demonstrations
from tokencredit.training_settings import JudgeTraining

Row = Callable[[int], dict[str, Any]]
LONG = " film" * 250


def talk(number: int, question: str = "", answer: str = "") -> dict[str, Any]:
    """A labelled conversation; `question` and `answer` are added to its turns."""
    said = review(number, 10)
    turns = [("user", f"Film {number}?{question}"), ("assistant", said["text"] + answer)]
    return {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "label": said["label"],
    }


def duel(number: int, rejected: str = "") -> dict[str, Any]:
    """A pair of answers; `rejected` is added to the worse one."""
    return {"prompt": f"Film {number}? ", "chosen": "good", "rejected": f"bad{rejected}"}


def config(place: Path, layout: str, row: Row, **more: Any) -> Config:
    """A short run on three hundred such rows, by a model that speaks."""
    tokenizer = make_tokenizer(template=CHATML)
    model = save(place / "model", make_causal(tokenizer), tokenizer)
    data = write_jsonl(place / "data.jsonl", map(row, range(300)))
    if layout == "preference":
        more["label_column"] = None
    return run_on(model, data, layout, **more)


@pytest.mark.parametrize(
    ("layout", "row", "more", "said"),
    [
        (
            "messages",
            lambda n: talk(n, LONG),
            {"sft": {"train": False}},
            r"(\d+) of \1 prompts leave no room for the response",
        ),
        (
            "messages",
            lambda n: talk(n, LONG if n % 3 == 0 else ""),
            {"sft": {"train": False}},
            r"1\d of [45]\d prompts leave no room",
        ),
        (
            "messages",
            lambda n: talk(n, " film" * 120),
            {},
            r"sft\.max_length = 96: no prompt leaves room for its completion",
        ),
        (
            "preference",
            lambda n: duel(n, LONG),
            {},
            r"reward_model\.max_length = 96: each of \d+ pairs is longer",
        ),
    ],
    ids=["prompts", "some prompts", "demonstrations", "pairs"],
)
def test_case_17_what_is_too_long_is_refused_in_plan(
    layout: str, row: Row, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = config(tmp_path, layout, row, **more)
    lines = []
    for command in (plan, execute):
        with pytest.raises(UserError) as caught:
            command(found)
        lines.append(str(caught.value))
    assert re.search(said, lines[0]) and lines[0] == lines[1]
    assert not (tmp_path / "store").exists()


def test_case_17_pairs_too_long_for_dpo_are_refused_in_plan(tmp_path: Path) -> None:
    found = config(
        tmp_path, "preference", lambda n: duel(n, " film" * 60), algorithm=PreferenceOnly()
    )
    found = replace(found, dpo=DPO(max_length=32, max_tokens=None))
    with pytest.raises(UserError, match=r"dpo\.max_length = 32: no pair is left"):
        plan(found)


GAMES: dict[str, Any] = {"algorithm": JudgeOnly(), "sft": {"train": False}}
"""Runs that end with an advantage model of the data's pairs."""


def of_games(found: Config, longest: int) -> Config:
    """The run with a judge whose games have at most so many tokens."""
    training = JudgeTraining(max_length=longest)
    return replace(found, judge=AdvantageJudge(training=training), scorer=RewardModelJudge())


def test_case_17_games_that_are_too_long_are_refused_in_plan(tmp_path: Path) -> None:
    """Each answer fits, both together do not."""
    found = config(tmp_path, "preference", lambda n: duel(n, " film" * 10), **GAMES)
    assert plan(of_games(found, 64))
    with pytest.raises(UserError) as planned:
        plan(of_games(found, 22))
    said = str(planned.value)
    assert said.startswith("judge.training.max_length = 22: no pair is left to learn from")
    assert "'too long': 87" in said
    with pytest.raises(UserError) as caught:
        execute(of_games(found, 22))
    assert str(caught.value) == said and not (tmp_path / "store").exists()


def test_a_template_without_a_second_turn_is_refused_in_plan(tmp_path: Path) -> None:
    """A game asks for another answer behind the first one."""
    short = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML
    tokenizer = make_tokenizer(template=short)
    folder = save(tmp_path / "model", make_causal(tokenizer), tokenizer)

    def row(number: int) -> dict[str, Any]:
        asked = [{"role": "user", "content": f"Film {number}?"}]
        said = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
        return {"prompt": asked, **said}

    data = write_jsonl(tmp_path / "data.jsonl", map(row, range(300)))
    found = of_games(run_on(folder, data, "preference", label_column=None, **GAMES), 96)
    with pytest.raises(
        UserError, match=r"judge\.separator = .*takes no user's turn .*one turn only"
    ):
        plan(found)


def test_case_17_plan_counts_what_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(config(tmp_path, "messages", lambda n: talk(n, LONG if n % 40 == 1 else "")))
    said = capsys.readouterr().err
    assert "3 of the first 100 demonstrations are longer and lose the end of their answer" in said
    assert "1 of 42 prompts of the rl split leave no room for a response and are left out" in said
    assert "of the eval split" not in said
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    plan(config(pairs, "preference", lambda n: duel(n, LONG if n % 2 else "")))
    assert "(reward split) = 96: 44 of 87 pairs have more tokens" in capsys.readouterr().err


def test_case_17_texts_may_be_of_any_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def longer(number: int) -> dict[str, Any]:
        said = review(number)
        return said | {"text": said["text"] + LONG}

    assert plan(config(tmp_path, "text", longer))
    assert capsys.readouterr().err == ""


def test_case_17_answers_that_are_cut_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    ids = TokenIds(make_tokenizer())
    words = {"short": (2, 2), "cut": (2, 40), "lost": (40, 2)}

    def record(number: int, prompt: int, answer: int) -> Record:
        asked, said = f"{number}" + " film" * prompt, " plot" * answer
        return Record(row=number, text=asked + said, prompt=asked, completion=said)

    records = [record(n, *words[kind]) for n, kind in enumerate(["short", "cut", "cut", "lost"])]
    _, rows, counted = demonstrations(records, ids, SFT(max_length=32, max_tokens=None))
    assert counted == {"cut": 3} and len(rows) == 4
    assert "3 of 4 demonstrations are longer" in (said := capsys.readouterr().err)
    assert "1 of them all of it" in said
    whole = SFT(max_length=32, max_tokens=None, packing=True)
    assert demonstrations(records, ids, whole)[2] == {}, "packing cuts between answers, not them"
    with pytest.raises(UserError, match="no prompt leaves room"):
        demonstrations(records[3:], ids, SFT(max_length=32, max_tokens=None))
