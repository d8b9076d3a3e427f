"""Programs of the comparison as child processes that take turns."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workload

ENVIRONMENT = {
    "OMP_NUM_THREADS": str(workload.THREADS),
    "MKL_NUM_THREADS": str(workload.THREADS),
    "GOMP_SPINCOUNT": "20000",  # a program that waits for its turn soon leaves the cores alone
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
LAST_LINES = 3
"""Of a failed program's log, shown with the failure."""


class ProgramFailed(Exception):
    """A program crashed, timed out, or answered something else than a measurement."""


class Program:
    """One child process; every method waits for its answer."""

    def __init__(self, name: str, command: Sequence[str], log: Path, timeout: float) -> None:
        """`command` speaks protocol.py; what it prints to standard error goes to `log`."""
        self.name, self.log, self.timeout = name, log, timeout
        self._answers: queue.Queue[str | None] = queue.Queue()
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **ENVIRONMENT},
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self) -> dict[str, Any]:
        """Wait until models stand; what the program says of itself."""
        answer = self._answer()
        if not answer.get("ready"):
            raise ProgramFailed(f"said {answer} instead of being ready")
        return answer

    def iterate(self) -> dict[str, Any]:
        """One PPO iteration; its measurement."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("iterate\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ProgramFailed(f"no longer runs{self._ending()}") from error
        return self._answer()

    def stop(self) -> None:
        """Ask it to leave; kill it where it does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has gone by itself
            self._process.stdin.write("quit\n")
            self._process.stdin.flush()
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self.timeout)
        except queue.Empty:
            self._process.kill()
            raise ProgramFailed(f"said nothing for {self.timeout:.0f} s and was ended") from None
        if line is None:
            raise ProgramFailed(f"ended without an answer{self._ending()}")
        try:
            answer = json.loads(line)
        except ValueError:
            raise ProgramFailed(f"answered {line.strip()!r}, which is not JSON") from None
        if not isinstance(answer, dict) or "error" in answer:
            raise ProgramFailed(answer["error"] if isinstance(answer, dict) else line.strip())
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)

    def _ending(self) -> str:
        """Exit status and the last lines of the log."""
        try:
            status = f" (status {self._process.wait(timeout=5)})"
        except subprocess.TimeoutExpired:
            status = ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return status + "".join(f"\n    {line}" for line in lines[-LAST_LINES:])
