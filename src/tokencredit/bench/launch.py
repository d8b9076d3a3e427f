"""Starting the process that measures, in the environment of a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from tokencredit.bench.configuration import environment_of
from tokencredit.bench.run import Request
from tokencredit.errors import UserError


def measured(request: Request) -> dict[str, Any]:
    """What `tokencredit.bench.run` says of the request; its progress goes to standard error.

    It is a process of its own because allocator and threads are set before a process starts.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tokencredit.bench.run"],
        input=json.dumps(request.plain()),
        stdout=subprocess.PIPE,
        env=environment_of(request.work),
        text=True,
        check=False,
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UserError(
            f"the process that measures was ended by {name}; where memory ran out, lower --rows, "
            "--new-tokens, or --width, or set --micro-batch"
        )
    if done.returncode:
        raise UserError("the process that measures failed; its own words stand above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
