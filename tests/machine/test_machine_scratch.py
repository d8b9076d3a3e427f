"""Temporary files of a command go with it, however it ends; nobody else's are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokencredit.machine import scratch
from tokencredit.machine.scratch import temporary_folder

COMMAND = """
import signal, subprocess, sys, tempfile
from tokencredit.machine.scratch import temporary_folder

WRITES = '''
import os, tempfile
folder = tempfile.mkdtemp("wandb-media")
print(folder, flush=True)
number = 0
while os.getppid() != 1:
    number += 1
    open(os.path.join(folder, str(number)), "w").close()
'''

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started with nohup
with temporary_folder():
    kept = tempfile.TemporaryDirectory(prefix="tokencredit-")
    subprocess.Popen([sys.executable, "-c", WRITES])
    while True:
        signal.pause()
"""
MARK = "tokencredit-{host}-1-abcdefgh"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the system's folder for temporary files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv(scratch.VARIABLE, str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield place
    assert os.environ[scratch.VARIABLE] == str(place)


@pytest.fixture
def command(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A command whose child goes on writing into a temporary folder of a library's."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    written = Path(process.stdout.readline().strip())
    assert written.name.endswith("wandb-media")
    assert written.parent.parent == place
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_and_its_temporary_files_at_once(
    place: Path, command: subprocess.Popen[str], number: int
) -> None:
    (folder,) = place.iterdir()
    assert len(list(folder.iterdir())) == 2
    command.send_signal(number)
    assert command.wait(10) == -number
    assert not list(place.iterdir())


def test_what_a_killed_command_leaves_goes_with_the_next_one(
    place: Path, command: subprocess.Popen[str]
) -> None:
    with temporary_folder():  # another command beside it, which is alive
        assert len(list(place.iterdir())) == 2
    (folder,) = place.iterdir()
    command.kill()
    assert command.wait(10) == -signal.SIGKILL
    assert folder.is_dir()
    with temporary_folder():
        assert not folder.exists()
        own = Path(tempfile.gettempdir())
        assert own.parent == place
        with temporary_folder():  # a command within
            assert tempfile.gettempdir() == str(own)
        assert own.is_dir()
    assert not list(place.iterdir())


def test_what_is_not_ours_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = MARK.format(host=scratch._host())
    names = ["tokencredit-results", f"{mark}.bak", MARK.format(host="0" * 8), "tmpabcwandb-media"]
    for name in names:
        (place / name).mkdir()
        (place / name / "precious").touch()
    (place / mark).symlink_to(place / names[0])
    (place / mark.replace("-1-", "-2-")).write_text("no folder")
    everything = sorted(place.rglob("*"))
    scratch.sweep(place)
    assert sorted(place.rglob("*")) == everything

    abandoned = place / mark.replace("-1-", "-3-")
    abandoned.mkdir()
    with monkeypatch.context() as other:
        other.setattr(scratch.os, "geteuid", lambda: os.getuid() + 1)
        scratch.sweep(place)
    assert abandoned.is_dir(), "it belongs to another user"
    scratch.sweep(place)
    assert sorted(place.rglob("*")) == everything


def test_a_command_goes_on_where_no_folder_can_be_made_or_locked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(scratch.fcntl, "flock", refuse)
    with temporary_folder():
        assert tempfile.gettempdir() == str(place)
        assert not list(place.iterdir())


def test_an_ignored_sigterm_stays_ignored(place: Path) -> None:
    ending = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with temporary_folder():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ending)
    with temporary_folder():
        assert callable(signal.getsignal(signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is ending
