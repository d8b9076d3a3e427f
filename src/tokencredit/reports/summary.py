"""The closing summary of a run on the terminal, and its HTML report."""

from __future__ import annotations

import os
from pathlib import Path

from tokencredit.reports.figures import draw_losses, plot_run
from tokencredit.reports.held_out import MEASURES, SCORERS, evaluation_table, scorer_table
from tokencredit.reports.samples import columns, continuations, embedded, render, sample_views
from tokencredit.reports.stage_report import curves_of, sections
from tokencredit.reports.times import duration, stage_times
from tokencredit.statistics.intervals import Interval, apart, mean_ci
from tokencredit.statistics.rounding import interval, rounded
from tokencredit.store.files import reading, write_bytes
from tokencredit.store.run_folder import METRICS, REPORT, RESULTS, SAMPLES, RunFolder, existing

_ENDS = 10
_REPORT_SAMPLES = 24
_PLACES = {
    "policy": "the trained policy, for from_pretrained",
    REPORT: "this summary with figures and samples",
    "figures/reward.png": "score",
    "figures/kl.png": "distance from the reference",
    RESULTS: "results",
    SAMPLES: "responses with token rewards",
    METRICS: "every step",
    "wandb": "the W&B copy",
}


def closing_summary(run_dir: str | Path) -> str:
    """Return what a run came to: score then and now, KL, evaluation, time, and where things lie.

    Raises UserError where the folder holds no step.
    """
    run = RunFolder.logged(run_dir)
    parts = ["\n".join(filter(None, [_headline(run), _horizon(run)]))]
    parts.append(columns([*score_ends(run), [gain(run)]]))
    table = evaluation_table(run)
    if table:
        parts.append(f"{MEASURES}\n{columns(table)}")
    right = scorer_table(run)
    if right:
        parts.append(f"{SCORERS}\n{columns(right)}")
    seconds = stage_times(run)
    if seconds:
        parts.append("time of the RL stage\n" + columns(seconds))
    parts += [f"{title}\n{columns(rows)}" for title, rows in sections(run.manifest())]
    warnings = run.manifest().get("warnings", [])
    if warnings:
        parts.append("warnings\n" + columns([[str(text)] for text in warnings]))
    here = [[os.path.relpath(path), _PLACES[name]] for name, path in _places(run)]
    parts.append("where things lie\n" + columns(here))
    return "\n\n".join(parts) + "\n"


def write_report(run_dir: str | Path) -> Path:
    """Write report.html, one file with numbers, figures, and samples, and return its path."""
    run = RunFolder.logged(run_dir)
    with reading(run.path / SAMPLES):
        samples = sample_views(run.samples[-_REPORT_SAMPLES:])
    drawn = [
        *plot_run(run.path),
        *draw_losses(curves_of(run.manifest().get("figures", {})), run.path),
    ]
    page = render(
        "report.html",
        title=f"{run.scheme} · {run.path.resolve().name}",
        lead=_headline(run),
        horizon=_horizon(run),
        ends=score_ends(run),
        gain=gain(run),
        figures=embedded(drawn),
        sections=sections(run.manifest()),
        evaluation=evaluation_table(run),
        continuations=continuations(run),
        scorers=scorer_table(run),
        scorers_title=SCORERS,
        phases=stage_times(run),
        samples=samples,
    )
    write_bytes(run.path / REPORT, page.encode())
    return run.path / REPORT


def score_ends(run: RunFolder) -> list[list[str]]:
    """Return the table of score and KL over the first and the last ten steps, header first.

    With fewer than twenty steps it is the first and the last half.
    """
    first, last = _ends(run, "score/mean")
    rows = [["", "score", "95 % interval", "KL (nats per response)"]]
    kl_first, kl_last = _ends(run, "kl/k1")
    for name, score, kl in (("first", first, kl_first), ("last", last, kl_last)):
        if score is not None:
            distance = rounded(kl.mean) if kl else "-"
            label = f"{name} {score.n} step{'s' if score.n > 1 else ''}"
            rows.append([label, rounded(score.mean, signed=True), _interval(score), distance])
    return rows


def gain(run: RunFolder) -> str:
    """Return in words how far apart the first and the last scores are."""
    first, last = _ends(run, "score/mean")
    if first is None or last is None or min(first.n, last.n) == 1:
        return "too few steps to compare"
    gained = rounded(last.mean - first.mean, signed=True)
    return f"{gained}, {apart(last, first):+.1f} standard errors apart"


def _headline(run: RunFolder) -> str:
    results, manifest = run.results, run.manifest()
    with reading(run.path / RESULTS):
        state = results.get("status") or manifest.get("state")
        seed = results.get("seeds", {}).get("seed")
        names = results.get("names")
        facts = [
            f"{run.scheme}: {len(run.metrics)} steps",
            "{model} on {dataset}, {hardware}".format_map(names) if names else "",
            f"seed {seed}" if seed is not None else "",
            str(state) if state else "",
            f"{duration(results['wall_seconds'])} of RL" if "wall_seconds" in results else "",
        ]
    return ", ".join(fact for fact in facts if fact)


def _horizon(run: RunFolder) -> str:
    """Whether token rewards look ahead; empty for a run that does not say."""
    return str(run.manifest().get("horizon", ""))


def _ends(run: RunFolder, metric: str) -> tuple[Interval | None, Interval | None]:
    values = run.series(metric)[1]
    if not values:
        return None, None
    count = max(1, min(_ENDS, len(values) // 2))
    return mean_ci(values[:count]), mean_ci(values[-count:])


def _places(run: RunFolder) -> list[tuple[str, Path]]:
    return [(name, path) for name in _PLACES for path in existing(run.path, [name])]


def _interval(x: Interval) -> str:
    return interval(x.low, x.high, signed=True) if x.n > 1 else "unknown (n = 1)"
