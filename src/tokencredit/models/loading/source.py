"""What a configured model contains, and where it can be loaded from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokencredit.canonical import canonical, file_sha256
from tokencredit.errors import UserError
from tokencredit.models.adapters.adapter import CONFIG, Adapter, find_adapter
from tokencredit.models.loading.model import ModelSource, Pretrained, PretrainedReward, check_folder
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.shipped import SHIPPED_SHA256, shipped_model


def must_be_made(source: Pretrained) -> bool:
    """Whether a stage must convert or initialise the model before it can be loaded."""
    if source.source is ModelSource.path:
        return source.is_gguf()
    packaged_gguf = source.source is ModelSource.package and source.name != "tokencredit"
    return source.source is ModelSource.scratch or packaged_gguf


def identity_of(source: Pretrained, key: str) -> object:
    """What a model that is there contains, whatever it is called: checksums, or a commit.

    `key` is where the configuration holds it, for errors.
    """
    if source.source is ModelSource.package:
        return {"shipped": SHIPPED_SHA256}
    if source.source is ModelSource.path:
        folder = Path(source.path or "").expanduser()
        check_folder(folder, f"{key}.path")
        return {"folder": folder_identity(folder), **_renaming(source)}
    return hub_identity(source, f"{key}.name") | _renaming(source)


def place_of(source: Pretrained, key: str) -> Place:
    """Where a model that is there can be loaded from."""
    if source.source is ModelSource.package:
        return Place(shipped_model())
    if source.source is ModelSource.path:
        folder = Path(source.path or "").expanduser()
        return Place(folder, key=f"{key}.path", owner=key, **_renaming(source))
    assert source.name is not None
    named = f"{key}.name"
    commit = hub_commit(source, named)
    return Place(source.name, commit, key=named, owner=key, **_renaming(source))


def adapter_at(source: Pretrained, key: str) -> Adapter | None:
    """The adapter that a model is, on a base of its own; None for other models."""
    if source.source not in {ModelSource.path, ModelSource.hub} or must_be_made(source):
        return None
    place = place_of(source, key)
    return find_adapter(place.where, place.revision)


def _renaming(source: Pretrained) -> dict[str, str]:
    head = source.head if isinstance(source, PretrainedReward) else None
    given = {"strip_prefix": source.strip_prefix, "head": head}
    return {name: value for name, value in given.items() if value is not None}


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
