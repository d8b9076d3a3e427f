"""A pretrained model that is an adapter on another one, as peft saves it, in a folder or a hub
repository: which model lies beneath it, and the two as one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokencredit.canonical import digest, file_sha256
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import POLICY, merged
from tokencredit.models.loading.fit import Faults, Part
from tokencredit.models.loading.place import Place, find_file, read_header
from tokencredit.store.files import read_json, write_json

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
MODEL_CARD: Final = "README.md"
HEAD: Final = "score.weight"
"""How the name of a classifier's head ends."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter and the name of its base."""

    name: str
    """As it was asked for."""
    folder: Path
    """Where its files lie, here or in the hub's cache."""
    base: str
    """Folder or hub repository of the model beneath."""
    revision: str | None
    """Commit, branch, or tag of the base on the hub."""

    @property
    def weights(self) -> Path:
        """The file of its tensors."""
        return self.folder / WEIGHTS

    def labels(self) -> int | None:
        """Outputs of the classifier's head that it brings; None if it brings none."""
        shapes = read_header(self.weights, Place(self.weights)).shapes
        heads = [shape[0] for name, shape in shapes.items() if name.endswith(HEAD)]
        return heads[0] if heads else None

    def check_trainable(self, extra: Mapping[str, Any]) -> None:
        """Raise if the whole would be loaded in four bits."""
        if "quantization_config" in extra:
            raise UserError(
                f"model: {self.name} is an adapter, and on four-bit weights it cannot be trained "
                "further; merge it into its base first (peft's merge_and_unload)"
            )

    def beneath(
        self, part: Part, labels: int | None, place: Place
    ) -> tuple[Part, Place, int | None]:
        """What is loaded beneath, where it lies, and its outputs; `UserError` if that cannot be.

        A head that the adapter brings need not be there.
        """
        base = Place(
            self.base,
            self.revision,
            key=f"the base of {place.key}",
            owner=place.owner,
            strip_prefix=place.strip_prefix,
        )
        if part not in {Part.classifier, Part.start}:
            return part, base, labels
        own = self.labels()
        if own is None and part is Part.classifier:
            raise UserError(
                f"model.reward: the adapter {self.name} brings no score head ({HEAD}), so it is no "
                "classifier; train one (reward_model.train=true), or use another"
            )
        if own is not None and labels not in {None, own}:
            raise UserError(
                f"model.reward: the adapter {self.name} has {own} label(s), and a classifier with "
                f"{labels} is to be trained; use reward_model.train=false, or another start"
            )
        return Part.start, base, labels if own is None else own

    def put_on(self, base: PreTrainedModel) -> PeftModel:
        """An adapter of this kind, without its weights, on its base; `UserError` if none fits."""
        from peft import PeftConfig, get_peft_model

        self._check_kind()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they are about is checked here
                config = PeftConfig.from_pretrained(str(self.folder))
                if self.labels() is None:  # and so it fits any model with that trunk
                    config.task_type = None
                model = get_peft_model(base, config)
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"model: the adapter {self.name} does not fit its base {self.base}: "
                f"{said[-1].strip()}"
            ) from error
        return model

    def _check_kind(self) -> None:
        """Raise for kinds that change no weights (prompts), or that peft does not know."""
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        kind, tuners = read_json(self.folder / CONFIG).get("peft_type"), PEFT_TYPE_TO_TUNER_MAPPING
        known = [k.value for k, tuner in tuners.items() if hasattr(tuner, "merge_and_unload")]
        if kind not in known:
            raise UserError(
                f"model: the adapter {self.name} is of kind {kind!r} (peft_type in its {CONFIG}), "
                "which cannot be merged into its base; use one that can (LORA and its like)"
            )

    def check(self, base: PreTrainedModel) -> None:
        """Raise unless it fits its base, whose weights are not needed for that."""
        check_adapter(self.put_on(base), self.weights, self.name)

    def filled(self, base: PreTrainedModel) -> PeftModel:
        """The base with this adapter and its weights on it."""
        model = self.put_on(base)
        fill_adapter(model, self.weights, self.name, POLICY)
        return model

    def merged_into(self, base: PreTrainedModel) -> PreTrainedModel:
        """The base with this adapter merged into it: a plain model."""
        whole = merged(self.filled(base))
        whole.requires_grad_(True)  # peft has frozen the base, and now there is nothing else
        return whole

    def content(self) -> dict[str, str]:
        """Hashes of what the adapter is, whatever its base is called."""
        settings = read_json(self.folder / CONFIG)
        for name in ("base_model_name_or_path", "revision"):
            settings.pop(name, None)
        return {CONFIG: digest(settings), WEIGHTS: file_sha256(self.folder / WEIGHTS)}


def find_adapter(where: str | Path, revision: str | None = None) -> Adapter | None:
    """The adapter at a folder or in a hub repository; None if there is another model, or nothing.

    Raises `UserError` for an adapter that cannot be used.
    """
    config = find_file(where, CONFIG, revision)
    if config is None:
        return None
    weights = find_file(where, WEIGHTS, revision)
    if weights is None:
        raise UserError(
            f"model: {where} is an adapter without {WEIGHTS}; pickled weights are not loaded, "
            "convert them to safetensors"
        )
    settings = read_json(config)
    base = settings.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise UserError(f"model: {config} does not name a base (base_model_name_or_path)")
    path = Path(base).expanduser()
    if base.startswith("..") and not path.is_dir():
        path = config.parent / base  # an artifact of a store names another one
    if not path.is_dir() and (base.startswith(("/", ".", "~")) or len(path.parts) > 2):
        raise UserError(
            f"model: the adapter {where} sits on {base}, and there is no such folder; correct "
            f"base_model_name_or_path in its {CONFIG}"
        )
    if path.is_dir():
        _check_ends(config.parent, path)
        base = str(path)
    return Adapter(str(where), config.parent, base, settings.get("revision"))


def _check_ends(folder: Path, base: Path) -> None:
    """Raise if adapters sit on one another in a circle."""
    seen = {folder.resolve()}
    while (base / CONFIG).is_file():
        if base.resolve() in seen:
            raise UserError(
                f"model: the adapter {folder} sits on itself; correct base_model_name_or_path in "
                f"its {CONFIG}"
            )
        seen.add(base.resolve())
        below = read_json(base / CONFIG).get("base_model_name_or_path")
        base = base / below if isinstance(below, str) else base / CONFIG


def check_adapter(model: nn.Module, path: Path, what: str, name: str = "default") -> None:
    """Raise unless a file's tensors are those of the adapter `name` of `model`."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says when it saves embeddings too
        state = get_peft_model_state_dict(model, adapter_name=name)
    wanted = {key: tuple(tensor.shape) for key, tensor in state.items()}
    faults = Faults.between(read_header(path, Place(path)).shapes, wanted)
    if faults.count():
        raise UserError(
            f"model: the adapter {what} does not fit its base: {faults}; use the base that it was "
            "made on"
        )


def fill_adapter(model: nn.Module, path: Path, what: str, name: str) -> None:
    """Give the adapter `name` of `model` a file's tensors, which must be its own."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_adapter(model, path, what, name)
    set_peft_model_state_dict(model, load_file(path), adapter_name=name)


def own_adapter(folder: Path, what: str) -> Adapter:
    """The adapters that a stage has left in `folder`; `UserError` where they are missing."""
    adapter = find_adapter(folder)
    if adapter is None:
        raise UserError(f"{folder}: the {what}'s adapters are missing; train it again")
    return adapter


def save_on(model: PreTrainedModel, folder: Path, base: Path) -> None:
    """Write a model, or its adapters, to `folder`, which lies in the store beside `base`, the
    folder of the model beneath.

    peft names places on this machine, in a model card and as the base, and the modules in the order
    of a set; here the base is named as seen from `folder`, and modules are in alphabetical order.
    """
    model.save_pretrained(folder)
    (folder / MODEL_CARD).unlink(missing_ok=True)
    path = folder / CONFIG
    if path.is_file():
        settings = read_json(path)
        modules = settings.get("target_modules")
        if isinstance(modules, list):
            settings["target_modules"] = sorted(modules)
        name = f"../../{base.parent.name}/{base.name}"
        write_json(path, settings | {"base_model_name_or_path": name})
