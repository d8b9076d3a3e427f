"""What two sides left behind, compared file by file: where the first difference lies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

VOLATILE: Final = {"seconds", "session", "git_commit"}
"""Entries of a manifest that say when, how fast, or from which commit."""
TIMED: Final = ("results.json", "timings.jsonl")
"""Files that hold seconds."""
LOGS: Final = ("metrics.jsonl", "samples.jsonl", "evaluation.jsonl")
ELSEWHERE: Final = {"manifest.json", "config.yaml", ".lock", *TIMED, *LOGS}
"""Files of a run that are compared otherwise, or not: `config.yaml` may gain and lose keys."""
LONGEST: Final = 160


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison."""

    what: str
    difference: str | None
    """The first one; None for equal."""

    def line(self) -> str:
        """As it is printed."""
        return f"{self.what}: " + (
            "equal" if self.difference is None else f"DIFFERS: {self.difference}"
        )


def compare_places(name: str, old: Path, new: Path) -> Iterator[Finding]:
    """Keys, artifacts, and runs below two folders in which the same command ran."""
    found = [artifacts(side) for side in (old, new)]
    yield Finding(f"{name} keys", _sets(*found))
    for key in sorted(found[0].keys() & found[1].keys()):
        yield Finding(f"{name} {key}", _artifact(found[0][key], found[1][key]))
    runs = [run_folders(side) for side in (old, new)]
    yield Finding(f"{name} run folder", _sets(*runs) or (None if runs[0] else "there is none"))
    for key in sorted(runs[0].keys() & runs[1].keys()):
        yield from compare_runs(name, runs[0][key], runs[1][key])


def compare_runs(name: str, old: Path, new: Path) -> Iterator[Finding]:
    """The logs of two runs byte for byte, what they exported, and what their manifests say."""
    for log in LOGS:
        yield Finding(f"{name} {log}", _lines(old / log, new / log))
    told = manifest(old), manifest(new)
    more = sorted(told[1].keys() - told[0].keys())  # a later commit may say more of a run
    known = {entry: value for entry, value in told[1].items() if entry not in more}
    yield Finding(with_more(f"{name} manifest", more), first_difference(told[0], known))
    results = [_without(_read(side / "results.json")) for side in (old, new)]
    yield Finding(f"{name} results.json", first_difference(*results))
    yield Finding(f"{name} other files", first_difference(_files(old), _files(new)))


def artifacts(place: Path) -> dict[str, Path]:
    """The complete artifacts of a place's store, by stage and key."""
    return _by_parts(place.glob("store/*/*/manifest.json"))


def run_folders(place: Path) -> dict[str, Path]:
    """The runs of a place, by name and key."""
    return _by_parts(place.glob("runs/*/*/manifest.json"))


def manifest(folder: Path) -> dict[str, Any]:
    """A manifest without times."""
    found = {name: v for name, v in _read(folder / "manifest.json").items() if name not in VOLATILE}
    exports = found.get("exports") or {}
    return found | {"exports": {name: v for name, v in exports.items() if name not in TIMED}}


def with_more(what: str, more: Sequence[str]) -> str:
    """The name of a comparison, with what the new side alone has."""
    return f"{what} (new: {', '.join(more)})" if more else what


def lines_more(old: Sequence[str], new: Sequence[str]) -> list[str] | None:
    """The lines that `new` has between those of `old`; None unless it has all of these, in order."""
    more, left = [], list(reversed(old))
    for line in new:
        if left and line == left[-1]:
            left.pop()
        else:
            more.append(line)
    return None if left else more


def first_difference(old: object, new: object, path: str = "") -> str | None:
    """Where two JSON values differ first, and how; keys of an object in order of name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new:
                return f"{path}/{key} is {'new' if key in new else 'gone'}"
            found = first_difference(old[key], new[key], f"{path}/{key}")
            if found is not None:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        found = (first_difference(*pair, f"{path}/{number}") for number, pair in pairs)
        return next((item for item in found if item is not None), None)
    same = type(old) is type(new) and old == new
    return None if same else f"{path}: {_cut(old)} → {_cut(new)}"


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def _artifact(old: Path, new: Path) -> str | None:
    """Every file, whatever the manifest says of it, and the manifest."""
    found = [hashes(side) for side in (old, new)]
    for side in found:
        side.pop("manifest.json")
    return first_difference(*found) or first_difference(manifest(old), manifest(new))


def _files(run: Path) -> dict[str, str]:
    return {name: value for name, value in hashes(run).items() if not _apart(name)}


def _apart(name: str) -> bool:
    # A checkpoint notes the lengths of all logs, that of the timed one too.
    return name in ELSEWHERE or (name.startswith("checkpoints/") and name.endswith(".json"))


def _lines(old: Path, new: Path) -> str | None:
    """The first line in which two files differ."""
    if not old.is_file() or not new.is_file():
        return None if old.is_file() == new.is_file() else "only one side has it"
    sides = [path.read_bytes().splitlines(keepends=True) for path in (old, new)]
    for number, (one, other) in enumerate(zip_longest(*sides), 1):
        if one != other:
            return f"line {number}: {_fields(one, other)}"
    return None


def _fields(one: bytes | None, other: bytes | None) -> str:
    """What differs in two lines of JSON; if only their bytes do, both."""
    if one is None or other is None:
        return "only one side has it"
    try:
        return (
            first_difference(json.loads(one), json.loads(other)) or f"{_cut(one)} → {_cut(other)}"
        )
    except ValueError:
        return f"{_cut(one)} → {_cut(other)}"


def _by_parts(manifests: Iterator[Path]) -> dict[str, Path]:
    return {"/".join(path.parent.parts[-2:]): path.parent for path in sorted(manifests)}


def _sets(old: Mapping[str, Path], new: Mapping[str, Path]) -> str | None:
    gone, more = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    return f"gone {gone}, new {more}" if gone or more else None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _without(value: Any) -> Any:
    """A JSON value without the entries whose names speak of time."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if "second" not in k and k not in VOLATILE}
        return {name: _without(item) for name, item in kept.items()}
    return [_without(item) for item in value] if isinstance(value, list) else value


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
