"""The small base model that comes with the package: where it lies, and that it is the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError
from tokencredit.store.files import read_json

SHIPPED_SHA256: Final = "712ebb26654448d5fb177ee6a10c5a4e8165dc30efb887764511300138b06509"
"""Checksum of its weights (model.safetensors)."""
FOLDER: Final = Path(__file__).parents[2] / "assets" / "tiny_base"


def shipped_model() -> Path:
    """The folder of the shipped model, its checksum verified."""
    weights = FOLDER / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != SHIPPED_SHA256:
        raise UserError(f"model: {weights} is missing or damaged; install tokencredit again")
    return FOLDER


def shipped_split() -> str:
    """The fingerprint of the SFT split that the shipped model was trained on."""
    path = FOLDER / "provenance.json"
    if not path.is_file():
        raise UserError(f"model: {path} is missing; install tokencredit again")
    return str(read_json(path)["sft_fingerprint"])
