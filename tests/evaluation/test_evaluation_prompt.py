"""What the judge is asked and how its reply is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.evaluation.llm.prompt import SHIPPED, JudgeTemplate, Outcome, load_template, parse


@pytest.mark.parametrize(
    "reply",
    [
        "Comparison: shorter is clearer.\nVerdict: B",
        "comparison: x\n\nverdict: b\n",
        "**Comparison:** x\n**Verdict:** **B**",
        "Verdict: [B].",
        "> Verdict: (B)",
        "Verdict: B\nVerdict: B",
        "A is good, B is better. I cannot say more.\nVerdict: B",
    ],
)
def test_a_verdict_line_is_read(reply: str) -> None:
    assert parse(reply) is Outcome.B


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "B",
        "B is better",
        "Verdict: A or B",
        "Verdict: neither",
        "Verdict: A\nVerdict: B",
        "Verdict: Because",
        "My verdict: A would be better if it were shorter",
        "Verdict: C",
        "Verdict:\nA",
    ],
)
def test_anything_else_is_no_verdict(reply: str) -> None:
    assert parse(reply) is Outcome.unparsable


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't compare these.",
        "I cannot help with that.",
        "As an AI I have no preference.",
    ],
)
def test_a_refusal_is_told_apart(reply: str) -> None:
    assert parse(reply) is Outcome.refusal
    assert parse(reply + "\nVerdict: A") is Outcome.A  # it said so after all


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_templates_ask_for_one_sentence_and_a_verdict(name: str) -> None:
    template = load_template(name)
    text = template.fill("the prompt", "first words", "second words")
    assert text.index("the prompt") < text.index("first words") < text.index("second words")
    assert "one sentence" in text
    assert text.endswith("Comparison: <one sentence>\nVerdict: <A or B>\n")
    assert "$" not in text
    assert parse(text) is Outcome.unparsable  # a judge that repeats the request says nothing


def test_texts_with_dollar_signs_and_placeholders_stay_as_they_are() -> None:
    template = JudgeTemplate("t", "$prompt|$answer_a|$answer_b|$$5")
    filled = template.fill("$answer_a costs $3", "${prompt}", "$$")
    assert filled == "$answer_a costs $3|${prompt}|$$|$5"


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Q ${prompt} 1 $answer_a 2 $answer_b\nVerdict: A or B", encoding="utf-8")
    template = load_template(str(path))
    assert template.name == "mine.txt"
    assert template.fill("x", "y", "z").startswith("Q x 1 y 2 z")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("$prompt $answer_a", "must hold $prompt, $answer_a, $answer_b and no other"),
        ("$prompt $answer_a $answer_b $name", "it holds $answer_a, $answer_b, $name, $prompt"),
        ("nothing", "it holds none"),
        ("$prompt $answer_a $answer_b costs 5 $", r"a dollar sign that begins no name"),
    ],
)
def test_a_bad_template_is_explained(text: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="--template") as caught:
        load_template(str(path))
    assert rule in str(caught.value)


def test_a_template_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UserError, match="dialogue, instruction, sentiment"):
        load_template("nowhere.txt")


def test_a_template_must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "bytes.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        load_template(str(path))
