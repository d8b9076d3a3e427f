"""Answers side by side: prompts that nobody has chosen, short texts, and nothing in them that acts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from paper_runs import ROOT
from scripts import loaded
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.answers import (
    CUT,
    LONGEST,
    AnswersEntry,
    SideBySide,
    chosen_rows,
    shortened,
)
from tokencredit.papers.formats import Format, Runs
from tokencredit.papers.kinds import find_table
from tokencredit.papers.page import write_page

NASTY = "a|b <img src=x> [x](http://y) ![z](w) *c* `d` \\ $e$ @f\nnext\x1b[1m"


def line(method: str, row: int, output: str = "") -> dict[str, Any]:
    said = output or f"{method} says {row}"
    return {"generator": method, "row": row, "instruction": f"prompt {row}", "output": said}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(*paths: Path) -> SideBySide:
    entry = find_table("tlcr/table2")
    assert isinstance(entry, AnswersEntry)
    return entry.made(Runs(lambda _: [], lambda _: [], answers=lambda _: paths))


def test_six_prompts_that_all_answered_are_chosen_by_a_hash(tmp_path: Path) -> None:
    rows = [line("sft", row) for row in range(40)] + [line("tlcr", row) for row in range(5, 60)]
    table = made(write(tmp_path / "a.jsonl", rows))
    chosen = [block[0].row for block in table.blocks]
    assert len(chosen) == 6 and set(chosen) <= set(range(5, 40)) and chosen != sorted(chosen)
    assert [[answer.method for answer in block] for block in table.blocks] == [["sft", "tlcr"]] * 6
    again = made(write(tmp_path / "b.jsonl", rows[::-1]))
    assert [block[0].row for block in again.blocks] == chosen, "the order of the file is no choice"
    few = made(write(tmp_path / "c.jsonl", [row for row in rows if row["row"] in chosen]))
    assert few.blocks == table.blocks, "the prompts that were chosen once are chosen again"
    others = chosen_rows({"a": dict.fromkeys(x for x in range(40) if x not in chosen)}, 2)
    assert len(others) == 2 and not set(others) & set(chosen)


def test_the_table_says_what_it_shows_and_who_is_missing(tmp_path: Path) -> None:
    rows = [line("tlcr", 1), line("sft", 1), line("other", 1), line("tlcr", 1, "a second seed's")]
    text = made(write(tmp_path / "a.jsonl", rows)).text(Format.markdown)
    first, second = [row for row in text.splitlines() if row.startswith("|")][2:]
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["prompt 1", "SFT", "sft says 1"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == ["", "TLCR", "tlcr says 1"]
    assert "the 1 whose rows have the smallest hashes (rows 1)" in text
    assert "Note: no answers of DPO, PPO_seq," in text and "Note: not shown: other." in text
    assert "more than 200 characters is cut" in text


def test_texts_are_cut_once(tmp_path: Path) -> None:
    long = "word " * 100
    assert len(shortened(long)) <= LONGEST and shortened(long).endswith(CUT)
    assert shortened(shortened(long)) == shortened(long) and shortened("x" * LONGEST) == "x" * 200
    assert len(shortened("x" * (LONGEST + 1))) == LONGEST
    (block,) = made(write(tmp_path / "a.jsonl", [line("sft", 1, long)])).blocks
    assert block[0].text == shortened(long)


def test_nothing_in_a_text_is_read_as_markdown_latex_or_by_a_terminal(tmp_path: Path) -> None:
    table = made(write(tmp_path / "a.jsonl", [line("sft", 1, NASTY), line("tlcr", 1, "=1+1")]))
    for text in (table.text(Format.markdown), table.on_page()):
        assert (
            r"a\|b \<img src=x\> \[x\](http\://y) \!\[z\](w) \*c\* \`d\` \\ \$e\$ \@f ↵ next"
            in text
        )
        assert "\x1b" not in text and r"\x1b" in text
    latex = table.text(Format.latex)
    assert r"a$|$b $<$img" in latex and r"\$e\$" in latex and "\x1b" not in latex
    assert "'=1+1" in table.text(Format.csv)


def test_without_answers_it_says_what_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = CliRunner().invoke(app, ["table", "tlcr/table2"])
    assert empty.exit_code == 0 and "`python experiments/tlcr/answers.py runs/" in empty.output
    template = tmp_path / "experiments" / "tlcr" / "main.md.j2"
    template.parent.mkdir(parents=True)
    template.write_text('{{ table("tlcr/table2") }}\n')
    (page,) = write_page("tlcr/main", tmp_path / "experiments")
    assert "There are no answers yet." in page.read_text() and "|" not in page.read_text()
    kept = write(template.parent / "main" / "answers.jsonl", [line("sft", 1), line("tlcr", 1)])
    (page,) = write_page("tlcr/main", tmp_path / "experiments")
    assert "tlcr says 1" in page.read_text()
    committed = CliRunner().invoke(app, ["table", "tlcr/table2"])
    named = CliRunner().invoke(app, ["table", "tlcr/table2", "--runs", str(kept.parent)])
    assert committed.output == named.output and "sft says 1" in named.output


def run(folder: Path, scheme: str, seed: int, rows: Sequence[int]) -> Any:
    """A run as far as the script reads one: its method, its seed, and its evaluation."""
    said = [
        {"row": k, "prompt": f"p{k}", "policy/response": scheme * 70, "sft/response": f"s{seed}"}
        for k in rows
    ]
    path = write(folder / f"{scheme}{seed}" / "evaluation.jsonl", said).parent
    return SimpleNamespace(path=path, scheme=scheme, config=SimpleNamespace(seed=seed))


def test_the_script_keeps_answers_of_one_seed_and_of_sft(tmp_path: Path) -> None:
    script = loaded(ROOT / "experiments" / "tlcr" / "answers.py")
    runs = [
        run(tmp_path, "tlcr", 0, range(9)),
        run(tmp_path, "tlcr", 1, range(9)),
        run(tmp_path, "dpo", 1, range(3, 20)),
        run(tmp_path, "tlcr", 2, range(9)),
        run(tmp_path, "dpo", 2, range(9)),
    ]
    found = script.answers_of(runs)
    assert list(found) == ["tlcr", "dpo", "sft"], "seed 1 is the first with two methods"
    assert found["sft"][4]["output"] == "s1" and found["dpo"].keys() == set(range(3, 20))
    assert found["tlcr"][4]["output"] == shortened("tlcr" * 70)
    lines = [own[row] for own in found.values() for row in chosen_rows(found, 6)]
    table = made(write(tmp_path / "answers.jsonl", lines))
    assert len(table.blocks) == 6 and not table.strange
    with pytest.raises(UserError, match="there is another run of dpo"):
        script.answers_of([*runs, run(tmp_path / "more", "dpo", 1, range(3))])
    for place in ([0, 1], [1, 0]):
        both = [run(tmp_path, "sft", 3, [1]), run(tmp_path, "dpo", 3, [1])]
        own = script.answers_of([both[k] for k in place])
        assert own["sft"][1]["output"] == shortened("sft" * 70), "a run of SFT speaks for itself"


def test_the_script_keeps_some_answers_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = loaded(ROOT / "experiments" / "tlcr" / "answers.py")
    rows = [line(name, row) for name in ("sft", "dpo", "dpo#2") for row in range(20)]
    judged = write(tmp_path / "judged" / "answers.jsonl", rows)
    monkeypatch.setattr("sys.argv", ["answers.py", str(judged), "--out", str(tmp_path)])
    assert script.main() == 0
    kept = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len(kept) == 3 * 6
    assert made(tmp_path / "answers.jsonl").blocks == made(judged).blocks
    monkeypatch.setattr("sys.argv", ["answers.py", str(judged.parent), "--out", str(tmp_path)])
    with pytest.raises(UserError, match="holds no run that has been evaluated"):
        script.main()


def test_mistakes_are_named(tmp_path: Path) -> None:
    lacking = [{"generator": "sft", "row": 1, "output": "x"}]
    apart = [line("sft", 1), line("tlcr", 2)]
    for rows, match in ((lacking, "'instruction' is missing"), (apart, "no prompt in common")):
        with pytest.raises(UserError, match=match):
            made(write(tmp_path / "a.jsonl", rows))
    with pytest.raises(UserError, match="there is no such file"):
        made(tmp_path / "none.jsonl")
    given = {"title": "x", "source": "x", "methods": {"a": "A"}, "task": "main", "fills": "x"}
    with pytest.raises(UserError, match="prompts = 7: must be from 1 to 6"):
        AnswersEntry.read({**given, "prompts": 7}, Path("x.yaml"))
    with pytest.raises(UserError, match="--points"):
        find_table("tlcr/table2").made(Runs(lambda _: [], lambda _: []), points=3)
