"""Layouts of weights that are no fault, files that are damaged, and the one room that reads them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaModel,
    PreTrainedModel,
)

import tokencredit
from case_models import WEIGHTS, Weights, change_weights, make_causal, make_tokenizer, plain, save
from case_weights import in_shards, reward_folder, spoil_config, with_buffers
from tokencredit.errors import UserError
from tokencredit.models.loading.fit import Part
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import check_complete, examine, load_causal, load_classifier

FLOAT: Final = Dtype.float32
SOURCES: Final = Path(tokencredit.__file__).parent
Spoil = Callable[[Weights], Weights]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plain(tmp_path / "model")


# What is no fault ---------------------------------------------------------------------------------

SIZES: Final = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 400, "n_positions": 64}


def unprefixed_gpt2(weights: Weights) -> Weights:
    """As the hub's GPT-2: the trunk's own names, masks beside the weights, no tied head."""
    bare = {n.removeprefix("transformer."): t for n, t in weights.items() if "lm_head" not in n}
    return bare | {f"h.{n}.attn.bias": torch.ones(1, 1, 64, 64) for n in (0, 1)}


def old_gptj(weights: Weights) -> Weights:
    masks = {"bias": torch.ones(1, 1, 64, 64), "masked_bias": torch.tensor(-1e9)}
    return weights | {f"transformer.h.0.attn.{n}": t for n, t in masks.items()}


def layouts() -> dict[str, tuple[PreTrainedModel, Spoil]]:
    tokenizer = make_tokenizer()
    tied = make_causal(tokenizer, tie_word_embeddings=True)
    gptj = GPTJConfig(**SIZES, rotary_dim=4, bos_token_id=None, eos_token_id=0)
    bare: Any = tied.base_model
    gpt2 = GPT2Config(**SIZES, bos_token_id=None, eos_token_id=0)
    return {
        "hub GPT-2": (GPT2LMHeadModel(gpt2), unprefixed_gpt2),
        "old Llama": (make_causal(tokenizer), with_buffers),
        "old GPT-J": (GPTJForCausalLM(gptj), old_gptj),
        "bare trunk": (bare, dict),
        "value head beside it": (tied, lambda w: w | {"v_head.summary.weight": torch.ones(1, 32)}),
    }


@pytest.mark.parametrize(
    "layout", ["hub GPT-2", "old Llama", "old GPT-J", "bare trunk", "value head beside it"]
)
def test_layouts_that_are_no_fault(layout: str, tmp_path: Path) -> None:
    """As a policy, and as what a reward model starts from."""
    model, change = layouts()[layout]
    trunk: Any = model.base_model
    change_weights(save(tmp_path / "model", model, make_tokenizer()), change)
    for part, read in ((Part.causal, load_causal), (Part.start, read_start)):
        assert examine(part, Place(tmp_path / "model"), 2 if part is Part.start else None)
        found: Any = read(tmp_path / "model", FLOAT)
        for name, tensor in trunk.state_dict().items():
            assert torch.equal(found.base_model.state_dict()[name], tensor), name


def read_start(folder: Path, dtype: Dtype) -> PreTrainedModel:
    return load_classifier(folder, dtype, labels=2)


def test_a_bare_trunk_without_a_tied_head_is_no_policy(folder: Path) -> None:
    LlamaModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(
        UserError, match=r"1 missing \(lm_head\.weight\); it brings no head of a la"
    ):
        load_causal(folder, FLOAT)
    assert read_start(folder, FLOAT).num_labels == 2


@pytest.mark.parametrize("labels", [1, 2])
def test_a_reward_model_starts_from_a_classifier(
    labels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its head is kept where it fits, and is said to be replaced where it does not."""
    folder = reward_folder(tmp_path / "rm", labels)
    model: Any = read_start(folder, FLOAT)
    head = load_file(folder / WEIGHTS)["score.weight"]
    assert torch.equal(model.score.weight, head) == (labels == 2) and model.num_labels == 2
    assert ("fresh head with 2 is trained" in capsys.readouterr().err) == (labels == 1)


# Other damage -------------------------------------------------------------------------------------


def test_files_that_are_no_weights(folder: Path, tmp_path: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    damage = {
        "cut": (
            whole[:-100],
            r"model\.safetensors is damaged, or cut off before its end \(.*; fetch it again",
        ),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "run git lfs pull"),
        "page": (b"<html>404 is not there</html>", "is no safetensors file; fetch it again"),
    }
    for content, said in damage.values():
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(UserError, match=said):
            examine(Part.causal, Place(folder), None)
            check_complete(Place(folder))
        with pytest.raises(UserError, match=r"cannot be loaded"):
            load_causal(folder, FLOAT)
    (folder / WEIGHTS).write_bytes(whole)
    in_shards(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-2\.safetensors, which is missing"):
        examine(Part.causal, Place(folder), None)


def test_quantised_weights_and_kernels_of_a_folder(folder: Path) -> None:
    """A kernel that config.json names is never fetched: results are those of our own attention."""
    expected = load_causal(folder, FLOAT)
    for name in ("_attn_implementation", "attn_implementation"):
        spoil_config(folder, **{name: "kernels-community/flash-attn3"})
        found = load_causal(folder, FLOAT)
        assert found.config._attn_implementation == expected.config._attn_implementation == "sdpa"
    spoil_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    for read in (
        lambda: load_causal(folder, FLOAT),
        lambda: examine(Part.causal, Place(folder), None),
    ):
        with pytest.raises(
            UserError, match=r"its weights are quantised \(gptq\) and cannot be tra"
        ):
            read()


# One room -----------------------------------------------------------------------------------------

ROOM: Final = {"models/loading/weights.py", "models/adapters/adapter.py", "models/loading/fit.py"}
NO_WEIGHTS: Final = {"AutoTokenizer", "AutoConfig", "GenerationConfig", "PeftConfig", "optimizer"}
"""Whose `from_pretrained` or `load_state_dict` reads no weights of a model."""


def readers(source: str) -> list[str]:
    """Whose `from_pretrained` or `load_state_dict` is named in a program."""
    names = {"from_pretrained", "load_state_dict"}
    found = [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and n.attr in names
    ]
    return [ast.unparse(node.value).rpartition(".")[2] for node in found]


def test_the_finder_of_readers_finds() -> None:
    found = readers("a.b.from_pretrained(x)\nload = Auto.load_state_dict")
    assert sorted(found) == ["Auto", "b"]


def test_weights_are_read_in_one_room() -> None:
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        found = set(readers(path.read_text(encoding="utf-8"))) - NO_WEIGHTS
        assert not found or name in ROOM, (name, found)
