"""Commands that are killed, or asked to stop, in the middle of their work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from .conftest import STEPS, Wait, Workplace

ARGUMENTS = [f"steps={STEPS}", "run.sample_every=10", "run.save_every=1", "run_dir=killed"]


def lines(file: Path) -> int:
    """How many lines a log has."""
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def is_over(process: psutil.Process) -> bool:
    """Whether a process has ended; one that nobody waits for stays as a zombie."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def workers(parent: int) -> list[psutil.Process]:
    """The stage processes below `parent`."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "tokencredit.pipeline.worker" in child.cmdline():
                    found.append(child)
    return found


def clean_up(process: subprocess.Popen[str], others: list[psutil.Process]) -> tuple[str, str]:
    """End what a failing test left of its process group; what the command printed."""
    for one in others:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.communicate(timeout=30)


def start(place: Workplace, *arguments: str) -> subprocess.Popen[str]:
    """Start a training in a session of its own, which Ctrl-C interrupts even if the tests were
    started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return place.start("train", *place.base, *arguments, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


def ask(
    place: Workplace,
    wait_until: Wait,
    arguments: Sequence[str],
    moment: Callable[[], bool],
    number: int,
    whom: str,
) -> tuple[int, str]:
    """Start a training, send a signal to parent, group, worker, or the second rank at `moment`; its
    exit code, and what it said."""
    process = start(place, *arguments)
    below: list[psutil.Process] = []
    try:
        assert wait_until(lambda: process.poll() is not None or moment(), 180), (
            "the moment never came"
        )
        assert process.poll() is None, process.communicate()
        below = workers(process.pid)
        assert below
        if whom == "group":
            os.killpg(process.pid, number)
        elif whom == "parent":
            os.kill(process.pid, number)
        else:
            below[1 if whom == "rank" else 0].send_signal(number)
        code = process.wait(timeout=120)
        assert wait_until(lambda: all(map(is_over, below)), 2.0), "a child outlived its parent"
    finally:
        _, err = clean_up(process, below)
    return code, err
