"""Model folders whose weights are spoilt, or laid out otherwise, in the ways that people meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from case_models import WEIGHTS, Weights, make_classifier, make_tokenizer, save

PREFIX: Final = "pretrained_model."
LACKING: Final = "model.layers.1.mlp.up_proj.weight"


def prefixed(weights: Weights, prefix: str = PREFIX) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def lacking(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if LACKING not in name}


def wider(weights: Weights) -> Weights:
    return weights | {"lm_head.weight": torch.zeros(500, 32)}


def with_buffers(weights: Weights) -> Weights:
    """As Llama's early checkpoints: rotary frequencies beside the weights."""
    return weights | {
        f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(8) for n in (0, 1)
    }


def in_shards(folder: Path) -> Path:
    """Split the weights of a model's folder over two files with an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    where = {n: f"model-{1 + (i % 2)}.safetensors" for i, n in enumerate(names)}
    for file in set(where.values()):
        save_file(
            {n: weights[n] for n in names if where[n] == file}, folder / file, {"format": "pt"}
        )
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def cut(folder: Path) -> None:
    """Take the data off the weight files; their headers stay."""
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content[: 8 + int.from_bytes(content[:8], "little")])


def spoil_config(folder: Path, **settings: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def reward_folder(place: Path, labels: int = 1) -> Path:
    tokenizer = make_tokenizer()
    return save(place, make_classifier(tokenizer, labels), tokenizer)
