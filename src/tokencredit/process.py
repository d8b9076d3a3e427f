"""Child processes: one for each stage, with its own threads, ending when its parent ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from tokencredit import config as configuration
from tokencredit.config import Config

PR_SET_PDEATHSIG = 1
LIFELINE = "TOKENCREDIT_LIFELINE"
MISTAKE = "TOKENCREDIT_MISTAKE"


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
    """Run one stage in a process of its own; its exit code, and the user's mistake if any.

    The configuration goes in through standard input and a mistake comes back through a pipe, so a
    process that is killed leaves no files behind.
    """
    lifeline, held = os.pipe()
    answer, told = os.pipe()
    try:
        environment = {
            **stage_environment(config, stage),
            LIFELINE: str(lifeline),
            MISTAKE: str(told),
        }
        command = [sys.executable, "-m", "tokencredit.worker", stage, key]
        child = subprocess.Popen(
            command, env=environment, pass_fds=(lifeline, told), stdin=subprocess.PIPE
        )
        os.close(told)
        told = -1
        with child:
            try:
                child.communicate(configuration.dump(config).encode())
            except KeyboardInterrupt:
                child.terminate()
                raise
        with os.fdopen(answer, encoding="utf-8") as file:
            answer = -1
            return child.returncode, file.read()
    finally:
        for descriptor in (lifeline, held, answer, told):
            if descriptor >= 0:
                os.close(descriptor)


def tell_parent(mistake: str) -> None:
    """Hand a user's mistake to the process that started this one, which says it once."""
    with os.fdopen(int(os.environ[MISTAKE]), "w", encoding="utf-8") as file:
        file.write(mistake)


def follow(process: int) -> None:
    """End this process soon after `process`, its parent, has ended (for launchers' own workers)."""

    def watch() -> None:
        while os.getppid() == process:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
