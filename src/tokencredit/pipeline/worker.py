"""The process of a stage: `python -m tokencredit.pipeline.worker STAGE KEY [GOAL]`.

The configuration comes through standard input.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.console import USER_ERROR, use_plain_characters
from tokencredit.errors import UserError
from tokencredit.machine.child import (
    die_with_parent,
    tell_asked,
    tell_failed,
    tell_parent,
    tell_stopped,
)
from tokencredit.machine.faults import fault, unreadable, users_own
from tokencredit.machine.search_path import SAFE
from tokencredit.machine.stopping import INTERRUPTED, STOPPED, Stopped, ignore, listen, release

if TYPE_CHECKING:
    from tokencredit.config import Config


def main(arguments: list[str]) -> int:
    """Run the stage; exit code 2 for a user's mistake, 1 for a bug, those of `stopping` if it was
    to stop."""
    die_with_parent()  # before the imports, which take seconds
    listen(tell_asked)
    try:
        release()
        return work(arguments)
    except Stopped as stopped:
        tell_stopped(str(stopped))
        return STOPPED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        ignore()


def work(arguments: list[str]) -> int:
    """As `main`, for a process that listens to signals."""
    os.environ.pop(SAFE, None)  # not meant for programs that the user's code starts
    use_plain_characters()
    hush()
    from tokencredit import config as configuration

    name, key, *goal = arguments
    configuration.register()
    try:
        run(name, key, *goal)
    except UserError as error:
        tell_parent(str(error))
        return USER_ERROR
    except Exception as error:
        tell_failed(f"{type(error).__name__}: {error}".partition("\n")[0])
        raise
    return 0


def run(name: str, key: str, goal: str = "") -> None:
    """Build the artifact, or run the RL stage in its folder.

    `goal` is the stage that it is made for; empty: what the run is for.
    """
    import torch

    from tokencredit import config as configuration
    from tokencredit.pipeline.pipeline import all_stages
    from tokencredit.stages.context import Context

    config = configuration.read(sys.stdin)
    torch.set_num_threads(config.hardware.threads_of(name))
    context = Context(config)
    stages = all_stages(context, goal)  # several may have one name: the members of an ensemble
    stage = next((s for s in stages if (s.name, s.key) == (name, key)), None)
    if stage is None:
        raise UserError(
            f"{name}: the data or a model changed while the run was being prepared; run again"
        )
    try:
        stage.build()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        folders = [context.store.folder(earlier) for earlier in stages]
        named = [*folders, *model_folders(config), stage.folder]
        known = fault(error, stage.folder) or unreadable(error, named) or users_own(error)
        if known is None:
            raise
        raise known from error


def model_folders(config: Config) -> list[Path]:
    """The folders of the user's own models that a run reads."""
    named = (config.model.policy.path, config.model.reward.path)
    return [Path(path).expanduser() for path in named if path]


def hush() -> None:
    """Silence what libraries say about things that are as intended here."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("bitsandbytes", "transformers", "DeepSpeed", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
