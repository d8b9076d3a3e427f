"""Verdicts and answers in the formats of others: read, matched, written, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.evaluation.annotations import games, read_annotations, share_of
from tokencredit.evaluation.formats import file_name, matched, read_answers
from tokencredit.evaluation.verdict_report import read_games

HEAD = "prompt_index,baseline,model,preference\n"


@pytest.mark.parametrize(
    ("preference", "share"),
    [
        ("1", 0.0), ("2", 1.0), ("0", 0.5), (1.5, 0.5), ("1.25", 0.25), (2, 1.0), ("2.0", 1.0),
        ("", None), (None, None), ("nan", None), ("3", None), ("-1", None), ("inf", None), ("A", None),
    ],
)  # fmt: skip
def test_preferences_are_shares_of_a_win(preference: object, share: float | None) -> None:
    assert share_of(preference) == share


def test_unusable_verdicts_are_counted_and_left_out(tmp_path: Path) -> None:
    """2, 1, 0, and two that say nothing: 50 % of three."""
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,b,m,2\n1,b,m,1\n2,b,m,0\n3,b,m,\n4,b,m,7\n", encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["judge", "winrate", "--annotations", str(path), "--out", str(out)]
    answer = CliRunner().invoke(app, arguments)
    assert answer.output.splitlines()[1].split()[:6] == "m b 50.0000 ± 28.8675 3".split()
    assert "not counted: preference that is neither 1, 2, a draw, nor between: 2" in answer.output
    found = json.loads((out / "winrate.json").read_text("utf-8"))
    assert found["win_rates"][0]["n"] == 3 and sum(found["dropped"].values()) == 2


def test_alpaca_evals_json_in_and_out(tmp_path: Path) -> None:
    """The verdicts survive the round trip; a draw becomes 1.5; other columns stay."""
    rows = [
        {"instruction": "q", "generator_1": "b", "generator_2": "m", "preference": 0, "x": [1]},
        {"instruction": "r", "generator_1": "b", "generator_2": "m", "preference": 1.9},
        {"instruction": "s", "generator_1": "b", "generator_2": "m", "preference": None},
    ]
    path, out = tmp_path / "annotations.json", tmp_path / "out"
    path.write_text(json.dumps(rows), encoding="utf-8")
    CliRunner().invoke(app, ["judge", "winrate", "--annotations", str(path), "--out", str(out)])
    again = json.loads((out / "annotations.json").read_text("utf-8"))
    assert again == [rows[0] | {"preference": 1.5}, rows[1]]
    first, second = (read_annotations([p])[0][0] for p in (path, out / "annotations.json"))
    assert first.shares == second.shares == [0.5, pytest.approx(0.9)]


def test_csv_becomes_alpaca_evals_json(annotations: Path, tmp_path: Path) -> None:
    file = str(annotations / "alpaca-7b.csv")
    arguments = ["judge", "winrate", "--annotations", file, "--out", str(tmp_path)]
    CliRunner().invoke(app, arguments)
    rows = json.loads((tmp_path / "annotations.json").read_text("utf-8"))
    assert len(rows) == 805 and sum(row["preference"] == 1.5 for row in rows) == 16
    assert rows[0]["generator_1"] == "text_davinci_003" and rows[0]["generator_2"] == "alpaca-7b"


def test_verdicts_over_a_baseline_are_games(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,b,m,2\n1,b,m,0\n0,b,n,1\n", encoding="utf-8")
    names, wins = games(read_annotations([path])[0])
    assert names == ["b", "m", "n"]
    assert wins.tolist() == [[0, 0.5, 1], [1.5, 0, 0], [0, 0, 0]]


def test_a_csv_may_begin_with_its_name_as_pages_show_it(tmp_path: Path) -> None:
    verdicts, played = tmp_path / "verdicts.csv", tmp_path / "games.csv"
    verdicts.write_text(f"# verdicts.csv\n#\n{HEAD}0,b,m,2\n1,b,m,1\n2,b,m,0\n", "utf-8")
    assert read_annotations([verdicts])[0][0].shares == [1.0, 0.0, 0.5]
    head = "# games.csv\nfirst,second,first_wins,second_wins,draws\n"
    played.write_text(f"{head}N,E,8,4,0\nE,S,4,2,1\n", "utf-8")
    assert read_games(played)[1].tolist() == [[0, 8, 0], [4, 0, 4.5], [0, 2.5, 0]]
    played.write_text(f"{head}N,E,8,4,0\nE,S,4,-2,1\n", "utf-8")
    with pytest.raises(UserError, match="line 4: two players"):
        read_games(played)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("absent.csv", None, "there is no such file"),
        ("a.csv", HEAD, "holds no usable verdict"),
        ("a.csv", "model,preference\nm,1\n", "needs the columns baseline"),
        ("a.csv", HEAD + "0,b,m,maybe\n", "'maybe'"),
        ("a.json", "{}", "must hold objects"),
        ("a.json", "[", "is no JSON"),
    ],
)
def test_a_bad_file_of_verdicts_is_explained(
    name: str, text: str | None, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="--annotations") as caught:
        read_annotations([path])
    assert words in str(caught.value)


def write(path: Path, *rows: dict[str, object]) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_answers_are_matched_by_prompt(tmp_path: Path) -> None:
    """In another order, one missing, one twice: each occurrence meets its own."""
    first = write(
        tmp_path / "a.jsonl",
        {"prompt": "p", "response": "1"},
        {"prompt": "q", "response": "2"},
        {"prompt": "p", "response": "3"},
    )
    second = write(
        tmp_path / "b.jsonl",
        {"instruction": "p", "output": "x\u2028y", "generator": "other"},
        {"instruction": "p", "output": "z"},
        {"instruction": "r", "output": "w"},
    )
    third = write(tmp_path / "c.jsonl", {"instruction": "p", "output": "c"})
    answers = read_answers([first, second])
    assert list(answers) == ["a", "other", "b"]
    items, left = matched(read_answers([first, third]))
    assert left == 2 and [answers["a"][item].output for item in items] == ["1"]


def test_equal_generators_of_two_files_are_told_apart_by_names(tmp_path: Path) -> None:
    row = {"row": 7, "prompt": "p", "policy/response": "new", "sft/response": "old"}
    paths = [write(tmp_path / "a.jsonl", row), write(tmp_path / "b.jsonl", row)]
    answers = read_answers(paths, ["abc", "sft", "rto", "sft2"])
    (item,), _ = matched(answers)
    said = {name: own[item].output for name, own in answers.items()}
    assert said == {"abc": "new", "sft": "old", "rto": "new", "sft2": "old"}
    with pytest.raises(UserError, match="'policy'; tell them apart with --names") as caught:
        read_answers(paths)
    assert "each of policy, sft, policy, sft" in str(caught.value)
    with pytest.raises(UserError, match="each differently"):
        read_answers(paths, ["abc", "sft", "rto", "sft"])


def test_an_evaluation_of_a_run_holds_two_models(tmp_path: Path) -> None:
    path = write(
        tmp_path / "evaluation.jsonl",
        {
            "row": 7,
            "prompt": "p",
            "policy/response": "new",
            "sft/response": "old",
            "policy/kl": 1.0,
        },
    )
    answers = read_answers([path])
    (item,), left = matched(answers)
    assert left == 0 and {n: own[item].output for n, own in answers.items()} == {
        "policy": "new",
        "sft": "old",
    }
    assert answers["sft"][item].row == 7


def test_model_outputs_of_alpaca_eval_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model_outputs.json"
    rows = [{"instruction": "p", "output": "o", "generator": "g", "dataset": "d"}]
    path.write_text(json.dumps(rows), encoding="utf-8")
    (answer,) = read_answers([path])["g"].values()
    assert (answer.prompt, answer.output, answer.row, answer.score) == ("p", "o", 0, None)
    assert list(read_answers([path], ["mine"])) == ["mine"]


def test_one_generator_in_two_files_is_refused(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "generator": "g"}
    files = [write(tmp_path / name, row) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(UserError, match="also has answers of 'g'"):
        read_answers(files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no answers"),
        ('{"prompt": "p"}\n', "row 1: needs a prompt"),
        ('{"response": "p"}\n', "row 1: needs a prompt"),
        ("[1]\n", "must hold objects"),
        ("{\n", "is no JSON"),
    ],
)
def test_a_bad_file_of_answers_is_explained(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="--answers") as caught:
        read_answers([path])
    assert words in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_answers([tmp_path / "absent.jsonl"])


def test_answers_to_different_prompts_cannot_be_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"prompt": "p", "response": "1"})
    b = write(tmp_path / "b.jsonl", {"prompt": "P", "response": "1"})
    with pytest.raises(UserError, match="no prompt in common"):
        matched(read_answers([a, b]))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("abc#2", "abc_2"), ("../x", "_x"), ("a b/c", "a_b_c"), ("", "model"), ("v1.5", "v1.5")],
)
def test_names_become_file_names(name: str, stem: str) -> None:
    assert file_name(name) == stem


def test_papers_7_win_rates_of_real_verdicts(annotations: Path) -> None:
    """alpaca-7b 26.4596 ± 1.5357 %, tulu-2-dpo-7b 84.2236 ± 1.2856 % (draws half, ddof 1)."""
    files = [str(annotations / f"{name}.csv") for name in ("alpaca-7b", "tulu-2-dpo-7b")]
    answer = CliRunner().invoke(app, ["judge", "winrate", "--annotations", *files])
    assert answer.exit_code == 0, answer.output
    first, second = answer.output.splitlines()[1:3]
    assert first.split() == "alpaca-7b text_davinci_003 26.4596 ± 1.5357 805 205 16 584".split()
    assert second.split() == "tulu-2-dpo-7b text_davinci_003 84.2236 ± 1.2856 805 678 0 127".split()
