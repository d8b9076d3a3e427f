"""The SFT model's and the policy's continuations beside each other, on a terminal and as HTML."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tokencredit.reports.samples import (
    LONGEST,
    continuations,
    continuations_table,
    print_continuations,
)
from tokencredit.reports.summary import write_report
from tokencredit.store.files import Damaged
from tokencredit.store.run_folder import RunFolder


def evaluated(number: int, **changed: Any) -> dict[str, Any]:
    """A row of evaluation.jsonl."""
    row = {
        "row": 100 - number,
        "prompt": f"Prompt {number}",
        "policy/kl": 2.0,
        "policy/response": f" is loved {number}.",
        "policy/score": 1.5,
        "policy/length": 4,
        "policy/oracle": 0.25,
        "sft/response": f" is hated {number}.",
        "sft/score": -0.5,
        "sft/length": 4,
        "sft/oracle": -1.0,
    }
    return row | {name.replace("__", "/"): value for name, value in changed.items()}


def write(run: Path, rows: list[dict[str, Any]]) -> None:
    """Give a run its evaluation."""
    (run / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def terminal(run: Path, width: int) -> str:
    """What a terminal of that width shows."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width)
    console.print(continuations_table(continuations(RunFolder.logged(run))))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_first_three_prompts_stand_side_by_side(complete_run: Path, width: int) -> None:
    write(complete_run, [evaluated(number) for number in range(5)])
    text = terminal(complete_run, width)
    assert all(len(line) <= width for line in text.splitlines())
    if width > 40:
        for number in range(3):
            (line,) = [line for line in text.splitlines() if f"Prompt {number}" in line]
            prompt, sft, policy = line.strip("│").split("│")
            assert prompt.strip() == f"Prompt {number}"
            assert (sft.strip(), policy.strip()) == (f"is hated {number}.", f"is loved {number}.")
    if width == 200:
        assert "score -0.500, oracle -1.000" in text and "score +1.500, oracle +0.250" in text
    assert "3" not in text, "the fourth prompt"


def test_an_unknown_opinion_is_left_out(complete_run: Path) -> None:
    row = evaluated(0)
    del row["policy/oracle"], row["sft/oracle"]
    write(complete_run, [row])
    (found,) = continuations(RunFolder.logged(complete_run))
    assert found["sft/opinion"] == "score -0.500"


def test_text_cannot_act_on_a_terminal_or_a_page(complete_run: Path) -> None:
    odd = "\x1b[2J\x7f\x9b\u202e[red]<script>alert(1)</script>[/red]\nnext"
    write(complete_run, [evaluated(0, prompt=odd, sft__response=odd, policy__response=odd)])
    (complete_run / "samples.jsonl").unlink()
    text = terminal(complete_run, 200)
    html = write_report(complete_run).read_text()
    for shown in (text, html):
        assert not set("\x1b\x7f\x9b\u202e") & set(shown)
        assert shown.count("\\x1b[2J\\x7f\\x9b") == 3
    assert "[red]<script>" in text
    assert "<script" not in html


def test_of_long_texts_a_terminal_has_what_is_next_to_the_seam(complete_run: Path) -> None:
    prompt, said = "a" * LONGEST + "bb", "c" * LONGEST + "dd"
    write(complete_run, [evaluated(0, prompt=prompt, sft__response=said)])
    text = terminal(complete_run, 120)
    assert text.count("a") < LONGEST + 10 and "bb" in text
    assert text.count("c") < LONGEST + 20 and "dd" not in text
    assert text.count("…") == 2
    assert said in write_report(complete_run).read_text()


def test_nothing_is_printed_before_there_is_an_evaluation(
    complete_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_continuations(complete_run)
    assert capsys.readouterr().out == ""
    write(complete_run, [evaluated(0)])
    print_continuations(complete_run)
    assert "is loved 0." in capsys.readouterr().out
    write(complete_run, [{"row": 1, "prompt": "cut off"}])
    with pytest.raises(Damaged, match="sft/response' is missing"):
        print_continuations(complete_run)
