"""Where a pretrained model lies, under which key it was named, and what its files' headers say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokencredit.errors import UserError, require
from tokencredit.store.files import read_json

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
GENERATION: Final = "generation_config.json"
SCORE: Final = "score."
"""How the tensors of the head of transformers' causal classifiers are called."""
SUFFIX: Final = ".safetensors"
LONGEST_HEADER: Final = 100_000_000
"""Bytes; safetensors allows no longer one."""
BUFFERS: Final = re.compile(
    r"(^|\.)((attn|attention|self_attn|self_attention)\.(masked_)?bias|(rotary_emb\.)?inv_freq"
    r"|position_ids|token_type_ids|num_batches_tracked)$"
)
"""What older versions saved beside weights and computed all the same; some architectures in
transformers still know the names of theirs, others (GPT-J) have forgotten them."""
INTEGERS: Final = "IUB"
"""How the names of types begin that are no floating-point ones, in headers: I8, U8, BOOL."""
LFS: Final = b"version "
"""How a file begins that stands for another one in Git LFS."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A model folder, or a hub repository at a commit, and how its tensors are renamed."""

    where: str | Path
    revision: str | None = None
    key: str = "model"
    """What named it: a key of the configuration (model.policy.path), or an option of a command."""
    owner: str | None = None
    """Where the configuration says more about it (model.policy); None for other models."""
    strip_prefix: str | None = None
    """What is taken off the beginning of its tensors' names."""
    head: str | None = None
    """What its score head is called there."""

    def __str__(self) -> str:
        """The beginning of a message about it."""
        return f"{self.key} = {str(self.where)!r}"

    def renaming(self) -> dict[str, str]:
        """Regular expressions of names, and what replaces what they match, in this order."""
        return renaming(self.strip_prefix, self.head)

    def renamed(self, headers: Headers) -> dict[str, Shape]:
        """The tensors by the names they are read by; `UserError` where a renaming does nothing."""
        names = headers.shapes
        given = [name for name in ("strip_prefix", "head") if getattr(self, name) is not None]
        for option, (pattern, new) in zip(given, self.renaming().items(), strict=True):
            found = {rename(name, {pattern: new}): shape for name, shape in names.items()}
            require(
                len(found) == len(names) and set(found) != set(names),
                f"{self.owner}.{option}",
                getattr(self, option),
                f"no tensor of {self.where} is called so, or another has the name that would be "
                f"left; the names there: {listed(names)}",
            )
            names = found
        return dict(names)


def renaming(strip_prefix: str | None, head: str | None) -> dict[str, str]:
    """What takes a prefix off names, and gives a head the name it has in transformers."""
    rules = {}
    if strip_prefix is not None:
        rules[rf"^{re.escape(strip_prefix.rstrip('.'))}\."] = ""
    if head is not None:
        rules[rf"^{re.escape(head.removesuffix('.weight').rstrip('.'))}\."] = SCORE
    return rules


def rename(name: str, rules: Mapping[str, str]) -> str:
    """A name after the rules that `renaming` gives."""
    for pattern, new in rules.items():
        name = re.sub(pattern, new, name)
    return name


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names in order, and whether there are more."""
    known = sorted(names)
    return ", ".join(known[:most]) + (", …" if len(known) > most else "")


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of weight files say, without the data behind them."""

    shapes: Mapping[str, Shape]
    """Of each tensor, by name."""
    files: tuple[Path, ...]
    """That they are in."""


def find_file(
    where: str | Path, name: str, revision: str | None = None, *, fetch: bool = True
) -> Path | None:
    """A file of a folder, or of a hub repository; None if it is not there.

    Without a network, or with `fetch=False`, a repository is what the hub's cache holds of it.
    """
    folder = Path(where).expanduser()
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        if not fetch:
            cached = try_to_load_from_cache(str(where), name, revision=revision)
            return Path(cached) if isinstance(cached, str) else None
        return Path(hf_hub_download(str(where), name, revision=revision))
    except (OSError, ValueError):  # not there, not cached, or no repository at all
        return None


def check_generation(place: Place) -> None:
    """Raise for a generation_config that transformers would leave aside, with the ends it names."""
    path = find_file(place.where, GENERATION, place.revision, fetch=False)
    if path is None:
        return
    ends = read_json(path).get("eos_token_id")
    if not all(type(end) is int for end in (ends if isinstance(ends, list) else [ends or 0])):
        raise UserError(f"{path}: eos_token_id = {ends!r}: must be an id, or a list of ids")


def read_headers(place: Place, *, fetch: bool = True) -> Headers | None:
    """The headers of a model's safetensors files; None for files that are not here.

    Raises `UserError` for files that are damaged or incomplete.
    """
    single = find_file(place.where, WEIGHTS, place.revision, fetch=fetch)
    if single is not None:
        return read_header(single, place)
    index = find_file(place.where, INDEX, place.revision, fetch=fetch)
    if index is None:
        return None
    shapes: dict[str, Shape] = {}
    files: tuple[Path, ...] = ()
    for name in _shards(index, place):
        path = find_file(place.where, name, place.revision, fetch=fetch)
        if path is None and not Path(place.where).expanduser().exists():
            return None
        if path is None:
            raise UserError(f"{place}: {INDEX} names {name}, which is missing; fetch it again")
        found = read_header(path, place)
        shapes |= found.shapes
        files += found.files
    return Headers(shapes, files)


def _shards(index: Path, place: Place) -> list[str]:
    """The files that an index names, all beside it: a model's identity is what its folder holds."""
    named = read_json(index, weight_map=dict)["weight_map"].values()
    for name in named:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != SUFFIX:
            raise UserError(
                f"{place}: {INDEX} names {name!r}, which is no {SUFFIX} file beside it; fetch it "
                "again, or put all files into one folder"
            )
    return sorted(set(named))


def read_header(path: Path, place: Place) -> Headers:
    """The header of one safetensors file; `UserError` unless it is one."""
    if not path.is_file():
        raise UserError(f"{place}: {path.name} is missing; restore it, or fetch it again")
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == LFS:
            raise UserError(
                f"{place}: {path.name} only stands for the weights (Git LFS); run git lfs pull"
            )
        text = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        described: dict[str, Any] = json.loads(text)
        described.pop("__metadata__", None)
        shapes = {name: tuple(map(int, item["shape"])) for name, item in described.items()}
        kinds = {name: str(item["dtype"]) for name, item in described.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: {path.name} is no safetensors file; fetch it again") from error
    whole = [n for n, kind in kinds.items() if kind[0] in INTEGERS and not BUFFERS.search(n)]
    if whole:
        raise UserError(
            f"{place}: {len(whole)} tensors in {path.name} are integers ({listed(whole)}): these "
            "are quantised weights, which cannot be trained; use the model that they were made from"
        )
    return Headers(shapes, (path,))


def check_whole(headers: Headers, place: Place) -> None:
    """Raise if a weight file does not end where its header says, or is damaged otherwise."""
    from safetensors import SafetensorError, safe_open

    for path in headers.files:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{place}: {path.name} is damaged, or cut off before its end ({error}); fetch it "
                "again"
            ) from error
