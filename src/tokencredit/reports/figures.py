"""Pictures of a run: its curves, the losses of its stages, and how well scores order pairs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokencredit.errors import UserError
from tokencredit.statistics.curves import WINDOW, running_mean
from tokencredit.statistics.pair_numbers import PairNumbers, ReliabilityBin
from tokencredit.statistics.token_numbers import TokenNumbers
from tokencredit.store.files import write_bytes
from tokencredit.store.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette, told apart with every common colour blindness; yellow is too faint here.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
_INK = "#333333"
_FAINT = "#D9D9D9"
_LABEL_HEIGHT = 0.062  # of the axes, one line of text
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_LABELS = {
    "score/mean": "score (batch mean, scorer's units)",
    "reward/mean": "reward per response (scorer's units, before KL)",
    "kl/k1": "KL to the reference (nats per response)",
    "length/mean": "response length (tokens)",
}
Curves = Mapping[str, Mapping[str, Sequence[float]]]


def plot_run(run_dir: str | Path) -> list[Path]:
    """Draw figures/reward.png and figures/kl.png of a run and return their paths.

    A metric that was not logged gives no picture.
    """
    run = RunFolder.logged(run_dir)
    figures = run.path / "figures"
    drawn = []
    for metric, name, draw in (
        ("score/mean", "reward.png", _draw_reward),
        ("kl/k1", "kl.png", _draw_kl),
    ):
        if run.series(metric)[0]:
            _save(figures / name, draw, run)
            drawn.append(figures / name)
    return drawn


def plot_comparison(
    groups: Mapping[str, Sequence[Path]], out: Path, metric: str = "score/mean"
) -> Path:
    """Draw `metric` of each group of runs, mean over seeds with a band of one standard error.

    `groups` maps a scheme's name to run folders that differ in their seed only. Each run is
    smoothed by a running mean over ten steps first; a group is drawn over the steps that all its
    runs have. Raises UserError where a run lacks `metric`.
    """
    curves = {name: _seed_curves(name, paths, metric) for name, paths in groups.items()}
    _save(Path(out), _draw_comparison, curves, metric)
    return Path(out)


def _draw_reward(figure: Figure, run: RunFolder) -> None:
    axes = figure.subplots()
    steps, values = run.series("score/mean")
    axes.plot(steps, values, color=COLOURS[0], alpha=0.35, linewidth=1, label="one step")
    label = f"mean of the last {WINDOW} steps"
    axes.plot(steps, running_mean(values), color=COLOURS[0], linewidth=2.2, label=label)
    axes.set_title(f"Score during training · {run.scheme}")
    axes.set_ylabel(_LABELS["score/mean"])
    _finish(axes, steps)
    axes.legend(loc="best")


def _draw_kl(figure: Figure, run: RunFolder) -> None:
    axes = figure.subplots()
    steps, values = run.series("kl/k1")
    lines = axes.plot(steps, values, color=COLOURS[1], linewidth=2, label="KL to the reference")
    axes.set_title(f"Distance from the reference · {run.scheme}")
    axes.set_ylabel(_LABELS["kl/k1"])
    _finish(axes, steps)
    coefficient_steps, coefficients = run.series("kl/coef")
    if coefficients:
        twin = axes.twinx()
        twin.grid(visible=False)
        twin.spines["right"].set_visible(True)
        lines += twin.plot(
            coefficient_steps,
            coefficients,
            color=COLOURS[0],
            linewidth=1.6,
            linestyle=(0, (4, 2)),
            label="KL coefficient (right)",
        )
        twin.set_ylabel("KL coefficient")
        twin.margins(y=0.15)
    axes.legend(handles=lines, loc="best")


def _draw_comparison(
    figure: Figure, curves: Mapping[str, tuple[list[int], Any]], metric: str
) -> None:
    axes = figure.subplots()
    ends: list[tuple[float, str, str]] = []
    for index, (name, (steps, seeds)) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        mean, n = seeds.mean(axis=0), len(seeds)
        axes.plot(steps, mean, color=colour, linewidth=2.2)
        if n > 1:
            se = seeds.std(axis=0, ddof=1) / np.sqrt(n)
            axes.fill_between(steps, mean - se, mean + se, color=colour, alpha=0.18, linewidth=0)
        ends.append((float(mean[-1]), name, colour))
    counts = sorted({len(seeds) for _, seeds in curves.values()})
    axes.set_title(_seeds_title(counts[0], counts[-1]))
    axes.set_ylabel(_LABELS.get(metric, metric))
    _finish(axes, [step for steps, _ in curves.values() for step in steps])
    axes.set_xlabel(f"step (running mean over {WINDOW})")
    _label_ends(axes, ends)


def _seeds_title(fewest: int, most: int) -> str:
    if most == 1:
        return "One seed each"
    count = str(most) if fewest == most else f"{fewest} to {most}"
    return f"Mean over {count} seeds ± 1 standard error"


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, pushed up where names would overlap."""
    low, high = axes.get_ylim()
    free = -np.inf
    for value, name, colour in sorted(ends):
        place = max((value - low) / (high - low), free)
        free = place + _LABEL_HEIGHT
        axes.text(
            1.015,
            place,
            name,
            color=colour,
            fontweight="bold",
            verticalalignment="center",
            transform=axes.transAxes,
        )


def _seed_curves(name: str, paths: Sequence[Path], metric: str) -> tuple[list[int], Any]:
    """Return the common steps of the runs and their smoothed curves (runs, steps)."""
    curves = []
    for path in paths:
        steps, values = RunFolder.logged(path).series(metric)
        curves.append(dict(zip(steps, running_mean(values), strict=True)))
    common = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    if not common:
        raise UserError(f"{metric}: the runs of {name} have no step of it in common")
    return common, np.array([[curve[step] for step in common] for curve in curves])


def _finish(axes: Axes, steps: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = min(steps), max(steps)
    axes.set_xlabel("step")
    axes.set_xlim((first, last) if last > first else (first - 0.5, first + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.08)
    if first == last:  # a line of one point cannot be seen
        for line in axes.lines:
            line.set_marker("o")


def _save(path: Path, draw: Any, *arguments: Any) -> None:
    """Draw on a figure of its own, without pyplot and its global state, and write it whole."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.3), dpi=160, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure, *arguments)
        buffer = io.BytesIO()
        # Neither date nor version, so that equal numbers give equal bytes.
        canvas.print_figure(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def draw_pairs(numbers: PairNumbers, path: Path) -> None:
    """Write a histogram of margins beside a reliability diagram."""
    _save(path, _draw, numbers)


def _draw(figure: Figure, numbers: PairNumbers) -> None:
    left, right = figure.subplots(1, 2)
    edges = numbers.margin_edges
    width = edges[1] - edges[0]
    colours = [COLOURS[0] if edge + width / 2 > 0 else COLOURS[1] for edge in edges[:-1]]
    left.bar(edges[:-1], numbers.margin_counts, width=width, align="edge", color=colours)
    left.set_title(
        f"{100 * numbers.accuracy:.1f} % of {numbers.pairs} pairs in order\n"
        f"(95 %: {100 * numbers.accuracy_low:.1f} to {100 * numbers.accuracy_high:.1f} %)",
        fontsize=11,
    )
    left.set_xlabel("score of chosen − score of rejected")
    left.set_ylabel("pairs")
    _draw_reliability(right, numbers.reliability, numbers.calibration_error)
    right.set_ylabel("share in which it is preferred")


def _draw_reliability(axes: Axes, bins: Sequence[ReliabilityBin], error: float) -> None:
    """How often choices of each certainty are right, beside the line where both agree."""
    axes.plot([0.5, 1], [0.5, 1], color="#777777", linewidth=1, linestyle=(0, (4, 2)))
    known = [
        (each.confidence, each.accuracy)
        for each in bins
        if each.confidence is not None and each.accuracy is not None
    ]
    axes.plot(
        [confidence for confidence, _ in known],
        [accuracy for _, accuracy in known],
        color=COLOURS[0],
        marker="o",
        linewidth=1.6,
    )
    axes.set_xlim(0.5, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(f"calibration error {error:.3f}", fontsize=11)
    axes.set_xlabel("probability of the model's choice")


def draw_tokens(numbers: TokenNumbers, path: Path) -> None:
    """Write the probabilities of good, bad, and neutral tokens beside a reliability diagram."""
    _save(path, _draw_tokens, numbers)


def _draw_tokens(figure: Figure, numbers: TokenNumbers) -> None:
    left, right = figure.subplots(1, 2)
    for colour, (name, counts) in zip(COLOURS, numbers.histogram.items(), strict=False):
        edges = np.linspace(0.0, 1.0, len(counts) + 1)
        shares = np.asarray(counts) / max(1, sum(counts))
        left.stairs(shares, edges, color=colour, linewidth=1.8, label=f"{name} ({sum(counts)})")
    left.set_title(
        f"{100 * numbers.accuracy:.1f} % of {numbers.edited} edited tokens right\n"
        f"(95 %: {100 * numbers.accuracy_low:.1f} to {100 * numbers.accuracy_high:.1f} %)",
        fontsize=11,
    )
    left.set_xlabel("D, the probability of being good")
    left.set_ylabel("share of the tokens of a class")
    left.legend(loc="best")
    _draw_reliability(right, numbers.reliability, numbers.calibration_error)
    right.set_ylabel("share of edited tokens that are right")


def draw_losses(curves: Curves, folder: Path) -> list[Path]:
    """Write figures/loss.png in a run's folder, one panel a stage, and return what was written.

    `curves` has `step` and `loss` of each stage, by name; without any there is no figure.
    """
    if not curves:
        return []
    path = folder / "figures" / "loss.png"
    _save(path, _draw_losses, curves)
    return [path]


def _draw_losses(figure: Figure, curves: Curves) -> None:
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.plot(curve["step"], curve["loss"], color=COLOURS[0], linewidth=1.6)
        panel.set_title(name.replace("_", " "), fontsize=11)
        panel.set_xlabel("optimizer step")
    panels[0].set_ylabel("training loss")
