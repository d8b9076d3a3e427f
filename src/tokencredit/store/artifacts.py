"""Artifacts keyed by what they were made from: built once, verified on use, never half there."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from tokencredit.canonical import differences, digest, folder_sha256
from tokencredit.console import say, say_once
from tokencredit.errors import UserError
from tokencredit.machine.faults import REMEDIES
from tokencredit.store.files import Damaged, building, read_json, remove, write_json
from tokencredit.store.finite import figure_not_finite, first_not_finite, stored_tensors
from tokencredit.version import __version__

MANIFEST = "manifest.json"
SAVES = ".saves"
"""Ending of the folder beside an artifact from which its interrupted stage goes on."""
SAVE_STATE = "state.json"
"""What of a save there is to say besides its tensors."""
PROBE = 4096
"""Bytes that a folder must take to count as one that can be written."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "tokenizers", "numpy")


class Buildable(Protocol):
    """What can be built into an artifact."""

    @property
    def name(self) -> str:
        """Its kind; the folder of all artifacts of that kind."""

    @property
    def key(self) -> str:
        """The hash of everything that decides the result."""

    @property
    def identity(self) -> dict[str, object]:
        """What the key is a hash of, in canonical form."""

    def run(self, out: Path) -> Mapping[str, object]:
        """Write the result into the folder `out`; return figures for the manifest."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """The finished result of a stage."""

    path: Path
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Whether a stage would be reused, and why not."""

    name: str
    key: str
    hit: bool
    state: str = ""
    reasons: tuple[str, ...] = ()
    """The inputs in which the nearest artifact differs."""
    remark: str = ""
    """What is to be known of its result, made or not."""


class Store:
    """A folder of artifacts, `root/stage/key`, that several processes may use at once."""

    def __init__(self, root: Path) -> None:
        """The store at `root`; the folder is made when the first artifact is built."""
        self.root = root

    def folder(self, stage: Buildable) -> Path:
        """Where the artifact of `stage` lies or would lie."""
        return self.root / stage.name / stage.key

    def find(self, stage: Buildable) -> Artifact | None:
        """The artifact of `stage` if it is there and undamaged."""
        folder = self.folder(stage)
        if not (folder / MANIFEST).is_file():
            return None
        damage = find_damage(folder)
        if damage:
            say(f"store: {folder} is damaged ({damage}); it will be rebuilt")
            return None
        return Artifact(folder, read_json(folder / MANIFEST))

    def get(self, stage: Buildable) -> Artifact:
        """The artifact of `stage`; an error if it has not been built."""
        artifact = self.find(stage)
        if artifact is None:
            raise UserError(
                f"store: {self.folder(stage)} is missing; run `tokencredit train` again"
            )
        return artifact

    def sha256(self, stage: Buildable) -> str | None:
        """One hash of an artifact's files as they were made; None if it is not there."""
        manifest = self.folder(stage) / MANIFEST
        return digest(read_json(manifest, sha256=dict)["sha256"]) if manifest.is_file() else None

    def build(self, stage: Buildable) -> Artifact:
        """The artifact of `stage`, built now unless it is there. One builds, others wait."""
        folder = self.folder(stage)
        make_folder(folder.parent)
        with wait_for_lock(folder.with_suffix(".lock"), f"{stage.name} {stage.key}"):
            found = self.find(stage)
            if found is None:
                found = self._build(stage, folder)
            remove(folder.with_suffix(SAVES))
            return found

    @staticmethod
    def _build(stage: Buildable, folder: Path) -> Artifact:
        seconds = seconds_before(folder.with_suffix(SAVES))
        with building(folder.with_suffix(".partial"), folder) as partial:
            started = time.monotonic()
            figures = dict(stage.run(partial))
            check_finite(stage.name, partial, figures)
            manifest = {
                "schema_version": 1,
                "stage": stage.name,
                "key": stage.key,
                "identity": stage.identity,
                "figures": figures,
                "seconds": round(seconds + time.monotonic() - started, 3),
                "environment": environment(),
                "sha256": folder_sha256(partial),
            }
            write_json(partial / MANIFEST, manifest)
        return Artifact(folder, manifest)

    def plan(self, stage: Buildable) -> Plan:
        """Hit or miss, and for a miss the difference to the nearest artifact of that stage."""
        if self.find(stage) is not None:
            return Plan(stage.name, stage.key, hit=True)
        if (self.folder(stage) / MANIFEST).is_file():
            return Plan(stage.name, stage.key, hit=False, reasons=("the artifact is damaged",))
        nearest = min(
            (differences(other, stage.identity) for other in self._identities(stage.name)),
            key=len,
            default=["no earlier artifact"],
        )
        state = goes_on(self.folder(stage).with_suffix(SAVES))
        return Plan(stage.name, stage.key, hit=False, state=state, reasons=tuple(nearest))

    def _identities(self, name: str) -> Iterator[dict[str, Any]]:
        for manifest in sorted((self.root / name).glob(f"*/{MANIFEST}")):
            try:
                yield read_json(manifest, identity=dict)["identity"]
            except (OSError, Damaged) as error:
                say_once(f"{error}; planning goes on without it")


def seconds_before(saves: Path) -> float:
    """The seconds that a stage has trained until the newest of its `saves`; 0 without one."""
    seconds: dict[Path, float] = {}
    for state in saves.glob(f"*/step-??????/{SAVE_STATE}"):
        training = state.parent.parent  # a stage may have several, one after the other
        try:
            spent = read_json(state, seconds=float)["seconds"]
        except (OSError, Damaged) as error:
            say_once(f"{error}; its seconds are not counted")
        else:
            seconds[training] = max(spent, seconds.get(training, 0.0))
    return sum(seconds.values())


def goes_on(saves: Path) -> str:
    """Where an interrupted stage goes on, as a plan says it; empty without a save."""
    steps = sorted(path.name for path in saves.glob("*/step-??????"))
    return f"goes on at step {int(steps[-1].removeprefix('step-'))}" if steps else ""


def check_finite(stage: str, made: Path, figures: Mapping[str, object]) -> None:
    """Raise for a result that holds NaN or an infinity, in its weights or in its figures."""
    tensor = first_not_finite(stored_tensors(made))
    bad = figure_not_finite(figures) if tensor is None else f"the tensor {tensor}"
    if bad is not None:
        raise UserError(
            f"{stage}: {bad} is not finite, so nothing is kept; if this stage trained, lower its "
            "learning_rate or compute in another number format (model.dtype=float32), else look "
            "into the model that it began with"
        )


def find_damage(folder: Path) -> str | None:
    """What is wrong with an artifact: the first file that is missing, changed, or unreadable."""
    try:
        expected = read_json(folder / MANIFEST, sha256=dict)["sha256"]
        found = folder_sha256(folder)
    except (FileNotFoundError, Damaged) as error:  # what may not be read may be whole
        return f"{MANIFEST}: {error}"
    for name, checksum in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != checksum:
            return f"{name} has changed"
    return None


def make_folder(folder: Path) -> None:
    """Make `folder`, or say why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error.strerror}); choose another place with run_dir=…, "
            "runs_dir=…, store=… or $TOKENCREDIT_STORE"
        ) from error


def check_kinds(stage: Buildable, root: Path) -> None:
    """Raise where a folder lies in the place of a stage's lock, or a file in that of its result."""
    folder = root / stage.name / stage.key
    if folder.with_suffix(".lock").is_dir():
        raise UserError(
            f"{folder.with_suffix('.lock')}: a file is wanted there; move the folder away"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a folder is wanted there; move the file away")


def check_writable(folder: Path, key: str) -> None:
    """Raise unless `folder`, or what it would be made in, is a folder that can be written."""
    nearest = folder.absolute()
    while not nearest.exists() and not nearest.is_symlink() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise UserError(f"{key} = {str(folder)!r}: {nearest} is no folder; choose another place")
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:  # it has no name, and leaves no trace
            file.write(bytes(PROBE))
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose another place")
        raise UserError(
            f"{key} = {str(folder)!r}: {nearest} cannot be written ({error.strerror}); {remedy}"
        ) from error


@contextmanager
def wait_for_lock(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on `path`; says so once if another process has it. Death frees it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(f"waiting for another process that builds {what}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def environment() -> dict[str, str]:
    """Versions of what computed a result."""
    versions = {name: metadata.version(name) for name in LIBRARIES}
    return {"tokencredit": __version__, "python": platform.python_version(), **versions}


def processor() -> str:
    """The processor's name, and its instruction sets, which decide the last bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = known.get("flags", "").split()
    wide = [name for name in ("avx2", "avx512f", "amx_tile") if name in flags]
    return ", ".join([known.get("model name", platform.machine()), *wide])
