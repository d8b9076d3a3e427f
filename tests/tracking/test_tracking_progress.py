"""The progress display: plain lines at a bounded rate, one live line on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from tokencredit.tracking.progress import Progress


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def _lines(total: int, start: int, seconds: float, clock: Clock, capsys: object) -> list[str]:
    with Progress(total, start, "abc") as progress:
        for step in range(start, total):
            clock.now += seconds
            progress.update(step, {"score/mean": 0.5, "kl/k1": 2.0, "x/tokens_per_second": 1234.5})
    out, err = capsys.readouterr()  # type: ignore[attr-defined]
    assert out == ""
    return list(err.splitlines())


def test_a_plain_line_holds_score_kl_speed_and_time_left(clock: Clock, capsys: object) -> None:
    lines = _lines(100, 0, 2.0, clock, capsys)
    assert lines[0] == "abc    1/100  score 0.500  kl 2.000  1,234 tokens/s  3:18 left"
    assert lines[-1].endswith("100/100  score 0.500  kl 2.000  1,234 tokens/s  0:00 left")


def _shown(lines: list[str]) -> list[int]:
    return [int(line.split()[1].split("/")[0]) for line in lines]


def test_quick_steps_are_shown_once_a_second(clock: Clock, capsys: object) -> None:
    assert _shown(_lines(100, 0, 0.0625, clock, capsys)) == [1, 17, 33, 49, 65, 81, 97, 100]


def test_medium_steps_are_shown_every_tenth_time(clock: Clock, capsys: object) -> None:
    assert _shown(_lines(32, 0, 0.5, clock, capsys)) == [1, 11, 21, 31, 32]


def test_slow_steps_are_all_shown(clock: Clock, capsys: object) -> None:
    assert _shown(_lines(4, 0, 60.0, clock, capsys)) == [1, 2, 3, 4]


def test_a_resumed_run_estimates_from_its_own_steps(clock: Clock, capsys: object) -> None:
    lines = _lines(100, 90, 400.0, clock, capsys)
    assert lines[0].startswith("abc   91/100")
    assert lines[0].endswith("1:00:00 left")


def test_the_estimate_follows_the_last_twenty_steps(clock: Clock) -> None:
    progress = Progress(100, 0, "abc")
    assert progress.seconds_left() == 0.0
    for step in range(60):
        clock.now += 50.0 if step < 30 else 2.0
        progress.update(step, {})
    assert progress.seconds_left() == pytest.approx(40 * 2.0)


def test_what_advances_by_many_is_estimated_by_what_is_done(clock: Clock) -> None:
    progress = Progress(24_000, 0, "generate")
    for _ in range(30):
        clock.now += 3.0
        progress.advance(100)
    assert progress.seconds_left() == pytest.approx(210 * 3.0)


def test_on_a_terminal_one_line_is_redrawn() -> None:
    program = """
from tokencredit.tracking.progress import Progress
with Progress(3, 0, "abc") as progress:
    for step in range(3):
        progress.update(step, {"score/mean": 0.5 + step, "kl/k1": 2.0})
"""
    own, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, stderr=terminal, stdout=subprocess.PIPE, env=environment, check=True
    )
    shown = os.read(own, 100_000).decode()
    os.close(own)
    os.close(terminal)
    assert done.stdout == b""
    assert "abc" in shown
    assert "3/3" in shown
    assert "score 2.500  kl 2.000  0:00 left" in shown
    assert "━" in shown
    assert "\x1b[" in shown
