"""The models that are compared: policies of runs and model folders, and who is a seed of what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from tokencredit.config import Config, read
from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.models.loading.model import check_folder
from tokencredit.models.loading.source import folder_identity
from tokencredit.models.loading.weights import check_language_model
from tokencredit.papers.provenance import beyond_seeds, made_of
from tokencredit.redaction import redacted
from tokencredit.statistics.win_rates import Seed, left_out, pairings
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import read_json
from tokencredit.store.pilots import without_pilots
from tokencredit.store.run_folder import CONFIG, EVALUATION, RunFolder

HUB = re.compile(r"hub:(?P<name>[^@]+)(?:@(?P<revision>.+))?")
OF_A_MODEL = (CONFIG, "config.json")
KEPT = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Run:
    """A finished run, as far as its judges need it."""

    path: Path
    store_option: Path | None = None

    @cached_property
    def config(self) -> Config:
        """Its configuration."""
        return read(self.path / CONFIG)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Its manifest."""
        path = self.path / MANIFEST
        if not path.is_file():
            raise UserError(f"{path}: is missing; restore it from a copy, or name another run")
        return RunFolder(self.path).manifest()

    @property
    def scheme(self) -> str:
        """Name of its reward scheme."""
        return self.config.run.scheme or type(self.config.reward_scheme).__name__.lower()

    @property
    def store(self) -> Path:
        """The store that its stages were built in."""
        return self.store_option or Path(self.config.store).expanduser()

    @property
    def parents(self) -> dict[str, str]:
        """Keys of the artifacts that it was made from, by role."""
        found: dict[str, str] = self.manifest.get("parents", {})
        return found

    def artifact(self, role: str) -> Path:
        """The folder of one of its parents in the store; `UserError` if there is none."""
        key = self.parents.get(role)
        if key is None:
            raise UserError(f"{self.path}: this run has no {role}")
        folder = self.store / role / str(key)
        if not folder.is_dir():
            raise UserError(
                f"{self.path}: its {role} is not in the store ({folder}); name the store with "
                "--store"
            )
        return folder

    def trained_on(self) -> list[str]:
        """Keys of the artifacts that training was paid or guided by: all parents but the oracle."""
        return [key for role, key in self.parents.items() if role != "oracle"]


@dataclass(frozen=True)
class Player:
    """A model folder under the name of its method; several of one name are seeds of it."""

    name: str
    folder: Path
    run: Run | None = None
    seed: Seed = None
    """Of the run that it is the policy of, or that it was made for."""

    @cached_property
    def identity(self) -> str:
        """Hash of weights, configuration, and tokenizer."""
        return folder_identity(self.folder)


def players(places: Sequence[str], names: Sequence[str] | None, store: Path | None) -> list[Player]:
    """The models at `places`: run folders, folders of them, model folders, hub:NAME[@REVISION].

    Runs of one scheme are seeds of one method. With `names` the k-th model of a name is its seed k,
    whatever it was trained with. Raises `UserError` where there is no model.
    """
    found = [_player(folder, store) for place in places for folder in _runs_of(place)]
    if names is None:
        return found
    require(
        len(names) == len(found) and all(names),
        "--names",
        ",".join(names),
        f"name each of the {len(found)} models; one name twice means two seeds of a method",
    )
    seen: Counter[str] = Counter()
    for place, (name, player) in enumerate(zip(names, found, strict=True)):
        seed = seen[name] if names.count(name) > 1 else None
        found[place] = replace(player, name=name, seed=seed)
        seen[name] += 1
    return found


def of_stage(role: str, runs: Sequence[Run]) -> list[Player]:
    """The models of a stage that these runs were made from, as one method.

    One model that all share has no seed; it meets every seed of the others.
    """
    made: dict[int, Path] = {}
    for run in (run for run in runs if role in run.parents):
        folder = run.artifact(role)
        if made.setdefault(run.config.seed, folder) != folder:
            raise UserError(
                f"--with-{role}: runs of seed {run.config.seed} began with different models "
                f"({made[run.config.seed].name}, {folder.name}); name those that you mean"
            )
    if len(set(made.values())) == 1:
        return [Player(role, folder) for folder in set(made.values())]
    return [Player(role, folder, seed=seed) for seed, folder in sorted(made.items())]


def check_distinct(models: Sequence[Player], *, named: bool) -> None:
    """Raise unless models of one name are seeds of one configuration."""
    first: dict[str, Player] = {}
    seen: set[tuple[str, Seed]] = set()
    for player in models:
        other = first.setdefault(player.name, player)
        unseeded = other is not player and None in {other.seed, player.seed}
        if unseeded or (player.name, player.seed) in seen:
            raise UserError(
                f"two models are called {player.name!r}; name all with --names a,b,… (one name "
                "twice means two seeds of a method)"
            )
        seen.add((player.name, player.seed))
        if not named and other is not player and other.run and player.run:
            _check_alike(other.run, player.run, player.name)


def _check_alike(one: Run, other: Run, name: str) -> None:
    """Raise where two runs of one scheme differ in more than their seeds."""
    apart = beyond_seeds(made_of(one.manifest), made_of(other.manifest))
    if apart:
        raise UserError(
            f"{one.path} and {other.path}: both are {name!r} but differ in {'; '.join(apart[:4])}; "
            "name all with --names a,b,…"
        )


def check_pairs(models: Sequence[Player]) -> list[str]:
    """Raise where two methods have no runs that meet; the runs that meet not all, in words."""
    runs: dict[str, list[Seed]] = {}
    for player in models:
        runs.setdefault(player.name, []).append(player.seed)
    for (one, own), (other, theirs) in combinations(runs.items(), 2):
        if not pairings(own, theirs):
            raise UserError(
                f"{one} has the seeds {own} and {other} {theirs}: none in common, so no runs "
                "meet; compare equal seeds, or name all with --names a,b,…"
            )
    return left_out(runs)


def evaluated_runs(places: Sequence[Path]) -> list[Run]:
    """The runs in and below these folders that have been evaluated, but a tuning's pilot runs;
    `UserError` where there is none."""
    found = [
        Run(folder)
        for place in places
        for folder in without_pilots((path.parent for path in place.rglob(EVALUATION)), place)
        if (folder / MANIFEST).is_file()
    ]
    if not found:
        raise UserError(f"{', '.join(map(str, places))}: holds no run that has been evaluated")
    return found


def _runs_of(place: str) -> list[str]:
    """The runs in a folder that holds runs, but those that failed and a tuning's pilot runs; or the
    place itself."""
    folder = Path(place).expanduser()
    if place.startswith("hub:") or any((folder / name).is_file() for name in OF_A_MODEL):
        return [place]
    inside = []
    for path in without_pilots((path.parent for path in folder.glob(f"*/{CONFIG}")), folder):
        run = Run(path)
        if (path / MANIFEST).is_file() and run.manifest.get("failed"):
            say(f"{run.scheme}, seed {run.config.seed}: failed, so it has no answers ({path})")
        else:
            inside.append(str(path))
    return inside or [place]


def _player(place: str, store: Path | None) -> Player:
    hub = HUB.fullmatch(place)
    if hub:
        folder = from_hub(place)
        check_language_model(folder, place)
        return Player(hub["name"].rpartition("/")[2], folder)
    path = Path(place).expanduser()
    if not path.is_dir():
        raise UserError(f"{place}: there is no such folder (a model of the hub is hub:NAME)")
    if (path / CONFIG).is_file():
        if not (path / "policy").is_dir():
            raise UserError(f"{place}: holds no finished policy; let the run end first")
        check_language_model(path / "policy", "RUN")
        RunFolder(path).check_exports("policy/")
        run = Run(path, store)
        return Player(run.scheme, path / "policy", run, run.config.seed)
    check_language_model(path, "MODEL")
    manifest = read_json(path / MANIFEST) if (path / MANIFEST).is_file() else {}
    return Player(str(manifest.get("stage") or path.resolve().name), path)


def from_hub(place: str) -> Path:
    """The local copy of hub:NAME[@REVISION], fetched if it has to be; safetensors only."""
    from huggingface_hub import snapshot_download

    hub = HUB.fullmatch(place)
    assert hub is not None
    try:
        folder = Path(snapshot_download(hub["name"], revision=hub["revision"], allow_patterns=KEPT))
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{place}: can be loaded neither from the hub nor from its cache ({redacted(said)})"
        ) from error
    check_folder(folder, place)
    return folder
