"""GPUs of cells that run beside each other: each stage takes free ones for itself, or waits."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import require
from tokencredit.machine.stopping import Stopped, request
from tokencredit.store.artifacts import make_folder

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
FOLDER: Final = ".devices"
"""Of the store, which cells beside each other share: a lock for each machine and device."""
WAIT_SECONDS: Final = 0.5
COUNT: Final = "import torch; print(torch.cuda.device_count())"


def _count() -> int:
    """How many GPUs this machine has; torch is asked in another process where nobody else knows."""
    for command in (["nvidia-smi", "--list-gpus"], [sys.executable, "-c", COUNT]):
        try:
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            continue
        return len(said.splitlines()) if command[0] == "nvidia-smi" else int(said)
    return 0


def visible(environment: Mapping[str, str], count: Callable[[], int] = _count) -> list[str]:
    """The GPUs that a process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = environment.get(VISIBLE)
    if named is None:
        return [str(number) for number in range(count())]
    return [name for name in re.split(r"\s*,\s*", named.strip()) if name]


@contextmanager
def of_own(
    config: Config, processes: int, count: Callable[[], int] = _count
) -> Iterator[dict[str, str]]:
    """What a stage's environment needs so that no other cell on this machine uses its GPUs, which
    are held as long as the block lasts: nothing for a run that is no cell, or on the CPU.

    Waits while too few are free, and says so; raises `Stopped` where a signal asks to stop
    meanwhile. Takes all or none, so that two never wait for one another.
    """
    if config.run.group is None or config.hardware.on_cpu():
        yield {}
        return
    names = visible(os.environ, count)
    require(
        processes <= len(names),
        "hardware.processes",
        processes,
        f"a cell takes a GPU for each process, and {len(names)} can be used here "
        f"({VISIBLE}={','.join(names)}); set hardware.processes={max(len(names), 1)} or fewer",
    )
    folder = Path(config.store).expanduser() / FOLDER
    make_folder(folder)
    said = False
    while True:
        with ExitStack() as held:
            taken = _take(folder, names, processes, held)
            if len(taken) == processes:
                yield {VISIBLE: ",".join(taken)}
                return
        if request().asked:
            raise Stopped("was waiting for a GPU")
        if not said:
            said = True
            say(f"waiting for {processes} of {len(names)} GPUs, which other cells use")
        time.sleep(WAIT_SECONDS)


def _take(folder: Path, names: list[str], wanted: int, held: ExitStack) -> list[str]:
    """At most `wanted` devices that were free; their locks are released with `held`. Death frees
    them too."""
    taken: list[str] = []
    for name in names:
        if len(taken) == wanted:
            break
        place = re.sub(r"[^\w.-]", "_", f"{socket.gethostname()}-{name}")
        lock = FileLock(folder / f"{place}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        held.callback(lock.release)
        taken.append(name)
    return taken
