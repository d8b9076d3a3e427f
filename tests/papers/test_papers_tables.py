"""Tables of papers: the numbers of their own logs, honest intervals, and nothing left out unsaid."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paper_runs import AUTHORS, lines, needs_authors, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.entries import PanelEntry
from tokencredit.papers.formats import Format
from tokencredit.papers.kinds import find_table, listing, read_entry
from tokencredit.papers.sources import read_sources
from tokencredit.papers.tables import CurveTable, Row, make_table

# papers.md 2.7: mean, half width by the authors' rule, half width of the t interval.
TABLE_1 = {
    ("Positive generation", "abc"): (8.3161, 0.1634, 0.195),
    ("Positive generation", "sparse"): (7.2150, 0.3865, 0.461),
    ("Positive generation", "uniform"): (6.6028, 0.1917, 0.229),
    ("Positive generation", "abc_d"): (6.8897, 0.3696, 0.441),
    ("Positive generation", "abc_d2"): (7.1027, 0.2225, 0.265),
    ("Summarisation", "abc"): (9.1806, 0.1740, 0.270),
    ("Summarisation", "sparse"): (9.0315, 0.1312, 0.204),
    ("Summarisation", "uniform"): (9.0300, 0.1511, 0.235),
    ("Single-turn dialogue", "abc"): (6.5543, 0.0410, 0.064),
    ("Single-turn dialogue", "sparse"): (5.7785, 0.1442, 0.224),
    ("Single-turn dialogue", "uniform"): (6.4390, 0.0573, 0.089),
}


def curve_table(name: str) -> CurveTable:
    """The table of that name, which is made from curves."""
    entry = find_table(name)
    assert isinstance(entry, CurveTable)
    return entry


def by_name(rows: list[Row]) -> dict[tuple[str, str], Row]:
    return {(row.panel, row.method.partition(" ")[0].rstrip(",")): row for row in rows}


@needs_authors
def test_papers_A11_table_1_from_the_authors_logs() -> None:
    made = make_table(curve_table("abc/table1"), read_sources([AUTHORS]))
    rows = by_name(made.rows)
    assert rows.keys() == TABLE_1.keys() and made.notes == []
    for name, (mean, authors, t) in TABLE_1.items():
        row = rows[name]
        assert row.authors == pytest.approx((mean, authors), abs=5e-5), name
        interval = row.interval
        assert interval is not None
        assert (interval.high - interval.low) / 2 == pytest.approx(t, abs=5e-4), name
        assert row.n == (10 if name[0] == "Positive generation" else 5)
        if row.paper:
            assert row.authors == pytest.approx(tuple(row.paper), abs=0.0051), name
    paired = rows["Summarisation", "abc"].difference
    assert paired is not None and paired.n == 5
    assert paired.difference.mean == pytest.approx(9.1806 - 9.0315, abs=1e-4)
    assert rows["Single-turn dialogue", "sparse"].measured.fallen == 5


@needs_authors
def test_papers_A11_the_command_prints_four_decimals_and_both_intervals() -> None:
    answer = CliRunner().invoke(app, ["table", "abc/table1", "--runs", str(AUTHORS)])
    assert answer.exit_code == 0, answer.output
    for mean, authors, _ in TABLE_1.values():
        assert f"{mean:.4f} ± {authors:.4f}" in answer.output
    assert "± 0.1948 [8.1212, 8.5109]" in answer.output
    assert "6.60 ± 0.19" in answer.output, "the paper's own digits"


@needs_authors
def test_a_changed_log_is_another_table(tmp_path: Path) -> None:
    text = (AUTHORS / "positive_generation.csv").read_text().splitlines()
    changed = [
        f"{line.rpartition(',')[0]},99.0"
        if line.startswith("positive_generation,abc,0.8,8,16,3,7,")
        else line
        for line in text
    ]
    assert sum(a != b for a, b in zip(text, changed, strict=True)) == 1
    (tmp_path / "positive_generation.csv").write_text("\n".join(changed) + "\n")
    entry = curve_table("abc/table1")
    before = by_name(make_table(entry, read_sources([AUTHORS / "positive_generation.csv"])).rows)
    after = by_name(make_table(entry, read_sources([tmp_path])).rows)
    abc, sparse = ("Positive generation", "abc"), ("Positive generation", "sparse")
    assert after[sparse].authors == before[sparse].authors
    assert after[abc].authors != before[abc].authors
    last = [line for line in text if line.startswith("positive_generation,abc,0.8,8,16,3,120,")]
    assert len(last) == 1, "step 120 is there, and not one of the first 101"


@needs_authors
def test_papers_A11_points_beyond_the_first_do_not_count(tmp_path: Path) -> None:
    text = (AUTHORS / "positive_generation.csv").read_text()
    kept = [
        line
        if line.startswith("task") or int(line.split(",")[6]) < 101
        else f"{line.rpartition(',')[0]},0"
        for line in text.splitlines()
    ]
    (tmp_path / "positive_generation.csv").write_text("\n".join(kept) + "\n")
    entry = curve_table("abc/table1")
    rows = [
        make_table(entry, read_sources([p])).rows
        for p in (AUTHORS / "positive_generation.csv", tmp_path)
    ]
    assert [row.authors for row in rows[0]] == [row.authors for row in rows[1]]


def small(tmp_path: Path, **more: list[list[float]]) -> Path:
    """Runs of 101 points, constant, so that means are known: abc 1 and 3, sparse 0 and 0.5."""
    constant = {"abc": [1.0, 3.0], "sparse": [0.0, 0.5]}
    runs = [
        lines(method, run, [value] * 101)
        for method, values in constant.items()
        for run, value in enumerate(values)
    ]
    extra = [
        lines(method, 10 + run, curve)
        for method, curves in more.items()
        for run, curve in enumerate(curves)
    ]
    return write_csv(tmp_path / "small.csv", *runs, *extra)


def test_a_table_by_hand(tmp_path: Path) -> None:
    """abc: 2 ± 2·1/√2, t(1) 12.706 · 1; differences 1 and 2.5: 1.75 ± 12.706 · 0.75, t = 7/3."""
    made = make_table(curve_table("abc/table1"), read_sources([small(tmp_path)]))
    row = by_name(made.rows)["Positive generation", "abc"]
    assert row.authors == pytest.approx((2.0, 2 / 2**0.5))
    assert row.interval is not None and row.difference is not None
    assert row.interval.high == pytest.approx(2 + 12.7062, abs=1e-4)
    assert row.difference.difference.mean == 1.75
    assert row.difference.t == pytest.approx(7 / 3)
    empty = by_name(made.rows)["Summarisation", "abc"]
    assert empty.setting is None and empty.paper == [9.18, 0.17]
    text = made.text(Format.markdown)
    assert "| no runs |" in text and "9.18 ± 0.17" in text


def test_papers_A10_short_and_failed_runs_are_counted_and_not_averaged(tmp_path: Path) -> None:
    path = small(tmp_path, abc=[[9.0] * 100, [9.0] * 50 + [float("nan")] * 51])
    made = make_table(curve_table("abc/table1"), read_sources([path]))
    row = by_name(made.rows)["Positive generation", "abc"]
    assert row.n == 2 and row.authors == pytest.approx((2.0, 2 / 2**0.5))
    text = made.text(Format.markdown)
    assert "run 10: 100 of 101 points" in text
    assert "run 11: mean_reward is not finite" in text
    (line,) = [
        r
        for r in csv.DictReader(io.StringIO(made.text(Format.csv)))
        if r["method"] == "abc" and r["task"]
    ]
    assert (line["n"], line["not_averaged"]) == ("2", "2")


def test_a_run_that_ends_below_its_start_is_counted(tmp_path: Path) -> None:
    path = small(tmp_path, sparse=[[5.0] * 5 + [6.0] * 86 + [1.0] * 10])
    made = make_table(curve_table("abc/table1"), read_sources([path]))
    row = by_name(made.rows)["Positive generation", "sparse"]
    assert (row.measured.fallen, row.n) == (1, 3)
    assert "1 of 3" in made.text(Format.markdown)


def test_other_settings_are_said_to_be_elsewhere(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "r.csv",
        lines("abc", 1, [1.0] * 101),
        lines("abc", 1, [1.0] * 101, beta=0.5),
        lines("dppo", 1, [1.0] * 101),
    )
    said = make_table(curve_table("abc/table1"), read_sources([path])).notes
    assert "r: not shown: 1 runs of positive_generation, abc, β = 0.5, 8–16 tokens" in said
    assert "r: not shown: 1 runs of positive_generation, dppo, β = 0.8, 8–16 tokens" in said


def test_points_can_be_chosen(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", lines("abc", 1, [1.0, 2.0, 9.0]))
    made = make_table(curve_table("abc/table1"), read_sources([path]), points=2)
    assert by_name(made.rows)["Positive generation", "abc"].authors == (1.5, 0.0)


def test_reward_at_equal_kl_by_hand(tmp_path: Path) -> None:
    """KL and reward rise by 1 a step: the running mean over ten steps of both is equal."""
    rising = [float(step) for step in range(101)]
    flat = [0.5] * 101
    path = write_csv(
        tmp_path / "r.csv",
        lines("abc", 1, [2 * x for x in rising], kl=rising),
        lines("abc", 2, flat, kl=flat),
        lines("abc", 3, flat),
    )
    made = make_table(curve_table("abc/table_kl"), read_sources([path]))
    row = by_name(made.rows)["4 nats", "abc"]
    assert row.measured.values == pytest.approx({1: 8.0})
    assert row.measured.without == [(2, "never reaches 4 nats"), (3, "has no kl column")]


def test_two_sources_stand_side_by_side(tmp_path: Path) -> None:
    a = write_csv(tmp_path / "a.csv", lines("abc", 1, [1.0] * 101))
    b = write_csv(tmp_path / "b.csv", lines("abc", 1, [2.0] * 101))
    made = make_table(curve_table("abc/table1"), read_sources([a, b]))
    rows = [row for row in made.rows if row.n]
    assert [(row.source, row.authors) for row in rows] == [("a", (1.0, 0.0)), ("b", (2.0, 0.0))]
    assert "runs of" in made.text(Format.markdown).splitlines()[0]


def test_every_format_is_written(tmp_path: Path) -> None:
    arguments = [
        "table",
        "abc/table1",
        "--runs",
        str(small(tmp_path)),
        "--out",
        str(tmp_path / "out"),
    ]
    answer = CliRunner().invoke(app, [*arguments, "--format", "latex"])
    assert answer.exit_code == 0, answer.output
    assert r"\toprule" in answer.stdout and r"sparse (RLHF)" in answer.stdout
    assert r"$\pm$" in answer.stdout and "_d" not in answer.stdout.replace(r"\_d", "")
    files = {path.suffix: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(files) == {".md", ".tex", ".csv"} and answer.stdout == files[".tex"]
    widths = {len(line) for line in files[".md"].splitlines() if line.startswith("|")}
    assert len(widths) == 1, "columns are aligned"
    rows = list(csv.DictReader(io.StringIO(files[".csv"])))
    assert float(rows[0]["mean"]) == 2.0 and rows[0]["paired_difference"] == "1.75"


def test_without_a_name_the_catalogue_is_listed() -> None:
    answer = CliRunner().invoke(app, ["table"])
    assert answer.exit_code == 0
    for name in listing("table"):
        assert name in answer.output
    assert "abc/figure3" not in answer.output
    assert "abc/figure3" in CliRunner().invoke(app, ["figure"]).output


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("abc/table9", ["abc/table9", "abc/table1"]),
        ("abc/figure3", ["is a figure", "tokencredit figure"]),
    ],
)
def test_an_unknown_table_is_refused(name: str, named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        find_table(name)
    for part in named:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("titel: x", ["titel: unknown key", "CurveTable has"]),
        ("kind: curve", ["kind = 'curve': must be one of table, curves", "win_rates"]),
        ("kind: curves\nbaseline: a", ["baseline: unknown key", "Curves has"]),
        ("statistic: median", ["statistic = 'median'", "at_kl"]),
        ("panels: []", ["panels"]),
        (
            "panels: [{task: a, point: 3}]",
            ["point: unknown key", "points: is missing", "Panel has"],
        ),
        ("panels: [", ["is not YAML"]),
    ],
)
def test_a_mistake_in_an_entry_is_named(tmp_path: Path, change: str, named: list[str]) -> None:
    good = "kind: table\ntitle: t\nsource: s\nmethods: {abc: ABC}\n"
    if not change.startswith("panels"):
        good += "panels: [{task: a, points: 3}]\n"
    path = tmp_path / "own.yaml"
    path.write_text(f"{good}{change}\n")
    with pytest.raises(UserError) as caught:
        read_entry(path)
    for part in [*named, "own.yaml"]:
        assert part in str(caught.value)


def test_a_table_of_ones_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "kind: table\ntitle: Mine\nsource: none\nmethods: {abc: ABC}\n"
        "panels: [{task: positive_generation, points: 101, title: Own}]\n"
    )
    answer = CliRunner().invoke(
        app, ["table", str(tmp_path / "own.yaml"), "--runs", str(small(tmp_path))]
    )
    assert answer.exit_code == 0 and "2.0000 ± 1.4142" in answer.output


def test_every_entry_of_the_catalogue_reads_and_names_its_source() -> None:
    entries = {**listing("table"), **listing("figure")}
    assert {"abc/table1", "abc/figure3", "abc/figure4", "abc/figure5", "abc/figure7"} <= set(
        entries
    )
    for name, entry in entries.items():
        assert entry.title and entry.source and entry.methods, name
        panels = entry.panels if isinstance(entry, PanelEntry) else []
        assert not {m for p in panels for m in p.paper} - set(entry.methods), name
