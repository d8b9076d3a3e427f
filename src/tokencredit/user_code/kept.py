"""Copies of the user's own code in a run's folder: with them it is all another machine needs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tokencredit.canonical import file_sha256
from tokencredit.machine.faults import is_users
from tokencredit.store.artifacts import make_folder
from tokencredit.user_code.files import Root
from tokencredit.user_code.imports import LOADED
from tokencredit.user_code.plugins import located

FOLDER: Final = "code"
SECRET: Final = re.compile(
    r"(?:^|[._-])(?:env|key|keys|token|secrets?|password|credentials?|netrc|pem)(?:$|[._-])",
    re.IGNORECASE,
)
"""Names of files that may hold what is nobody else's business."""
LARGEST: Final = 64 * 2**20
"""Bytes of a file that is copied."""


def keep_code(named: Sequence[str], run: Path) -> list[dict[str, Any]]:
    """Copy the named plug-ins and reward functions, with the files of the user's that they import
    or name, into `run`/code; what the manifest says of them, one entry each.

    Each has a folder of its own, in which its files lie as they lay beside it or in the working
    folder. Installed packages are not copied, nor files that lie elsewhere, are large, or are named
    like secrets: those are listed under `left_out`.
    """
    kept: list[dict[str, Any]] = []
    for number, one in enumerate(named):
        found = located(one)
        if found is None or not is_users(found[0].file):
            continue
        root, module = found
        place = run / FOLDER / f"{number}_{root.file.stem}"
        main = place / root.file.relative_to(root.folders[0].resolve())
        sums, left = _copy(root, module, place)
        kept.append(
            {
                "named": one,
                "file": main.relative_to(run).as_posix(),
                "sha256": {path.relative_to(run).as_posix(): own for path, own in sums.items()},
                "left_out": left,
            }
        )
    return kept


def unchanged(entry: Mapping[str, Any], run: Path) -> bool:
    """Whether the copies of an entry are what the run has recorded."""
    return all(
        (run / name).is_file() and file_sha256(run / name) == checksum
        for name, checksum in entry["sha256"].items()
    )


def _copy(root: Root, module: str, place: Path) -> tuple[dict[Path, str], list[str]]:
    """Copy the files of a root; the checksums of the copies, and the names of what is left out."""
    others = {path.resolve() for path in root.files().values()}
    others |= {path.resolve() for _, path in LOADED.get(module, ())}
    sums, left = {}, []
    for file in (root.file, *sorted(others - {root.file})):
        inside = _within(file, root)
        if inside is None or SECRET.search(file.name) or file.stat().st_size > LARGEST:
            left.append(file.name)
            continue
        copy = place / inside
        make_folder(copy.parent)
        with suppress(shutil.SameFileError):  # the run goes on with its own copy
            shutil.copyfile(file, copy)
        sums[copy] = file_sha256(copy)
    return sums, left


def _within(file: Path, root: Root) -> Path | None:
    """Where a file lies in the first folder of its root that holds it."""
    folders: Sequence[Path] = [folder.resolve() for folder in root.folders]
    return next((file.relative_to(f) for f in folders if file.is_relative_to(f)), None)
