"""Whether the working tree gives the numbers of an older commit: `make same-numbers BASE=COMMIT`."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

from same_numbers.compare import Finding
from same_numbers.parts import Both, Task, tasks
from same_numbers.sides import Side, Wrong, extract

ROOT: Final = Path(__file__).parents[2]


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="same_numbers", description=__doc__)
    parser.add_argument("base", help="the commit whose numbers the working tree must give")
    parser.add_argument("--keep", type=Path, help="keep the base's side here, by its commit")
    parser.add_argument("--only", default="", help="NAME,NAME: runs, table, compare, experiments")
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time")
    return parser.parse_args()


def run_task(task: Task) -> list[Finding]:
    """What it found; a command that failed is a difference."""
    name, part, argument = task
    try:
        return list(part(argument))
    except Wrong as wrong:
        return [Finding(name, str(wrong))]


def run_all(chosen: Sequence[Task], workers: int) -> int:
    """Print a line for each comparison as it is made; how many differ."""
    began, differing = time.monotonic(), 0
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(run_task, task): task[0] for task in chosen}
        for done, future in enumerate(as_completed(futures), 1):
            for finding in future.result():
                differing += finding.difference is not None
                print(finding.line())
            took = time.monotonic() - began
            left = took / done * (len(futures) - done)
            state = f"{done} of {len(futures)} tasks in {took:.0f} s, at most {left:.0f} s more"
            print(f"    {futures[future]} is done; {state}", flush=True)
    return differing


def kept_name(commit: str) -> str:
    """A folder for what a commit gives: under these versions, asked in this way."""
    versions = sorted(f"{item.name}=={item.version}" for item in metadata.distributions())
    asked = [
        path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("[!t]*.py"))
    ]
    told = hashlib.sha256("\n".join([sys.version, *versions, *asked]).encode())
    return f"{commit}-{told.hexdigest()[:8]}"


@contextmanager
def sides(base: str, keep: Path | None) -> Iterator[Both]:
    """Both sides; the working tree's is new, and everything goes with the last line if all is equal."""
    answer = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{base}^{{commit}}"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if answer.returncode != 0:
        sys.exit(f"BASE = {base!r}: is no commit of this repository")
    commit = answer.stdout.strip()
    work = Path(tempfile.mkdtemp(prefix="same-numbers-"))
    old = work / "old" if keep is None else keep.absolute() / kept_name(commit)
    old.mkdir(parents=True, exist_ok=True)
    extract(commit, ROOT, work / "tree")
    before = "there from before, " if any(old.glob("*.json")) else ""
    print(f"base {commit}" + (f": its side is {before}kept in {old}" if keep else ""), flush=True)
    both = Both(Side("base", work / "tree", old), Side("head", ROOT, work / "new"))
    both.old.witness.unlink(missing_ok=True)  # of an earlier time
    try:
        yield both
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> int:
    """The exit code: 1 for any difference."""
    given = arguments()
    only = {name for name in given.only.split(",") if name}
    with sides(given.base, given.keep) as both:
        chosen = tasks(both, only)
        if only - {task[2] for task in chosen}:
            sys.exit(f"ONLY: unknown: {', '.join(sorted(only - {task[2] for task in chosen}))}")
        differing = run_all(chosen, given.jobs)
        for side in (both.old, both.new):
            found = side.strangers() if side.witness.is_file() else []
            differing += bool(found)
            print(
                Finding(
                    f"{side.name}: every process runs its own tree", found[0] if found else None
                ).line()
            )
    print("the same numbers" if differing == 0 else f"{differing} comparisons DIFFER")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
