"""Child processes: one for each stage, with its own threads, ending when its parent ends."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.machine.child import Heard
from tokencredit.machine.stopping import STOPPED, Request, Stopped, request
from tokencredit.pipeline import devices
from tokencredit.pipeline.children import Child, Pipes, end
from tokencredit.pipeline.environment import without_ignored
from tokencredit.pipeline.line import POLL_SECONDS
from tokencredit.pipeline.supervisors import CREWS

CAUSE_SECONDS = 1.0
"""What is left for several processes to end by themselves, once one of them has failed."""
PAUSE_SECONDS = 3.0
"""What a stage that does not save has to end by itself when it is asked to stop."""
INTERRUPTED = {-2: "interrupted", -9: "killed", -15: "terminated", 130: "interrupted"}


class StageFailed(UserError):
    """A stage's process ended with an error, which it has printed."""

    def __init__(self, stage: str, code: int, where: str = "") -> None:
        """`code` is the exit code, negative for a signal; `where`: which of several it was."""
        reason = INTERRUPTED.get(code, f"ended with exit code {code}")
        which = f" ({where})" if where else ""
        kept = "what was finished before it is kept"
        UserError.__init__(self, f"stage {stage} {reason}{which}; {kept}")
        self.code = code if code > 0 else 128 - code


def allocator(hardware: Hardware) -> dict[str, str]:
    """The variables that tell glibc what to do with memory that is freed."""
    if hardware.sharding is Sharding.zero3:
        # What is gathered and let go again all the time would leave holes between what stays.
        return {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
    # It otherwise returns every large buffer to the kernel, to ask for it a step later.
    return {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def stage_settings(config: Config, stage: str) -> dict[str, str]:
    """The variables that a stage's process gets besides those of its parent."""
    threads = str(config.hardware.threads_of(stage))
    settings = {
        "TOKENIZERS_PARALLELISM": "false" if threads == "1" else "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # Threads that spin for long slow everything tenfold when another process wants the cores;
        # threads that never spin make a small model a quarter slower. This is some 50 µs.
        "GOMP_SPINCOUNT": "20000",
        **allocator(config.hardware),
    }
    if config.hardware.on_cpu():
        settings["DS_ACCELERATOR"] = "cpu"
    else:
        # Without a workspace of fixed size, matrix products on CUDA devices may sum in any order.
        settings["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return settings


def stage_environment(config: Config, stage: str) -> dict[str, str]:
    """The environment of a stage's process."""
    return {**without_ignored(os.environ), **stage_settings(config, stage)}


def run_stage(config: Config, stage: str, key: str, goal: str = "") -> tuple[int, str]:
    """Run one stage in processes of its own; the exit code, and the user's mistake if any.

    `goal` is the stage that it is made for, where that is not what the run is for. Raises `Stopped`
    where a signal has asked this process, or one of the stage's, to stop, and `StageFailed` where
    one of several processes has failed.

    The configuration goes in through standard input and a mistake comes back through a pipe, so a
    process that is killed leaves no files behind. The first process that fails ends the others.
    """
    count = config.hardware.processes_of(stage)
    children: list[Child] = []
    with devices.of_own(config, count) as chosen:
        pipes = Pipes()
        try:
            work = [stage, key, *filter(None, [goal])]
            _start(children, pipes, config, work, {**stage_settings(config, stage), **chosen})
            heard = Heard(pipes.answer)
            stopping = Stopping(f"{stage} {key}", config.run.stop_seconds)
            code = _first_failure(children, heard, stopping)
            end(children)
            _listen(heard)
            if code == STOPPED:
                raise Stopped(stopping.outcome(heard))
            if code and not heard.mistake and (len(children) > 1 or CREWS):
                raise StageFailed(stage, code, _where(children, heard))
            return code, heard.mistake
        finally:
            end(children)
            pipes.close()


def _start(
    children: list[Child],
    pipes: Pipes,
    config: Config,
    work: Sequence[str],
    settings: dict[str, str],
) -> None:
    """Add a stage's processes to `children` as they start: all by this process, or, where a
    launcher has started several supervisors, one by each."""
    count, text = config.hardware.processes_of(work[0]), configuration.dump(config)
    environment = {**without_ignored(os.environ), **settings}
    if count == 1 or not CREWS:
        for each in rank_environments(count, environment):
            child = pipes.start(work, each, text.encode())
            children.append(child)  # at once: what has started is ended if the next one fails
        return
    crew = CREWS[-1]
    port = crew.next_port(work[0])
    place = crew.launch.place(count, port)
    children.append(pipes.start(work, {**environment, **place}, text.encode()))
    for other in crew.others[: count - 1]:
        other.start(
            work, text=text, environment=settings, count=count, port=port, folder=str(Path.cwd())
        )
        children.append(other)


def _listen(heard: Heard) -> bool:
    """Take in what was told until now; False where another supervisor is gone."""
    heard.listen()
    complete = [crew.listen(heard) for crew in CREWS]
    return all(complete)


def _where(children: Sequence[Child], heard: Heard) -> str:
    """Which of several processes failed first, and how, as far as it has told; maybe nothing."""
    ranks = {child.pid: rank for rank, child in enumerate(children)}
    hosts = {other.pid: f" on {other.host}" for crew in CREWS for other in crew.others}
    for process, error in heard.failed.items():  # the first
        rank = f"rank {ranks.get(process, -process)}{hosts.get(process, '')}"
        return f"{rank}: {error}" if error else rank
    return ""


def rank_environments(count: int, known: Mapping[str, str]) -> list[dict[str, str]]:
    """What is known to each of `count` processes of this machine, by rank: how several find one
    another too."""
    if count == 1:
        return [dict(known)]
    port, size = str(free_port()), str(count)
    met = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    sizes = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [
        {**known, **met, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(count)
    ]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Stopping:
    """The end of a stage on request: its processes are told, and then waited for, not for ever."""

    what: str
    """The stage and its key, as lines name it."""
    seconds: float | None
    """Longest time that saving may take; None: as long as it likes."""
    until: float = math.inf
    """On the monotonic clock; infinite before anybody has asked."""
    asked: Request = field(default_factory=request)

    def look(self, children: Sequence[Child], heard: Heard, *, last: bool) -> bool:
        """Pass a request on to all processes; whether the time to save is over.

        `last`: one of them has stopped, so the others will.
        """
        if self.asked.insisted:  # only the main thread is interrupted, and this may be another
            raise KeyboardInterrupt
        if heard.asked:
            self.asked.ask(heard.asked)
        if math.isinf(self.until) and (self.asked.asked or heard.asked or last):
            for child in children:
                child.send_signal(signal.SIGUSR1)
            self._begin(self.asked.by or heard.asked or "another process", saves=bool(heard.saving))
        return time.monotonic() > self.until

    def _begin(self, by: str, *, saves: bool) -> None:
        wait = self.seconds if saves else PAUSE_SECONDS
        limit = "" if wait is None else f", within {wait:g} s"
        how = "saves behind the step it is in" if saves else "ends"
        say(f"{by}: {self.what} {how}{limit}; Ctrl-C again leaves at once")
        self.until = sys.float_info.max if wait is None else time.monotonic() + wait

    def outcome(self, heard: Heard) -> str:
        """What was saved, in a line."""
        if heard.stopped:
            return f"{self.what} {heard.stopped}"
        if heard.saving:
            return (
                f"{self.what} could not be saved within run.stop_seconds={self.seconds:g}, and "
                "goes on from the save before"
            )
        return f"{self.what} was where nothing is saved on the way, and does that part again"


def _first_failure(children: Sequence[Child], heard: Heard, stopping: Stopping) -> int:
    """The exit code of the first child that fails, 0 once all have ended well, or `STOPPED`.

    Whatever they tell meanwhile is heard: a pipe that nobody reads would fill up and hold them.
    """
    while True:
        codes: list[int | None] = [child.poll() for child in children]
        complete = _listen(heard)
        for child, code in zip(children, codes, strict=True):
            if code is not None and heard.inside:
                heard.ended(child.pid, code)
        failed = [code for code in codes if code is not None and code not in {0, STOPPED}]
        if failed:
            return _cause(children, heard)
        if heard.overdue() or not complete:
            return 1
        if None not in codes:
            return STOPPED if STOPPED in codes else 0
        if stopping.look(children, heard, last=STOPPED in codes):
            return STOPPED
        time.sleep(POLL_SECONDS)


def _cause(children: Sequence[Child], heard: Heard) -> int:
    """The exit code of the process that the others fail for, which goes to the head of
    `heard.failed`: one that a signal has ended, else the first that told an error.

    One whose partner was killed may be seen to fail before it, so a moment is left for that.
    """
    until = time.monotonic() + CAUSE_SECONDS
    codes = _codes(children)
    while None in codes.values() and not heard.mistake and time.monotonic() < until:
        if min(filter(None, codes.values())) < 0:
            break
        _listen(heard)
        time.sleep(POLL_SECONDS)
        codes = _codes(children)
    bad = {pid: code for pid, code in codes.items() if code and code != STOPPED}
    killed = [pid for pid, code in bad.items() if code < 0]
    told = [pid for pid in heard.failed if pid in bad]
    first = [*killed, *told, *bad][0]
    heard.failed = {first: heard.failed.get(first, "")}
    return bad[first]


def _codes(children: Sequence[Child]) -> dict[int, int | None]:
    """The exit codes of those that have ended, by process."""
    return {child.pid: child.poll() for child in children}


def follow(*processes: int) -> None:
    """End this process soon after its parent, or any of `processes`, has ended (for launchers' own
    workers)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and all(map(_is_there, processes)):
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and another's
        return True
    return True
