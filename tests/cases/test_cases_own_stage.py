"""A judge with a stage of its own in one file, as docs/write-a-judge.md shows it: what a plan says."""

from __future__ import annotations

import re

import pytest

from case_machine import Place
from pages import shown_file

PAID_RAW = ["scorer=judge", "reward_scheme=attribution", "reward_scheme.normalise=raw"]
FLAGS = ["--plugin", "my_judge.py", "judge=Mood", *PAID_RAW]


@pytest.fixture
def own(place: Place) -> Place:
    """An empty folder but for the page's file."""
    (place.folder / "my_judge.py").write_text(shown_file("write-a-judge.md", "my_judge.py"))
    return place


def keys(out: str) -> dict[str, str]:
    """The key of each stage of a plan."""
    return dict(re.findall(r"^miss  (\w+) +(\w{16})", out, re.MULTILINE))


def changed(own: Place, before: dict[str, str], *arguments: str) -> set[str]:
    """The stages whose keys are others with these arguments."""
    after = keys(own.plan(*FLAGS, *arguments).ok().out)
    assert after.keys() == before.keys()
    return {name for name in before if after[name] != before[name]}


def test_its_stage_is_keyed_by_its_own_settings_and_the_content_of_its_file(own: Place) -> None:
    before = keys(own.plan(*FLAGS).ok().out)
    assert before.keys() == {"base_model", "sft", "moods", "oracle", "rl"}  # and no reward model
    assert changed(own, before, "judge.training.epochs=2") == {"moods", "rl"}
    assert changed(own, before, "algorithm.gamma=0.9") == {"rl"}
    assert changed(own, before, "seed=1") == {"rl"}
    assert changed(own, before, "stage_seed=1") >= {"sft", "moods", "rl"}
    file = own.folder / "my_judge.py"
    file.write_text(file.read_text() + "# edited\n")
    assert changed(own, before) == {"moods", "rl"}


def test_a_plan_says_whether_rewards_look_ahead(own: Place) -> None:
    line = r"^        (causal|look-ahead): (.*)$"
    raw = own.plan(*FLAGS).ok().out
    ((kind, why),) = re.findall(line, raw, re.MULTILINE)
    assert kind == "causal" and why.endswith("the policy gradient is that of the sum of rewards")
    tilted = own.plan(*FLAGS[:-1]).ok().out
    ((kind, why),) = re.findall(line, tilted, re.MULTILINE)
    assert kind == "look-ahead" and "(Attribution weighs evidence by the whole response)" in why
    abc = own.plan("reward_scheme=abc").ok().out
    assert "look-ahead: rewards depend on later tokens (evidence of AttentionJudge, " in abc
    assert not re.findall(line, own.plan("reward_scheme=sparse").ok().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("judge.training.epochs=0", "judge.training.epochs (or scorer.training.epochs) = 0.0"),
        ("judge.training.epoch=1", "judge.training.epoch: unknown key, did you mean 'epochs'?"),
        ("judge.training.max_tokens=1", "at least judge.training.max_length (or scorer.training"),
    ],
)
def test_a_mistake_in_its_settings_is_named_by_the_whole_key(
    own: Place, argument: str, said: str
) -> None:
    assert said in own.plan(*FLAGS, argument).error()


def test_null_is_the_models_learning_rate(own: Place) -> None:
    plain = keys(
        own.plan(*FLAGS, "model.rates.reward=5e-4", "judge.training.learning_rate=5e-4").ok().out
    )
    null = keys(
        own.plan(*FLAGS, "model.rates.reward=5e-4", "judge.training.learning_rate=null").ok().out
    )
    assert null == plain


def test_check_judge_lists_promises_and_leaves_nothing(own: Place) -> None:
    ended = own.command("check-judge", "my_judge.py:Mood").ok()
    assert len(re.findall(r"^ok  ", ended.out, re.MULTILINE)) == 12
    text = (own.folder / "my_judge.py").read_text()
    (own.folder / "ahead.py").write_text(
        text.replace("odds.diff(dim=1)", "odds.diff(dim=1) - last[:, None]")
        .replace("class Mood(", "class Ahead(").replace('"judge", Mood', '"judge", Ahead')
    )  # fmt: skip
    ended = own.command("check-judge", "ahead.py:Ahead")
    assert ended.code == 2 and "looks at no later token, as declared: found" in ended.err
    assert {path.name for path in own.folder.iterdir()} <= {"my_judge.py", "ahead.py"}
