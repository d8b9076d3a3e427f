"""Primary claims, corrected verdicts, gold at equal KL, and the committed ledger."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from paper_runs import ROOT, lines, write_csv
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.papers.claim_tests import gold_at_equal_kl
from tokencredit.papers.claims import (
    Claim,
    Judged,
    Stated,
    corrected_by_page,
    judge_claims,
    papers,
    read_claims,
    read_win_claims,
)
from tokencredit.papers.entries import CLAIMS, FOLDER, Panel, claim_names
from tokencredit.papers.file_claims import read_file_claims
from tokencredit.papers.ledger import LEDGER, ledger, tasks_of, work_of
from tokencredit.papers.runs import LoggedRun, Origin, Setting
from tokencredit.papers.sources import read_sources
from tokencredit.papers.verdicts import Evidence, Finding, Verdict, all_of, corrected, no_data
from tokencredit.preflight.checks import check_primary
from tokencredit.settings import Run
from tokencredit.store.files import read_yaml

EXPERIMENTS = ROOT / "conf" / "experiment"


def finding(p: float | None, verdict: Verdict = Verdict.supported) -> Finding:
    return Finding(verdict, "x", 5, p)


def test_the_committed_ledger_is_made_of_the_committed_cells() -> None:
    kept = (ROOT / "experiments" / LEDGER).read_text(encoding="utf-8")
    assert ledger(ROOT / "experiments") == kept, "run `tokencredit claims --all`"


def test_every_claim_states_hypothesis_margin_and_rank() -> None:
    """In the file itself, not by a default."""
    for paper in papers():
        tree = read_yaml(FOLDER / paper / "claims.yaml")
        for claim in [claim for kind in CLAIMS for claim in tree.get(kind, ())]:
            assert {"hypothesis", "margin", "primary"} <= claim.keys(), claim["name"]
            assert claim["hypothesis"]


def test_each_experiment_has_one_primary_claim_and_its_file_names_it() -> None:
    for paper in papers():
        every: list[Stated] = [*read_claims(paper), *read_win_claims(paper)]
        of_files = {claim.task for claim in read_file_claims(paper)}
        for task in tasks_of(paper):
            if task in of_files:  # they are one family, and none stands by itself
                assert not any(task in claim.primary for claim in every)
                assert not any(claim.primary for claim in read_file_claims(paper))
                continue
            (primary,) = [claim for claim in every if task in claim.primary]
            tree = read_yaml(EXPERIMENTS / paper / f"{task}.yaml")
            assert tree["run"]["primary"] == f"{paper}/{primary.name}", task


def test_no_experiment_names_a_claim_that_is_not_there() -> None:
    named = {
        path: read_yaml(path).get("run", {}).get("primary") for path in EXPERIMENTS.rglob("*.yaml")
    }
    assert {claim for claim in named.values() if claim} <= set(claim_names())
    assert sum(claim is not None for claim in named.values()) >= 7


def test_holm_takes_a_verdict_away_and_says_so() -> None:
    """p .01 · 3, .03 · 2, .2: only the first stays below .05. The primary one is not counted."""
    findings = [finding(0.03), finding(0.04), finding(0.01), finding(0.2, Verdict.undecided)]
    found = corrected(findings, [False, True, False, False])
    assert found[0].word == "cannot be decided (by itself: supported)"
    assert found[0].text == "x; corrected p = 0.06"
    assert (found[1].word, found[1].adjusted) == ("supported", None)
    assert found[2].word == "supported" and found[2].adjusted == pytest.approx(0.03)
    assert found[3].word == "cannot be decided" and found[3].adjusted == pytest.approx(0.2)


def test_what_has_no_p_is_neither_counted_nor_changed() -> None:
    findings = [finding(0.04, Verdict.contradicted), no_data("none"), finding(None)]
    found = corrected(findings, [False] * 3)
    assert [f.word for f in found] == ["contradicted", "no data", "supported"]
    equivalent = finding(0.3, Verdict.equivalent)
    assert corrected([equivalent, finding(0.3)], [False] * 2)[0].word == "equivalent"


def test_claims_of_another_page_are_another_family() -> None:
    claim = read_claims("abc")[1]
    at = [("a", 0.03), ("a", 0.03), ("b", 0.03)]
    judged = [Judged(claim, page, "cells", "", finding(p), page) for page, p in at]
    words = [item.finding.word for item in corrected_by_page(judged)]
    assert words == ["cannot be decided (by itself: supported)"] * 2 + ["supported"]
    apart = [replace(judged[0], source="first"), replace(judged[1], source="second")]
    assert [item.finding.word for item in corrected_by_page(apart)] == ["supported"] * 2


def test_p_of_a_claim_of_several_parts() -> None:
    """All must hold: the largest; one that is against it is enough: the smallest, times the parts."""
    assert all_of([finding(0.01), finding(0.04)]).p == 0.04
    against = finding(0.01, Verdict.contradicted)
    assert all_of([against, finding(0.001)]).p == pytest.approx(0.02)
    assert all_of([finding(0.01), finding(None)]).p is None
    assert not all_of([no_data("a"), no_data("b")]).data


def test_verdict_and_p_agree_on_paired_runs(tmp_path: Path) -> None:
    """Differences 1, 2, 3: mean 2, se 1/√3, t = 3.464 with 2 degrees of freedom, p = .0742."""
    runs = [
        lines(method, run, [float(run + up * (run + 1))] * 101)
        for method, up in (("abc", 1), ("sparse", 0))
        for run in range(3)
    ]
    found = judge_claims(read_claims("abc"), read_sources([write_csv(tmp_path / "r.csv", *runs)]))
    higher = next(item for item in found if item.claim.name == "higher")
    assert higher.finding.p == pytest.approx(0.0742, abs=1e-4)
    assert higher.finding.verdict is Verdict.undecided


def run(method: str, number: int, kl: Sequence[float], gold: Sequence[float]) -> LoggedRun:
    """A run with evaluations every five steps; without any where there are no values."""
    way = {"step": [5.0 * k for k in range(len(kl))], "kl": kl, "oracle": gold} if kl else {}
    origin = Origin(Path(), on_the_way=way)
    curve = {"mean_reward": [0.0] * (5 * max(len(kl) - 1, 1))}
    return LoggedRun(Setting("t", method, None, (8, 16)), number, "complete", curve, origin)


def gold(abc: Sequence[LoggedRun], sparse: Sequence[LoggedRun]) -> Finding:
    panel, runs = Panel(task="t", points=5), {"abc": abc, "sparse": sparse}
    evidence = Evidence([panel], [runs], "abc", "sparse", [], "mean", 0.5, None, 10.0)
    return gold_at_equal_kl(evidence)


def test_gold_at_equal_kl_by_hand() -> None:
    """At 10 nats, halfway from 8 to 12: abc 3 and 5, sparse 1 and 1.2; one run never comes there.

    4 − 1.1 = 2.9; variances 2 and .02, se = √(2.02 / 2) = 1.005.
    """
    abc = [run("abc", n, [0, 8, 12], [0, 2 + 2 * n, 4 + 2 * n]) for n in range(2)]
    sparse = [run("sparse", n, [0, 8, 12], [0, 1 + 0.2 * n, 1 + 0.2 * n]) for n in range(2)]
    found = gold(abc, [*sparse, run("sparse", 2, [0, 8, 9.9], [0, 50, 50])])
    assert found.numbers.startswith("abc − sparse = +2.900 [") and found.n == 2
    assert found.numbers.endswith("2 of 2 abc and 2 of 3 sparse runs come to 10 nats")
    assert found.verdict is Verdict.undecided and found.p is not None
    # Welch and Satterthwaite: 1.01² / (1 + .0001) = 1.0200 degrees of freedom, t = 2.886.
    assert found.p == pytest.approx(0.209, abs=0.003)


def test_gold_at_equal_kl_is_paired_where_that_helps() -> None:
    """Halfway: abc 1, 2, 4, 5, sparse ½, 1½, 3, 5, r = .982: mean ½, se = .408 / 2, t = 2.449."""
    abc = [run("abc", n, [0, 20], [0, 2 * x]) for n, x in enumerate([1, 2, 4, 5])]
    sparse = [run("sparse", n, [0, 20], [0, 2 * x]) for n, x in enumerate([0.5, 1.5, 3, 5])]
    found = gold(abc, sparse)
    assert found.numbers.startswith("abc − sparse = +0.500 [-0.150, +1.150] (paired), p = 0.092")
    assert found.p == pytest.approx(0.0917, abs=1e-4)


def test_gold_at_equal_kl_decides_where_it_can() -> None:
    abc = [run("abc", n, [0, 20], [0, 8 + n / 10]) for n in range(5)]
    sparse = [run("sparse", n, [0, 20], [0, 2 + n / 10]) for n in range(5)]
    assert gold(abc, sparse).verdict is Verdict.supported
    assert gold(sparse, abc).verdict is Verdict.contradicted


def test_cells_without_evaluations_on_the_way_are_no_data() -> None:
    with_them = [run("abc", n, [0, 20], [0, 1]) for n in range(3)]
    without = [run("sparse", n, [], []) for n in range(3)]
    assert gold(with_them, without).word == "no data"
    never = [run("sparse", n, [0, 5], [0, 1]) for n in range(3)]
    found = gold(with_them, never)
    assert found.word == "cannot be decided" and "0 of 3 sparse" in found.numbers


def test_a_level_belongs_to_its_test() -> None:
    given = {"name": "x", "says": "x", "where": "x", "panels": []}
    for test, level in (("higher", 10.0), ("gold_at_equal_kl", None)):
        with pytest.raises(UserError, match="level"):
            Claim(**given, test=test, level=level)


def test_the_work_of_an_experiment_is_that_of_its_sweep() -> None:
    """Two ranges in braces, four schemes, five seeds: 40 cells; of 90 s an hour."""
    work = work_of("abc/generation_length", 90.0, on_the_way=False)
    command = "tokencredit train -m experiment=abc/generation_length scale=cpu"
    assert (work.command, work.cells) == (command, 40)
    assert work.text() == f"`{command}` (40 cells of 90 s, 1.0 h)"
    unknown = work_of("abc/generation_length", None, on_the_way=True)
    assert unknown.text() == f"`{command} evaluation.every=5` (40 cells, hours unknown)"


def test_one_cell_changed_is_another_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    shutil.copytree(ROOT / "experiments" / "abc" / "beta_sweep", folder / "abc" / "beta_sweep")
    before = ledger(folder)
    for path in (folder / "abc" / "beta_sweep").glob("*.json"):
        record = json.loads(path.read_text())
        record["wall_seconds"] = math.pi
        path.write_text(json.dumps(record))
    assert ledger(folder) == before, "times are of claims without data alone"
    for path in (folder / "abc" / "beta_sweep").glob("*.csv"):
        path.unlink()
    after = ledger(folder)
    assert after != before and "no data for beta: `tokencredit train -m" in after


def test_all_takes_nothing_else() -> None:
    for extra in (["abc"], ["--points", "3"]):
        ended = CliRunner().invoke(app, ["claims", "--all", *extra])
        assert isinstance(ended.exception, UserError) and "--all" in str(ended.exception)


def test_a_run_names_a_claim_that_is_there() -> None:
    def named(claim: str | None) -> Any:
        return SimpleNamespace(config=SimpleNamespace(run=Run(primary=claim)))

    for claim in (None, "abc/higher", "rto/best"):
        check_primary(named(claim), [])
    with pytest.raises(UserError, match=r"run\.primary = 'abc/highre'.*did you mean 'abc/higher'"):
        check_primary(named("abc/highre"), [])
