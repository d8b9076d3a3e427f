"""What signals ask of a process, and what it tells those that it belongs to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.machine.child import MISTAKE, Heard
from tokencredit.machine.stopping import SIGNALS, Request, listening, request, saving
from tokencredit.pipeline.process import PAUSE_SECONDS, Stopping
from tokencredit.user_code.guard import guarded


@pytest.fixture(autouse=True)
def from_a_terminal() -> Iterator[None]:
    """A process that a script starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_asks_and_interrupts_nothing(number: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with listening() as asked:
        assert not asked.asked and request() is asked
        signal.raise_signal(number)
        assert asked.asked and asked.by == signal.Signals(number).name and not asked.insisted
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert not request().asked


def test_a_second_ctrl_c_interrupts_whatever_came_before() -> None:
    with listening() as asked:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.raise_signal(number)
        assert asked.by == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert asked.insisted


def test_within_another_and_in_a_thread_the_same_one_listens() -> None:
    seen: list[bool] = []

    def look() -> None:
        with listening() as asked:
            seen.append(asked.asked)

    with listening() as outer:
        with listening() as inner:
            assert inner is outer
        assert request() is outer
        signal.raise_signal(signal.SIGUSR1)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_process_that_ignores_ctrl_c_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with listening() as asked:
            signal.raise_signal(signal.SIGINT)
            assert not asked.asked and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_flag_asks_all_who_have_it(tmp_path: Path) -> None:
    one, other = Request(), Request()
    one.flag = other.flag = tmp_path / "STOP"
    assert not other.asked
    one.ask("SIGTERM")
    assert other.asked and not other.by


def test_a_fork_ends_by_the_signal_as_if_nobody_listened() -> None:
    with listening() as asked:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
        assert not asked.asked


def test_code_of_the_users_is_finished_and_left_at_the_second_ctrl_c() -> None:
    with listening() as asked:
        with guarded("mine.py"):
            signal.raise_signal(signal.SIGINT)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert asked.asked and request() is asked, "what it did to the handler is undone"
        with pytest.raises(KeyboardInterrupt), guarded("mine.py"):
            signal.raise_signal(signal.SIGINT)
    with (
        listening(),
        pytest.raises(UserError, match="raised KeyboardInterrupt"),
        guarded("mine.py"),
    ):
        raise KeyboardInterrupt


def test_a_child_tells_that_it_saves_and_that_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, told = os.pipe()
    monkeypatch.setenv(MISTAKE, str(told))
    heard = Heard(answer)
    with saving():
        heard.listen()
        assert heard.saving == {os.getpid()}
    heard.listen()
    assert not heard.saving
    os.close(told)
    os.close(answer)


def sleeper() -> subprocess.Popen[bytes]:
    """A process that waits for a signal, and ends with exit code 7 when it gets SIGUSR1."""
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))\n"
        "print(flush=True)\nsignal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as said:
        said.readline()
    return child


def test_a_request_of_one_process_goes_to_all_and_has_a_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer, told = os.pipe()
    heard, children = Heard(answer), [sleeper(), sleeper()]
    with listening() as asked:
        stopping = Stopping("rl abc", 40.0)
        assert not stopping.look(children, heard, last=False)
        assert all(child.poll() is None for child in children)
        heard.asked, heard.saving = "SIGINT", {children[0].pid}
        assert not stopping.look(children, heard, last=False)
        assert [child.wait(10) for child in children] == [7, 7]
        assert asked.by == "SIGINT", "the command and its other cells are asked, too"
        stopping.until = 0.0
        assert stopping.look(children, heard, last=False)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "SIGINT: rl abc saves behind the step" in said and "40 s" in said
    )
    assert "run.stop_seconds=40" in stopping.outcome(heard)
    heard.stopped = "is saved behind step 3 of 9"
    assert stopping.outcome(heard) == "rl abc is saved behind step 3 of 9"
    os.close(told)
    os.close(answer)


def test_what_does_not_save_has_a_short_time(capsys: pytest.CaptureFixture[str]) -> None:
    answer, told = os.pipe()
    heard = Heard(answer)
    with listening():
        stopping = Stopping("oracle abc", None)
        signal.raise_signal(signal.SIGTERM)
        stopping.look([], heard, last=False)
    assert f"ends, within {PAUSE_SECONDS:g} s" in capsys.readouterr().err
    assert "nothing is saved on the way" in stopping.outcome(heard)
    os.close(told)
    os.close(answer)
