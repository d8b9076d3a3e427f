"""How long commands take before any work, as multiples of `import torch`: `make startup`.

Prints medians of alternating runs, each in a process of its own, and their bounds; exit code 1 if
one is missed. The store that `plan` finds warm is made first, by a run of one step.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 10
COMMAND = (sys.executable, "-m", "tokencredit.cli")
TORCH = "import torch"
SMALL = (
    *("reward_scheme=sparse", "steps=1", "sft.max_tokens=2000", "reward_model.max_tokens=2000"),
    *("evaluation.prompts=4", "oracle.enabled=false", "run.figures=false", "tracking=disabled"),
    *("algorithm.batch_size=4", "algorithm.minibatches=1"),
    *("rollout.min_new_tokens=4", "rollout.max_new_tokens=8"),
)
"""A run on the default model and data, as small as stages allow."""
WHAT: dict[str, tuple[tuple[str, ...], int, float]] = {
    TORCH: ((sys.executable, "-c", "import torch"), 0, 1.0),
    "import tokencredit": ((sys.executable, "-c", "import tokencredit"), 0, 0.1),
    "train --help": ((*COMMAND, "train", "--help"), 0, 0.5),
    "train reward_scheme.betta=1": ((*COMMAND, "train", "reward_scheme.betta=1"), 2, 1.4),
    "plan (every stage a hit)": ((*COMMAND, "plan", *SMALL), 0, 2.0),
}
"""Each with its exit code, and how many times `import torch` it may take."""


def seconds(command: tuple[str, ...], code: int, folder: Path) -> float:
    """How long a command takes; an error unless it ends with `code`."""
    started = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if ended.returncode != code or ("plan" in command and "0 misses" not in ended.stdout):
        sys.exit(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return took


def main() -> int:
    """Measure and print; 1 if a bound is missed."""
    with tempfile.TemporaryDirectory(prefix="tokencredit-startup-") as name:
        folder = Path(name)
        os.environ["TOKENCREDIT_STORE"] = str(folder / "store")
        print("a run of one step makes the store warm …", flush=True)
        seconds((*COMMAND, "train", *SMALL), 0, folder)
        found: dict[str, list[float]] = {what: [] for what in WHAT}
        for number in range(ROUNDS + 1):
            for what, (command, code, _) in WHAT.items():
                took = seconds(command, code, folder)
                found[what] += [took] * (number > 0)  # the first round fills the disk's cache
    medians = {what: statistics.median(times) for what, times in found.items()}
    missed = False
    for what, (_, _, bound) in WHAT.items():
        ratio = medians[what] / medians[TORCH]
        said = "" if what == TORCH else f"{ratio:6.2f} × import torch, at most {bound:g}"
        print(f"{what:<30} {medians[what]:6.2f} s {said}".rstrip())
        missed |= ratio > bound
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
