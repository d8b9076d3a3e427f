"""What a command remembers of a data set, so that the next one need not read it for a name.

Keys of results hold fingerprints of the records and answers to small questions about them: how many
there are, whether all are pairs. Those are kept in the store, one file for each data set, and found
again only where its settings, the content of its files, and the code that reads and asks are the
same, byte for byte. A file that is missing, damaged, or of anything else is as good as none: the
records are read. They are, too, as soon as one of them is asked for.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Final

from tokencredit.canonical import digest, file_sha256
from tokencredit.data.dataset import Dataset
from tokencredit.data.records import Dropped, Record
from tokencredit.data.splits import Corpus
from tokencredit.errors import UserError
from tokencredit.store.files import Damaged, read_json, reading, write_json
from tokencredit.user_code.plugins import is_ours

FOLDER: Final = "data"
"""Where it lies in the store."""
CODE: Final = Path(__file__).parents[1]
READERS: Final = ("datasets", "pyarrow")
"""Libraries that some files are read with."""


def recalled(dataset: Dataset, store: Path) -> Corpus | None:
    """The corpus as it is remembered, its records unread; None where it must be read."""
    files = source_files(dataset)
    if files is None:
        return None
    path, identity = _place(dataset, files, store)
    try:
        kept = read_json(path, identity=dict, said=dict, sha256=str)
        said = kept["said"]
        if kept["identity"] != identity or kept["sha256"] != digest(said):
            return None
        with reading(path):
            dropped = Dropped(
                Counter(said["dropped"]["counts"]),
                said["dropped"]["examples"],
                Counter(said["dropped"]["filtered"]),
            )
            prints = dict(said["fingerprints"])
            parts = _Unread(dataset, prints)
            return Corpus(parts, prints, dropped, said["duplicates"], dict(said["answers"]))
    except (OSError, Damaged):
        return None


def remember(dataset: Dataset, corpus: Corpus, store: Path) -> None:
    """Keep in the store what is known of a corpus; what other commands have asked stays with it."""
    files = source_files(dataset)
    if files is None:
        return
    path, identity = _place(dataset, files, store)
    before = recalled(dataset, store)
    answers = {**(before.answers if before else {}), **corpus.answers}
    if before is not None and answers == before.answers:
        return
    dropped = corpus.dropped
    said = {
        "fingerprints": corpus.fingerprints,
        "dropped": {
            "counts": dict(dropped.counts),
            "examples": dropped.examples,
            "filtered": dict(dropped.filtered),
        },
        "duplicates": corpus.duplicates,
        "answers": answers,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"identity": identity, "said": said, "sha256": digest(said)})


def source_files(dataset: Dataset) -> list[Path] | None:
    """The files whose content decides what the records are; None where no list of files does.

    That is so for the hub, whose names are of what lies there today, and for a data set or a format
    of the user's own class.
    """
    ours = type(dataset) is Dataset and is_ours(type(dataset.reader()))
    return dataset.files() if ours else None


def _place(dataset: Dataset, files: list[Path], store: Path) -> tuple[Path, dict[str, object]]:
    """The file of this data set, and what must be the same for it to be believed."""
    code = {path.relative_to(CODE).as_posix(): file_sha256(path) for path in CODE.rglob("*.py")}
    identity: dict[str, object] = {
        "settings": repr(dataset),  # a key leaves fields out; here each counts
        "files": [[str(path), file_sha256(path)] for path in files],
        "code": digest(code),
        "python": platform.python_version(),
        "readers": {name: metadata.version(name) for name in READERS},
    }
    name = digest([identity["settings"], [str(path) for path in files]])
    return store / FOLDER / f"{name}.json", identity


class _Unread(Mapping[str, tuple[Record, ...]]):
    """The records of each split, read when the first is asked for."""

    def __init__(self, dataset: Dataset, prints: dict[str, str]) -> None:
        self.dataset, self.prints = dataset, prints

    @cached_property
    def parts(self) -> Mapping[str, tuple[Record, ...]]:
        corpus = self.dataset.read()
        if corpus.fingerprints != self.prints:
            raise UserError(
                f"dataset: {self.dataset.where()} changed while the command ran; run it again"
            )
        return corpus.parts

    def __getitem__(self, split: str) -> tuple[Record, ...]:
        return self.parts[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self.prints)

    def __len__(self) -> int:
        return len(self.prints)
