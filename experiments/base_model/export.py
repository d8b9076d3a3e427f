"""Turn the artifact of `tokencredit train experiment=base_model/tiny` into the model that ships.

    python experiments/base_model/export.py store/sft/KEY src/tokencredit/assets/tiny_base

Writes fp16 safetensors, configuration, tokenizer, and provenance.json, and prints the checksum that
`tokencredit.models.loading.shipped` must hold.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokencredit.canonical import file_sha256
from tokencredit.data.dataset import Dataset
from tokencredit.store.files import read_json, write_json


def main(artifact: Path, out: Path) -> None:
    """Export `artifact` to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    manifest = read_json(artifact / "manifest.json")
    fingerprint = Dataset().read().fingerprints["sft"]
    trained_on = manifest["identity"]["inputs"]["data"]
    if trained_on != fingerprint:
        sys.exit(f"the artifact was trained on split {trained_on}, imdb's is {fingerprint}")
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.float16)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(artifact).save_pretrained(out)
    provenance = {
        "command": "tokencredit train experiment=base_model/tiny",
        "sft_fingerprint": fingerprint,
        "sft_key": manifest["key"],
        "identity": manifest["identity"],
        "figures": manifest["figures"],
        "seconds": manifest["seconds"],
        "environment": manifest["environment"],
        "sha256": file_sha256(out / "model.safetensors"),
    }
    write_json(out / "provenance.json", provenance)
    print(provenance["sha256"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
