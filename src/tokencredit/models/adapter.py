"""A pretrained model that is an adapter on another one, as peft saves it, in a folder or a hub
repository: which model lies beneath it, and the two as one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokencredit.atomic import read_json
from tokencredit.canonical import digest, file_sha256
from tokencredit.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
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

    def labels(self) -> int | None:
        """Outputs of the classifier's head that it brings; None if it brings none."""
        from safetensors import safe_open

        with safe_open(self.folder / WEIGHTS, "pt") as file:
            heads = [file.get_slice(k).get_shape()[0] for k in file.keys() if k.endswith(HEAD)]  # noqa: SIM118
        return int(heads[0]) if heads else None

    def arguments(self, extra: dict[str, Any], *, classifies: bool) -> dict[str, Any]:
        """What loads the base, given what would load the whole; `UserError` if that cannot be."""
        if "quantization_config" in extra:
            raise UserError(
                f"model: {self.name} is an adapter, and on four-bit weights it cannot be trained "
                "further; merge it into its base first (peft's merge_and_unload)"
            )
        own, wanted = self.labels(), extra.get("num_labels")
        if not classifies:
            return extra
        if own is None and wanted is None:
            raise UserError(
                f"model.reward: the adapter {self.name} brings no score head ({HEAD}), so it is no "
                "classifier; train one (reward_model.train=true), or use another"
            )
        if own is not None and wanted not in {None, own}:
            raise UserError(
                f"model.reward: the adapter {self.name} has {own} label(s), and a classifier with "
                f"{wanted} is to be trained; use reward_model.train=false, or another start"
            )
        return extra if own is None else {**extra, "num_labels": own}

    def put_on(self, base: PreTrainedModel) -> PreTrainedModel:
        """The base with this adapter merged into it: a plain model."""
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict
        from safetensors.torch import load_file

        from tokencredit.models.lora import merged

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they are about is checked here
                config = PeftConfig.from_pretrained(str(self.folder))
                if self.labels() is None:  # and so it fits any model with that trunk
                    config.task_type = None
                model = PeftModel.from_pretrained(base, str(self.folder), config=config)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"model: the adapter {self.name} does not fit its base {self.base}: {reason}"
            ) from error
        wanted = set(get_peft_model_state_dict(model))
        found = set(load_file(self.folder / WEIGHTS))
        if wanted != found:
            raise UserError(
                f"model: the adapter {self.name} does not fit its base {self.base}: it "
                f"{'lacks' if wanted - found else 'has, and the base does not,'} "
                f"{min(wanted - found or found - wanted)}"
            )
        return merged(model)

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
    config = _file(where, CONFIG, revision)
    if config is None:
        return None
    weights = _file(where, WEIGHTS, revision)
    if weights is None:
        raise UserError(
            f"model: {where} is an adapter without {WEIGHTS}; pickled weights are not loaded, "
            "convert them to safetensors"
        )
    settings = read_json(config)
    base = settings.get("base_model_name_or_path")
    if not base:
        raise UserError(f"model: {config} does not name a base (base_model_name_or_path)")
    path = Path(base).expanduser()
    if base.startswith("..") and not path.is_dir():
        path = config.parent / base  # an artifact of a store names another one
    if not path.is_dir() and (base.startswith(("/", ".", "~")) or len(path.parts) > 2):
        raise UserError(
            f"model: the adapter {where} sits on {base}, and there is no such folder; correct "
            f"base_model_name_or_path in its {CONFIG}"
        )
    base = str(path) if path.is_dir() else base
    return Adapter(str(where), config.parent, base, settings.get("revision"))


def _file(where: str | Path, name: str, revision: str | None) -> Path | None:
    """A file of a folder, or of a hub repository, from the cache where there is no network."""
    folder = Path(where).expanduser()
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(where), name, revision=revision))
    except (OSError, ValueError):  # not there, not cached, or no repository at all
        return None
