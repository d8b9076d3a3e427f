"""Child processes: one for each stage, with its own threads, ending when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tokencredit import config as configuration
from tokencredit.config import Config

PR_SET_PDEATHSIG = 1
LIFELINE = "TOKENCREDIT_LIFELINE"
MISTAKE = "mistake.txt"
"""Beside the configuration: what a worker has to say about a user's mistake."""


def die_with_parent() -> None:
    """End this process when its parent ends, however that happened.

    Linux sends a signal; elsewhere (and for a parent that is gone already) the end of a pipe that
    the parent holds open tells.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.environ.get(LIFELINE)
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(int(descriptor),), daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(1)


def stage_environment(config: Config, stage: str) -> dict[str, str]:
    """The environment of a stage's process."""
    threads = str(config.hardware.threads_of(stage))
    quiet = {
        "TOKENIZERS_PARALLELISM": "false" if threads == "1" else "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Spinning barriers slow everything tenfold when another process wants the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc otherwise returns every large buffer to the kernel, to ask for it a step later.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }
    if config.hardware.on_cpu():
        quiet["DS_ACCELERATOR"] = "cpu"
    return {**os.environ, **quiet}


def run_stage(config: Config, stage: str, key: str) -> tuple[int, str]:
    """Run one stage in a process of its own; its exit code, and the user's mistake, if any."""
    with tempfile.TemporaryDirectory(prefix="tokencredit-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(configuration.dump(config), encoding="utf-8")
        read_end, write_end = os.pipe()
        try:
            environment = {**stage_environment(config, stage), LIFELINE: str(read_end)}
            command = [sys.executable, "-m", "tokencredit.worker", str(path), stage, key]
            with subprocess.Popen(
                command, env=environment, pass_fds=(read_end,), stdin=subprocess.DEVNULL
            ) as child:
                try:
                    code = child.wait()
                except KeyboardInterrupt:
                    child.terminate()
                    raise
            mistake = path.with_name(MISTAKE)
            return code, mistake.read_text(encoding="utf-8") if mistake.is_file() else ""
        finally:
            os.close(read_end)
            os.close(write_end)
