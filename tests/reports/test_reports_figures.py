"""The figures: what they draw, that they are whole files, and that equal numbers look equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tokencredit.errors import UserError
from tokencredit.reports import figures
from tokencredit.reports.figures import plot_comparison, plot_run
from tokencredit.statistics.curves import running_mean

Write = Callable[..., Path]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by file name, caught before they become pictures."""
    caught: dict[str, Figure] = {}

    def keep(path: Path, draw: Any, *arguments: Any) -> None:
        caught[path.name] = Figure()
        draw(caught[path.name], *arguments)

    monkeypatch.setattr(figures, "_save", keep)
    return caught


def _is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_running_mean_uses_fewer_values_at_the_beginning() -> None:
    assert running_mean([1.0, 2.0, 3.0, 4.0], window=2) == [1.0, 1.5, 2.5, 3.5]
    assert running_mean([], window=2) == []


def test_plot_run_writes_two_whole_pictures(complete_run: Path) -> None:
    paths = plot_run(complete_run)
    assert [path.name for path in paths] == ["reward.png", "kl.png"]
    assert all(_is_png(path) for path in paths)
    assert sorted(path.name for path in (complete_run / "figures").iterdir()) == [
        "kl.png",
        "reward.png",
    ]


def test_metrics_alone_are_enough_and_equal_numbers_give_equal_bytes(
    tmp_path: Path, write_run: Write
) -> None:
    runs = [
        write_run(tmp_path / copy / "sparse" / "key", score__mean=[0.0, 1.0], kl__k1=[0.0, 2.0])
        for copy in "ab"
    ]
    first, second = (plot_run(run) for run in runs)
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_the_reward_figure_shows_every_step_and_the_running_mean(
    complete_run: Path, drawn: dict[str, Figure]
) -> None:
    plot_run(complete_run)
    (axes,) = drawn["reward.png"].axes
    raw, mean = (np.asarray(line.get_ydata()) for line in axes.lines)
    assert raw.tolist() == [float(t % 2 + 4 * (t >= 12)) for t in range(24)]
    assert mean[9] == pytest.approx(0.5)
    assert mean[23] == pytest.approx(4.5)
    assert mean[12] == pytest.approx((5 + 4 - 0) / 10)  # steps 3 to 12: five ones and a four
    assert "abc" in axes.get_title(loc="left") + axes.get_title()
    assert axes.get_xlabel() == "step"
    assert "units" in axes.get_ylabel()


def test_the_kl_figure_shows_the_coefficient_on_an_axis_of_its_own(
    complete_run: Path, drawn: dict[str, Figure]
) -> None:
    plot_run(complete_run)
    axes, twin = drawn["kl.png"].axes
    assert list(axes.lines[0].get_ydata())[:3] == [0.0, 0.5, 1.0]  # type: ignore[arg-type]
    assert set(twin.lines[0].get_ydata()) == {0.1}  # type: ignore[arg-type]
    assert "nats" in axes.get_ylabel()


def test_a_run_of_one_step_shows_a_point(
    tmp_path: Path, write_run: Write, drawn: dict[str, Figure]
) -> None:
    plot_run(write_run(tmp_path / "a", score__mean=[1.0]))
    (axes,) = drawn["reward.png"].axes
    assert {line.get_marker() for line in axes.lines} == {"o"}
    assert axes.get_xlim() == (-0.5, 0.5)
    plot_run(write_run(tmp_path / "b", score__mean=[1.0, 2.0]))
    (axes,) = drawn["reward.png"].axes
    assert "o" not in {line.get_marker() for line in axes.lines}
    assert axes.get_xlim() == (0.0, 1.0)


def test_without_a_coefficient_there_is_one_axis_and_without_kl_no_figure(
    tmp_path: Path, write_run: Write, drawn: dict[str, Figure]
) -> None:
    plot_run(write_run(tmp_path / "a", score__mean=[0.0, 1.0], kl__k1=[0.0, 1.0]))
    assert len(drawn["kl.png"].axes) == 1
    drawn.clear()
    plot_run(write_run(tmp_path / "b", score__mean=[0.0, 1.0]))
    assert set(drawn) == {"reward.png"}


def test_the_comparison_draws_mean_and_standard_error_over_seeds(
    tmp_path: Path, write_run: Write, drawn: dict[str, Figure]
) -> None:
    # Constant runs: smoothing leaves 1, 3 with mean 2 and standard error 1. The third step of the
    # longer run has no partner and is left out.
    seeds = [
        write_run(tmp_path / "0", score__mean=[1.0, 1.0]),
        write_run(tmp_path / "1", score__mean=[3.0, 3.0, 3.0]),
    ]
    single = [write_run(tmp_path / "2", score__mean=[0.0, 2.0])]
    plot_comparison({"abc": seeds, "sparse": single}, tmp_path / "out.png")
    (axes,) = drawn["out.png"].axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2.0, 2.0], [0.0, 1.0]]  # type: ignore[arg-type]
    (band,) = axes.collections
    edges = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert [edges.min(), edges.max()] == pytest.approx([1.0, 3.0])
    assert sorted(text.get_text() for text in axes.texts) == ["abc", "sparse"]
    assert "1 to 2 seeds" in axes.get_title(loc="left") + axes.get_title()


def test_names_of_lines_that_end_together_do_not_overlap(
    tmp_path: Path, write_run: Write, drawn: dict[str, Figure]
) -> None:
    groups = {
        name: [write_run(tmp_path / name, score__mean=[0.0, end])]
        for name, end in (("a", 1.0), ("b", 1.001), ("c", 1.002))
    }
    plot_comparison(groups, tmp_path / "out.png")
    heights = sorted(text.get_position()[1] for text in drawn["out.png"].axes[0].texts)
    assert min(np.diff(heights)) >= 0.06


def test_the_comparison_is_written_where_asked(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "0", kl__k1=[1.0])
    out = plot_comparison({"abc": [run]}, tmp_path / "new" / "out.png", metric="kl/k1")
    assert _is_png(out)
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]


def test_a_run_without_the_metric_is_named(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "0", kl__k1=[1.0])
    with pytest.raises(UserError, match="score/mean: the runs of abc"):
        plot_comparison({"abc": [run]}, tmp_path / "out.png")
    with pytest.raises(UserError, match=r"no step in metrics\.jsonl"):
        plot_run(tmp_path)
    assert not (tmp_path / "out.png").exists()
