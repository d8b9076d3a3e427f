"""Revisions: what a reviser is asked, what of its reply is a revision, and what is dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builders import train_tokenizer
from tokencredit.data.records import Record
from tokencredit.data.revisions import (
    BEGINS,
    ENDS,
    Contest,
    Flaw,
    Revision,
    contest_of,
    fitted,
    flaw_of,
    foreign_share,
    parse,
    record_of,
    request,
    request_text,
    row_of,
    text_edit_ratio,
)
from tokencredit.data.token_ids import TokenIds

PAIR = Contest(row=3, prompt="How was it?", chosen=" It was great.", rejected=" It was bad.")


def reply(revised: str, reason: str = "Reason: one is kind.\n") -> str:
    return f"{reason}{BEGINS}\n{revised}\n{ENDS}\n"


def test_a_whole_reply_is_a_revision_with_its_reason() -> None:
    assert parse(reply("It was good.")) == Revision("It was good.", "one is kind.")
    assert parse(reply("It was good.", "")) == Revision("It was good.", None)
    assert parse(reply("It was good.") + "Anything else?") == Revision(
        "It was good.", "one is kind."
    )


@pytest.mark.parametrize(
    ("text", "cut", "flaw"),
    [
        ("", False, Flaw.empty),
        ("", True, Flaw.cut),
        ("It was good.", False, Flaw.no_begin),
        (f"It was good.\n{ENDS}", False, Flaw.no_begin),
        ("Reason: one is kind.", False, Flaw.reason_alone),
        ("**Reason:** one is kind.", False, Flaw.reason_alone),
        (f"Reason: x\n{BEGINS}\nIt was good.", False, Flaw.no_end),
        (f"Reason: x\n{ENDS}\n{BEGINS}\nIt was good.", False, Flaw.no_end),
        (f"Reason: x\n{BEGINS}\nIt was go", True, Flaw.cut),
        (f"Reason: x\n{BEGINS}\n{ENDS}", False, Flaw.reason_alone),
        (f"{BEGINS}\n{ENDS}", False, Flaw.empty),
        (reply("Reason: one is kind."), False, Flaw.reason_alone),
        (reply("one is kind."), False, Flaw.reason_alone),
        (reply("a") + reply("b"), False, Flaw.repeated),
    ],
)
def test_a_reply_without_a_revision_is_never_one(text: str, cut: bool, flaw: Flaw) -> None:
    assert parse(text, cut=cut) is flaw


def test_a_reply_that_was_cut_behind_its_end_is_whole() -> None:
    assert parse(reply("It was good."), cut=True) == Revision("It was good.", "one is kind.")


@pytest.mark.parametrize(
    ("revised", "flaw"),
    [
        (" It was good.", None),
        (" It was bad. ", Flaw.identical),
        ("  ", Flaw.empty),
        (" It was", Flaw.cut),
        (" Everything about this film is fine.", Flaw.over_edited),
        (" Это было хорошо.", Flaw.language),
    ],
)
def test_what_is_no_revision_of_the_pair(revised: str, flaw: Flaw | None) -> None:
    assert flaw_of(PAIR, revised, 0.5) is flaw


def test_an_answer_that_ends_within_a_sentence_may_stay_so() -> None:
    open_ended = replace(PAIR, rejected=" it was bad and")
    assert flaw_of(open_ended, " it was good and", 0.5) is None


def test_the_edit_ratio_counts_words_and_marks() -> None:
    # It was bad . → It was very good . : one substituted, one added, of five.
    assert text_edit_ratio("It was bad.", "It was very good.") == pytest.approx(2 / 5)
    assert text_edit_ratio("", "") == 0


def test_scripts_of_the_pair_are_not_foreign() -> None:
    assert foreign_share("abc где", "xyz") == pytest.approx(0.5)
    assert foreign_share("abc где", "xyz я") == 0
    assert foreign_share("1, 2", "x") == 0


def test_white_space_around_the_answer_is_that_of_the_rejected_one() -> None:
    assert fitted(replace(PAIR, rejected=" so bad\n"), Revision("so good")).text == " so good\n"
    assert fitted(PAIR, Revision("  ")).text == ""


def test_the_request_holds_the_pair_and_asks_for_the_markers() -> None:
    text = request(replace(PAIR, prompt="It cost $5, $rejected?"), request_text())
    assert "It cost $5, $rejected?" in text and "It was bad." in text and "It was great." in text
    assert text.count(BEGINS) == text.count(ENDS) == 1
    assert parse(text) != Revision("It was bad.")


def test_rows_and_records_keep_prompts_and_conversations() -> None:
    turns = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi, bad"})
    spoken = Record(row=7, text="Hello", messages=turns, rejected="Go")
    contest = contest_of(spoken)
    assert (contest.prompt, contest.chosen, contest.rejected) == ("User: Hello", "Hi, bad", "Go")
    again = record_of(row_of(contest, Revision("Go on", "kinder")))
    assert again.messages == (turns[0], {"role": "assistant", "content": "Go on"})
    assert (again.row, again.rejected) == (7, "Go")


def test_the_ids_of_a_row_are_those_of_the_pair_in_context() -> None:
    record = Record(row=1, text="", prompt="the movie", completion=" was good", rejected=" was bad")
    ids = TokenIds(train_tokenizer())
    again = record_of(row_of(contest_of(record), Revision(" was good")))
    assert ids.example(again) == ids.example(record)
