"""How many files a change touched: `python -m architecture.files_touched BASE [HEAD]`, from tests/.

What a method costs in the tree: every file that the commits from BASE to HEAD touch, but for what
comes beside each change (`BESIDE`); of the YAML files of one group under conf/ the first alone.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FOLDERS = ("tests", "experiments", "docs")
NAMES = ("README", "CHANGELOG")
BESIDE = ", ".join((*FOLDERS, "snapshots", *NAMES))


@dataclass(frozen=True, slots=True)
class Touched:
    """A file of a change; a renamed one is one file."""

    path: str
    before: str = ""
    """What a renamed file was called."""

    @property
    def beside(self) -> bool:
        """Whether it, and what it was before, is of the kind that is not counted."""
        return all(is_beside(name) for name in (self.path, self.before) if name)

    @property
    def group(self) -> str:
        """The group of a YAML file under conf/; empty for any other file."""
        parts = PurePosixPath(self.path).parts
        grouped = len(parts) > 2 and parts[0] == "conf" and self.path.endswith((".yaml", ".yml"))
        return parts[1] if grouped else ""


def is_beside(path: str) -> bool:
    """Whether a file is one that is not counted."""
    parts = PurePosixPath(path).parts
    kept = parts[0] in FOLDERS or "snapshots" in parts
    return kept or PurePosixPath(path).name.partition(".")[0] in NAMES


def touched(base: str, head: str, repository: Path) -> list[Touched]:
    """The files that the commits from `base` to `head` touch, by name."""
    command = ["git", "diff", "--name-status", "--find-renames", "-z", f"{base}...{head}"]
    said = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    fields = iter(said.stdout.split("\0")[:-1])
    found = []
    for status in fields:
        before = next(fields) if status.startswith("R") else ""
        found.append(Touched(next(fields), before))
    return sorted(found, key=lambda file: file.path)


def counted(files: Iterable[Touched]) -> list[Touched]:
    """Those that count."""
    found: list[Touched] = []
    for file in files:
        again = file.group and file.group in {other.group for other in found}
        if not file.beside and not again:
            found.append(file)
    return found


def listing(files: Sequence[Touched]) -> str:
    """Every file on a line, a star before those that count, and how many they are."""
    kept = counted(files)
    lines = []
    for file in files:
        was = f" (was {file.before})" if file.before else ""
        lines.append(f"{'*' if file in kept else ' '} {file.path}{was}")
    rule = f"not counted: {BESIDE}, and all but the first YAML file of each group under conf/"
    return "\n".join([*lines, f"{len(kept)} of {len(files)} files count ({rule})"])


def main(arguments: Sequence[str]) -> int:
    """Print the listing; 2 where git knows no such commits."""
    if not 1 <= len(arguments) <= 2 or not all(arguments):
        print("name a commit: make files-touched BASE=COMMIT [HEAD=COMMIT]", file=sys.stderr)
        return 2
    base, head = (*arguments, "HEAD")[:2]
    try:
        files = touched(base, head, Path(__file__).parents[2])
    except subprocess.CalledProcessError as error:
        print(f"git cannot compare {base} and {head}: {error.stderr.strip()}", file=sys.stderr)
        return 2
    print(listing(files))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
