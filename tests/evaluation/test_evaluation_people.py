"""`judge people`: blind sheets, and what is refused and counted when they come back."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.evaluation.people import Key, agreement, preferred
from tokencredit.store.sheets import csv_text

METHODS = ("sft", "dpo", "ppo_seq", "tlcr")
Row = dict[str, str]


def people(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", "people", *map(str, arguments)])


def answers(place: Path, **said: Callable[[int], str]) -> list[Path]:
    """A file of answers for each method, of which the text says whose it is unless `said`."""
    paths = []
    for name in METHODS:
        own = said.get(name)
        path = place / f"{name}.jsonl"
        texts = [f"the words of {name}, {k}" if own is None else own(k) for k in range(12)]
        rows = [{"instruction": f"question {k}", "output": text} for k, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths.append(path)
    return paths


def written(place: Path, *more: object, **said: Callable[[int], str]) -> Path:
    """A folder with three sheets of six samples."""
    out = place / "people"
    few = ("--samples", "6", "--annotators", "3", "--out", out)
    result = people("sheets", "--answers", *answers(place, **said), *few, *more)
    assert result.exit_code == 0, result.output
    return out


def rows_of(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def fill(path: Path, choose: Callable[[Row], str]) -> list[Row]:
    """Write the letters that `choose` says into a sheet."""
    rows = [row | {"best": choose(row)} for row in rows_of(path)]
    save(path, rows)
    return rows


def save(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def letter_of(row: Row, method: str) -> str:
    (letter,) = (name[-1] for name, text in row.items() if f"of {method}," in text)
    return letter


def count(out: Path, *more: object) -> Result:
    sheets = sorted(out.glob("sheet_*.csv"))
    return people("count", "--key", out / "key.json", "--sheets", *sheets, *more)


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


# sheets


def test_sheets_are_blind_and_shuffled_and_of_the_same_samples(tmp_path: Path) -> None:
    out = written(tmp_path)
    sheets = [rows_of(out / f"sheet_{n}.csv") for n in (1, 2, 3)]
    named = [f"answer {letter}" for letter in "ABCD"]
    assert list(sheets[0][0]) == ["sheet", "sample", "prompt", *named, "best"]
    prompts = [{row["sample"]: row["prompt"] for row in rows} for rows in sheets]
    assert prompts[0] == prompts[1] == prompts[2] and len(prompts[0]) == 6
    assert len({tuple(row["sample"] for row in rows) for rows in sheets}) == 3
    places = {m: Counter(letter_of(row, m) for rows in sheets for row in rows) for m in METHODS}
    assert all(len(letters) > 1 for letters in places.values()), "no method has a letter of its own"
    assert all(row["best"] == "" for rows in sheets for row in rows)
    key = Key.read(out / "key.json")
    for number, rows in enumerate(sheets, start=1):
        for row in rows:
            assert row["sheet"] == str(number)
            for letter, names in key.sheets[str(number)][row["sample"]].items():
                assert names == [m for m in METHODS if letter_of(row, m) == letter]


def test_the_same_seed_draws_the_same_and_another_does_not(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate(("0", "0", "1")):
        place = tmp_path / str(number)
        place.mkdir()
        found.append((written(place, "--seed", seed) / "sheet_1.csv").read_bytes())
    one, two, other = found
    assert one == two != other


FORMULAS = ("=1+1", "+1 -2", "-5", "@SUM(A1)", "\t=1", '=HYPERLINK("x")', "＝1")


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    """Prompts and answers alike, numbers too: what a spreadsheet works out is not what was said."""
    out = written(
        tmp_path,
        sft=lambda k: FORMULAS[k % len(FORMULAS)],
        dpo=lambda k: FORMULAS[k % len(FORMULAS)] + " more",
    )
    cells = [cell for path in out.glob("*.csv") for row in rows_of(path) for cell in row.values()]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "＝")) for cell in cells)
    assert sum(cell.startswith("'") for cell in cells) == 3 * 6 * 2
    assert csv_text([["-5", -5]]) == "-5,-5\n", "other files keep their numbers"
    assert csv_text([["-5", -5]], strict=True) == "'-5,-5\n"


def test_methods_that_say_the_same_share_a_letter_and_its_vote(tmp_path: Path) -> None:
    """sft and dpo are alike: a vote for both is half a vote of each."""

    def say(k: int) -> str:
        return f"the words of both, {k}"

    out = written(tmp_path, sft=say, dpo=say)
    for path in out.glob("sheet_*.csv"):
        filled = fill(path, lambda row: letter_of(row, "both"))
        assert all(row["answer D"] == "" for row in filled)
    result = count(out, "--out", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    shares = {row["method"]: row["share"] for row in found["most_preferred"]}
    assert shares == {"sft": 0.5, "dpo": 0.5, "ppo_seq": 0.0, "tlcr": 0.0}
    assert found["agreement"] == 1.0
    fill(out / "sheet_1.csv", lambda _: "D")
    assert "not A, B, C" in refusal(count(out))


def test_prompts_whose_answers_are_all_alike_are_not_asked_about(tmp_path: Path) -> None:
    """Of twelve, seven say the same throughout; six samples are too many then."""

    def say(k: int) -> str:
        return "same" if k < 7 else "x" * k

    same = dict.fromkeys(METHODS[1:], say)
    result = people(
        "sheets", "--samples", "6", "--out", tmp_path / "people", "--answers",
        *answers(tmp_path, **same, sft=lambda k: "same" if k < 7 else "other"),
    )  # fmt: skip
    assert "--samples = 6: only 5 prompts have answers of all methods that are not" in refusal(
        result
    )


def test_sheets_that_may_be_out_are_not_replaced(tmp_path: Path) -> None:
    out = written(tmp_path)
    before = (out / "key.json").read_bytes()
    again = people("sheets", "--answers", *answers(tmp_path), "--samples", "6", "--out", out)
    assert "holds a key already, whose sheets may be out" in refusal(again)
    assert (out / "key.json").read_bytes() == before


def test_one_method_is_not_compared(tmp_path: Path) -> None:
    result = people("sheets", "--answers", answers(tmp_path)[0], "--out", tmp_path / "p")
    assert "--answers = 'sft': 2 to 26 are compared" in refusal(result)


# counts


def test_the_share_of_most_preferred(tmp_path: Path) -> None:
    """Two annotators always prefer tlcr, the third dpo: 2/3 and 1/3, in lower case and with spaces."""
    out = written(tmp_path)
    for number in (1, 2):
        fill(out / f"sheet_{number}.csv", lambda row: f" {letter_of(row, 'tlcr').lower()} ")
    fill(out / "sheet_3.csv", lambda row: letter_of(row, "dpo"))
    result = count(out, "--out", tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    rows = [line.split("|")[1:-1] for line in result.output.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[1]][:2] == ["---", "---"]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[2:]}
    assert list(table)[:2] == ["tlcr", "dpo"]
    assert table["tlcr"][0] == "66.67" and table["dpo"][0] == "33.33"
    assert table["tlcr"][2] == "0.0–100.0"
    assert "3 annotators, 6 samples; two annotators agree on 33.3 % of samples" in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    best = found["most_preferred"][0]
    assert best["by_sheet"] == {"1": 1.0, "2": 1.0, "3": 0.0}
    assert best["low"] == 0.0 and best["high"] == 1.0, "three annotators who differ say little"
    assert sum(found["letters"].values()) == 18

    some = people(
        "count", "--key", out / "key.json", "--sheets", out / "sheet_1.csv", out / "sheet_3.csv",
        "--without", "2",
    )  # fmt: skip
    assert some.exit_code == 0 and "2 annotators" in some.output and "50.00" in some.output


def test_the_interval_is_over_annotators_and_samples_by_hand() -> None:
    """Five times the votes (1, 1, 0, 1) and (1, 0, 1, 1): 3/4, and the same of both annotators.

    Of the squares, 7.5, samples have 2.5 and the rest 5. Neither mean square is above that of the
    rest, 5/19, so the standard error is √(5/19 / 40) = 0.08111; t of 19 degrees is 2.0930.
    """
    letters, names = {"A": ["x"], "B": ["y"]}, [f"s{k}" for k in range(20)]
    key = Key(["x", "y"], {sheet: dict.fromkeys(names, letters) for sheet in ("1", "2")})
    votes = {"1": "AABA" * 5, "2": "ABAA" * 5}
    choices = {sheet: dict(zip(names, own, strict=True)) for sheet, own in votes.items()}
    first, second = preferred(choices, key)
    assert (first.method, first.share, second.share) == ("x", 0.75, 0.25)
    assert (first.low, first.high) == pytest.approx((0.58024, 0.91976), abs=1e-5)
    assert (second.low, second.high) == pytest.approx((0.08024, 0.41976), abs=1e-5)
    assert agreement(choices, key) == 0.5


def test_one_annotator_has_wilsons_interval() -> None:
    """60 of 100: [0.502, 0.691]; of agreement nothing can be said."""
    letters = {"A": ["x"], "B": ["y"]}
    names = [f"s{k}" for k in range(100)]
    key = Key(["x", "y"], {"1": dict.fromkeys(names, letters)})
    choices = {"1": {name: "A" if k < 60 else "B" for k, name in enumerate(names)}}
    first = preferred(choices, key)[0]
    assert (first.low, first.high) == pytest.approx((0.5020, 0.6906), abs=1e-4)
    assert agreement(choices, key) is None
    all_alike = {"1": dict.fromkeys(names, "A")}
    assert preferred(all_alike, key)[0].low == pytest.approx(0.963, abs=1e-3)


def unknown_sheet(rows: list[Row]) -> list[Row]:
    return [row | {"sheet": "7"} for row in rows]


def unknown_sample(rows: list[Row]) -> list[Row]:
    return [*rows[:-1], rows[-1] | {"sample": "s999"}]


def doubled(rows: list[Row]) -> list[Row]:
    return [*rows, rows[0]]


def left_out(rows: list[Row]) -> list[Row]:
    return rows[1:]


def unanswered(rows: list[Row]) -> list[Row]:
    return [rows[0] | {"best": "  "}, *rows[1:]]


def out_of_range(rows: list[Row]) -> list[Row]:
    return [rows[0] | {"best": "E"}, *rows[1:]]


def wordy(rows: list[Row]) -> list[Row]:
    return [rows[0] | {"best": "A and B"}, *rows[1:]]


def without_column(rows: list[Row]) -> list[Row]:
    return [{name: text for name, text in row.items() if name != "best"} for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_sheet, "sheet_1.csv: sheet '7' is not in the key of these samples"),
        (unknown_sample, "line 7: sample 's999' is none of sheet 1"),
        (doubled, "line 8: sample {first} comes twice in sheet 1"),
        (left_out, "sheet_1.csv: sample {first} of sheet 1 is missing"),
        (unanswered, "line 2: sample {first} has no answer in best; one of A, B, C, D"),
        (out_of_range, "line 2: best = 'E' of sample {first}: not A, B, C, D"),
        (wordy, "line 2: best = 'A and B' of sample {first}: not A, B, C, D"),
        (without_column, "needs rows and the columns sheet, sample, best, separated by commas"),
    ],
)
def test_a_sheet_that_is_not_as_it_should_be_is_refused(
    tmp_path: Path, change: Callable[[list[Row]], list[Row]], message: str
) -> None:
    """In one line, and nothing is written."""
    out = written(tmp_path)
    for path in out.glob("sheet_*.csv"):
        rows = fill(path, lambda _: "A")
    path = out / "sheet_1.csv"
    rows = rows_of(path)
    save(path, change(rows))
    said = refusal(count(out, "--out", tmp_path / "found.json"))
    assert message.format(first=rows[0]["sample"]) in said and "\n" not in said
    assert not (tmp_path / "found.json").exists()


def test_sheets_that_come_twice_or_not_at_all(tmp_path: Path) -> None:
    out = written(tmp_path)
    for path in out.glob("sheet_*.csv"):
        fill(path, lambda _: "A")
    one, two, three = sorted(out.glob("sheet_*.csv"))
    base: tuple[Any, ...] = ("count", "--key", out / "key.json", "--sheets", one, two)
    assert "sheet 1 was given already" in refusal(people(*base, three, one))
    assert "sheet 3 is missing; give it, or, if it never came" in refusal(people(*base))
    assert "--without = '9': sheets are 1, 2, 3" in refusal(people(*base, "--without", "9"))
    assert "there is no such file" in refusal(people(*base, tmp_path / "none.csv"))
    with_blank = [*rows_of(three), dict.fromkeys(rows_of(three)[0], "")]
    save(three, with_blank)
    assert people(*base, three).exit_code == 0, "empty rows behind the last are no answers"
    key = tmp_path / "other.json"
    key.write_text('{"methods": ["a"], "sheets": {"1": 5}}', encoding="utf-8")
    broken = refusal(people("count", "--key", key, "--sheets", one))
    assert "other.json" in broken
