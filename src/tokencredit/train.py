"""The single entry point: compose → validate → plan → run stages → summarise.

`python -m tokencredit.train` takes Hydra's overrides and flags (`--help`, `-m`), and two of its
own: `--plugin FILE_OR_MODULE` (repeatable) and `--plan`, which only says what would be done.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tokencredit import config as configuration
from tokencredit.composing.arguments import Request
from tokencredit.composing.chosen import name_as_chosen, option
from tokencredit.composing.explain import explain
from tokencredit.composing.grammar import check_grammar, check_meaning, class_name, spelled
from tokencredit.composing.helptext import help_text
from tokencredit.config import Config
from tokencredit.console import USER_ERROR, say, speaking
from tokencredit.errors import UserError, require
from tokencredit.machine.faults import chain, users_own
from tokencredit.machine.scratch import temporary_folder
from tokencredit.machine.search_path import isolate_children
from tokencredit.machine.stopping import INTERRUPTED, STOPPED, Stopped, listening
from tokencredit.papers.cells import PLACES
from tokencredit.pipeline.environment import take_over
from tokencredit.pipeline.follower import follow_orders
from tokencredit.pipeline.launched import launch_of, without_local_rank
from tokencredit.pipeline.process import StageFailed, follow
from tokencredit.pipeline.supervisors import CREWS, lead
from tokencredit.redaction import redacted
from tokencredit.rewards.advantage_schemes import AdvantageScheme
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.store.artifacts import check_writable
from tokencredit.store.files import Damaged, read_yaml
from tokencredit.sweeps import objective, sweep
from tokencredit.user_code.plugins import check_options, conf_dir
from tokencredit.version import __version__

SCHEMES = ("reward_scheme", "advantage_scheme")
MAIN_JOB = ("experiment=main_job", "scale=cpu")
WITH_VALUE = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--cfg", "-c"}
WITH_VALUE |= {"--package", "-p", "--info", "-i"}
MULTIRUN = {"-m", "--multirun"}
PLAIN_FLAGS = {*MULTIRUN, "--run", "-r", "--resolve", "--hydra-help"}


def main() -> None:
    """Compose and run; exit code 2 for a user's mistake, 1 if a cell of a sweep failed, 75 for what
    a signal has stopped. Where a launcher has started several processes, all end with that of the
    first."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach `explain` unprinted
    isolate_children()
    code = 1
    try:
        code = exit_code()
    finally:
        while CREWS:
            CREWS.pop().dismiss(code)
    sys.exit(code)


def exit_code() -> int:
    """Do what the command line says, and say what went wrong."""
    try:
        with speaking(), temporary_folder():
            return run_command(sys.argv[1:])
    except StageFailed as failure:
        say(f"error: {failure}")
        return failure.code
    except Stopped as stopped:
        say(f"stopped: {stopped}; the same command goes on")
        return STOPPED
    except KeyboardInterrupt:
        say("interrupted; the same command continues")
        return INTERRUPTED
    except Exception as error:
        mistake = explain(error) or unreadable_yaml(error, more_folders(sys.argv[1:]))
        if mistake is None:
            raise
        say(f"error: {redacted(str(mistake))}")
        for folder in sweep.FOLDERS:
            sweep.forget(folder)
        return USER_ERROR


def run_command(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code, unless an exception tells more."""
    started = time.monotonic()
    arguments = without_local_rank(arguments)
    launch = launch_of(os.environ)
    take_over(os.environ, launch)
    if launch is not None:
        follow()
        if launch.rank > 0:
            return follow_orders(launch)
        lead(launch)
    return lead_command(arguments, started)


def lead_command(arguments: list[str], started: float) -> int:
    """As `run_command`, in the only process, or the first one."""
    if {"--help", "-h"} & set(arguments):
        folders = [conf_dir(), *more_folders(arguments)]
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(help_text(folders, keys=keys_of_no_group(), plan="--plan" in arguments, width=width))
        return 0
    if "--version" in arguments:
        print(f"tokencredit {__version__}")
        return 0
    task = Task(Request(), started)
    try:
        sys.argv = [sys.argv[0], *split_arguments(arguments, task.request)]
        check_options(more_folders(sys.argv[1:]))
        configuration.register()
        configuration.load_plugins(task.request.plugins)
        sys.argv = spelled(sys.argv, more_folders(sys.argv[1:]))
        task.request.overrides = spelled(task.request.overrides, more_folders(sys.argv[1:]))
        swept = bool(set(sys.argv) & MULTIRUN)
        require(
            not (swept and CREWS),
            "--multirun",
            "",
            "the cells of a sweep are started one by one; launch each, or leave the launcher out: "
            "the command starts the processes of each cell itself",
        )
        with listening() if swept else nullcontext():
            run_hydra(task)
        if task.failure is not None:
            raise task.failure
        if not sweep.FOLDERS:
            return 0
        from tokencredit.sweeps.cell import close_sweep

        return close_sweep(task.request, started)
    finally:
        if task.request.scratch is not None:
            task.request.scratch.cleanup()


def keys_of_no_group() -> list[str]:
    """What of a run is no group: its keys, and its sections as `sft.*`."""
    hints = get_type_hints(Config)
    names = [n for n in hints if n not in {*configuration.COMPONENTS, "plugins"}]
    return [f"{name}.*" if is_dataclass(hints[name]) else name for name in names]


def run_hydra(task: Task) -> None:
    """Compose and call the task; an error that a whole sweep ends with leaves as what it means."""
    try:
        hydra.main(config_path=str(conf_dir()), config_name="train", version_base="1.3")(task)()
    except sweep.Refused as refused:
        raise refused.mistake from None
    except Stopped:
        if not sweep.FOLDERS:
            raise
    except Exception as error:
        if not sweep.gave_up(error):
            raise
        say(f"the sweeper ended the sweep: {error}")


def split_arguments(arguments: list[str], request: Request) -> list[str]:
    """Hydra's arguments, flags first as its parser wants them; ours go into `request`."""
    flags, overrides = [], []
    remaining = iter(arguments)
    for argument in remaining:
        name, given, value = argument.partition("=")
        if argument == "--plan":
            request.plan_only = True
        elif name == "--plugin":
            value = value if given else next(remaining, "")
            require(bool(value), "--plugin", value, "name a Python file or a module")
            request.plugins.append(value)
        elif name in WITH_VALUE:
            flags += [name, value if given else next(remaining, "")]
        elif argument.startswith("-"):
            require(
                argument in PLAIN_FLAGS, argument, "", "unknown flag; see tokencredit train --help"
            )
            flags.append(argument)
        else:
            require(not argument.startswith("="), argument, "", "write KEY=VALUE")
            overrides.append(argument)
    overrides += main_job(overrides)
    multirun = bool(MULTIRUN & set(flags))
    check_grammar(overrides, multirun)
    request.overrides = list(overrides)
    check_hydra_folder(overrides, multirun)
    if request.plan_only:  # one process can add a plan up, and nothing of it stays behind
        request.scratch = tempfile.TemporaryDirectory(prefix="tokencredit-")
        overrides = [o for o in overrides if not o.startswith(("hydra/launcher", "hydra.launcher"))]
        overrides += ["hydra/launcher=basic", f"hydra.sweep.dir={request.scratch.name}"]
        overrides += ["+hydra.callbacks.sweep.plan=true"]
    return [*flags, *overrides]


def main_job(overrides: Sequence[str]) -> list[str]:
    """What is chosen where nothing is: the main job. A seed, places, or a preset for debugging
    change no choice.
    """
    if all(text.startswith(("seed=", "debug=", *PLACES)) for text in overrides):
        say(f"{' '.join(MAIN_JOB)}: the main job, since nothing else is chosen")
        return list(MAIN_JOB)
    return []


def unreadable_yaml(error: Exception, folders: Sequence[Path]) -> UserError | None:
    """The user's YAML file that is behind an error of decoding or of depth, which names none."""
    if any(isinstance(link, UnicodeError | RecursionError) for link in chain(error)):
        for path in (path for folder in folders for path in sorted(folder.rglob("*.yaml"))):
            try:
                read_yaml(path)
            except Damaged as found:
                return found
    return None


def check_hydra_folder(overrides: Sequence[str], multirun: bool) -> None:
    """Raise where the folder of a sweep, or Hydra's own, as far as it is named, cannot be made."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    named = [text.partition("=")[2] for text in overrides if text.lstrip("+").startswith(f"{key}=")]
    for place in named[-1:] or ["runs/sweeps"] * multirun:
        fixed = place.strip("\"'").partition("${")[0]
        check_writable(Path(fixed or "."), key)


def more_folders(arguments: list[str]) -> list[Path]:
    """The folders named by --config-dir."""
    named = [after for flag, after in pairwise(arguments) if flag in {"--config-dir", "-cd"}]
    return [Path(name) for name in named if Path(name).is_dir()]


def named_scheme(name: str, folders: Sequence[Path]) -> RewardScheme | AdvantageScheme:
    """The scheme that `reward_scheme=NAME` or `advantage_scheme=NAME` chooses: an option of conf/
    or of `folders`, or a class with its own numbers.
    """
    known: list[str] = []
    places = (conf_dir(), *folders)
    for group in SCHEMES:
        options = {path.stem for place in places for path in place.glob(f"{group}/*.yaml")}
        if name in options:
            return cast("RewardScheme | AdvantageScheme", option(group, name, folders))
        classes = {kind.__name__: kind for kind in configuration.COMPONENTS[group]}
        meant = classes.get(class_name(group, name))
        if meant is not None:
            return cast("RewardScheme | AdvantageScheme", meant())
        known += [*sorted(options), *classes]
    raise UserError(
        f"{SCHEMES[0]} = {name!r}: there is no such scheme (known: {', '.join(known)}); is a "
        "--plugin or --config-dir missing?"
    )


class Task:
    """What Hydra calls with each composed configuration; picklable for launchers that fork."""

    def __init__(self, request: Request, started: float) -> None:
        """`started` is when the command began, on the monotonic clock."""
        self.request = request
        self.started = started
        self.failure: Exception | None = None
        self.process = os.getpid()

    def __call__(self, composed: DictConfig) -> objective.Value:
        """Run or plan one configuration; what it is worth to a sweeper."""
        launched = os.getpid() != self.process
        if launched:  # a launcher's worker, which would outlive us
            self._follow(HydraConfig.get().runtime.choices["hydra/launcher"])
            # Their classes have come alone, without the files.
            configuration.load_plugins(self.request.plugins)
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            from tokencredit.sweeps.cell import run_cell

            with listening():
                settings = HydraConfig.get()
                return run_cell(settings, composed, self.request, self._load, launched=launched)
        try:
            config = self._load(composed)
            from tokencredit.sweeps.cell import run_alone  # once nothing is wrong: it needs torch

            overrides = list(HydraConfig.get().overrides.task)
            run_alone(config, self.request, self.started, overrides)
        except SystemExit as error:  # of a user's class
            self.failure = users_own(error) or UserError(f"ended by {error!r}")
        except Exception as error:  # raised again by main: Hydra would print lines of its own
            self.failure = error
        return None

    def _follow(self, launcher: str) -> None:
        """End this process with the one that started it, and with the command where that is near.

        joblib's workers are the command's own children. A job of submitit is a child of what
        submitit started for it, on this machine or, in a cluster, on another.
        """
        if launcher == "joblib" and os.getppid() != self.process:
            os._exit(1)  # the command has ended before we could look
        follow(*[self.process] * launcher.endswith("_local"))

    def _load(self, composed: DictConfig) -> Config:
        check_meaning(self.request.overrides, composed)
        config = configuration.load(composed)
        hydra_config = HydraConfig.get()
        name_as_chosen(config, hydra_config.runtime.choices, hydra_config.overrides.task)
        config.plugins = list(self.request.plugins)
        objective.check(config)
        return config


if __name__ == "__main__":
    main()
