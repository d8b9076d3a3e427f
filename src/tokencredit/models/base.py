"""From a configured model source to a place that transformers can load, and to what it contains."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.canonical import canonical, file_sha256
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.models.adapter import CONFIG, Adapter, find_adapter
from tokencredit.models.model import ModelSource, Pretrained, PretrainedReward, check_folder
from tokencredit.models.place import Place
from tokencredit.models.shipped import SHIPPED_SHA256, shipped_model, shipped_split

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.stages.stage import Stage


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model of the configuration, resolved."""

    context: Context
    source: Pretrained

    def parents(self) -> Mapping[str, Stage]:
        """The stage that must make the model first, if one must."""
        if not self._needs_stage():
            return {}
        from tokencredit.stages.prepare import Prepare

        return {"base": Prepare(self.context, self.source)}

    def identity(self) -> object:
        """What the model contains, whatever it is called: checksums, or the commit on the hub."""
        if self._needs_stage():
            return "stage"
        if self.source.source is ModelSource.package:
            check_split(self.context)
            return {"shipped": SHIPPED_SHA256}
        if self.source.source is ModelSource.path:
            folder = Path(self.source.path or "").expanduser()
            check_folder(folder, f"{self.key}.path")
            return {"folder": folder_identity(folder), **self._renaming()}
        return hub_identity(self.source, f"{self.key}.name") | self._renaming()

    @property
    def key(self) -> str:
        """Where the configuration holds it."""
        return self.context.config.model.key_of(self.source)

    def adapter(self) -> Adapter | None:
        """The adapter that it is, on a base of its own; None for other models."""
        if self.source.source not in {ModelSource.path, ModelSource.hub} or self._needs_stage():
            return None
        place = self.place()
        return find_adapter(place.where, place.revision)

    def _renaming(self) -> dict[str, str]:
        head = self.source.head if isinstance(self.source, PretrainedReward) else None
        given = {"strip_prefix": self.source.strip_prefix, "head": head}
        return {name: value for name, value in given.items() if value is not None}

    def place(self) -> Place:
        """Where it can be loaded from; stages before it must have run."""
        parents = self.parents()
        if parents:
            return Place(self.context.store.get(parents["base"]).path)
        if self.source.source is ModelSource.package:
            return Place(shipped_model())
        if self.source.source is ModelSource.path:
            folder = Path(self.source.path or "").expanduser()
            return Place(folder, key=f"{self.key}.path", owner=self.key, **self._renaming())
        assert self.source.name is not None
        named = f"{self.key}.name"
        commit = hub_commit(self.source, named)
        return Place(self.source.name, commit, key=named, owner=self.key, **self._renaming())

    def _needs_stage(self) -> bool:
        source = self.source
        if source.source is ModelSource.path:
            return source.is_gguf()
        packaged_gguf = source.source is ModelSource.package and source.name != "tokencredit"
        return source.source is ModelSource.scratch or packaged_gguf


def base_of(context: Context, source: Pretrained) -> Base:
    """The resolved form of a configured model."""
    return Base(context, source)


def check_split(context: Context) -> None:
    """Raise if texts that the shipped model was trained on would now count as held out."""
    dataset = context.config.dataset
    now, trained = context.corpus.fingerprints["sft"], shipped_split()
    if dataset.name == "imdb" and dataset.source is Source.package and now != trained:
        raise UserError(
            f"dataset.splits: the model of package tokencredit was trained on the SFT split "
            f"{trained} of imdb, but this configuration makes another one ({now}), so texts held "
            "out now have been seen; use the default dataset.splits, or another model"
        )


def folder_identity(folder: Path) -> str:
    """A hash of the weights, the configuration, and the tokenizer in a model folder.

    That of an adapter holds its base's too, and not where that lies.
    """
    kinds = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
    files = sorted({path for kind in kinds for path in folder.glob(kind) if path.is_file()})
    content: dict[str, object] = {path.name: file_sha256(path) for path in files}
    adapter = find_adapter(folder)
    if adapter is not None:
        content |= adapter.content() | {"base": _beneath(adapter)}
    return hashlib.sha256(repr(canonical(content)).encode()).hexdigest()


def _beneath(adapter: Adapter) -> object:
    """What the base of an adapter contains."""
    if Path(adapter.base).is_dir():
        check_folder(Path(adapter.base), f"the base of {adapter.name}")
        return folder_identity(Path(adapter.base))
    return hub_identity(
        Pretrained(source=ModelSource.hub, name=adapter.base, revision=adapter.revision),
        f"the base of {adapter.name}",
    )


def hub_identity(source: Pretrained, key: str = "model.policy.name") -> dict[str, object]:
    """The name and the commit of a model on the hub; and of its base, if it is an adapter."""
    commit = hub_commit(source, key)
    assert source.name is not None
    adapter = find_adapter(source.name, commit)
    base = {} if adapter is None else {"base": _beneath(adapter)}
    return {"hub": source.name, "commit": commit, **base}


def hub_commit(source: Pretrained, key: str = "model.policy.name") -> str:
    """The commit a hub name stands for now; from the local cache where there is no network."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    assert source.name is not None
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        commit = HfApi().model_info(source.name, revision=source.revision, timeout=10).sha
    except Exception as error:
        for name in ("config.json", CONFIG):
            cached = try_to_load_from_cache(source.name, name, revision=source.revision)
            if isinstance(cached, str):
                return Path(cached).parent.name
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        option = f"{key.removesuffix('.name')}.source" if key.endswith(".name") else "source"
        raise UserError(
            f"{key} = {source.name!r}: the hub cannot be reached ({reason}) and the model is not "
            f"in the local cache; use {option}=package or path, or try with a network"
        ) from error
    return str(commit)
