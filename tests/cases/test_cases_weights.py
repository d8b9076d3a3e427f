"""Weights that do not fit are refused by name, in every role and command; what fits is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaForCausalLM,
    PreTrainedModel,
)

from case_models import WEIGHTS, Weights, change_weights, make_causal, make_tokenizer, plain, save
from case_weights import PREFIX, cut, in_shards, lacking, prefixed, reward_folder, wider
from tokencredit.commands.generate import continuations
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.oracles import open_oracle
from tokencredit.evaluation.compare.players import players
from tokencredit.models.bag_of_grams import BagOfGrams
from tokencredit.models.loading.fit import Part
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import (
    examine,
    load_causal,
    load_classifier,
    load_folder,
    load_into,
)
from tokencredit.stages.oracle import load_oracle

FLOAT: Final = Dtype.float32


Spoil = Callable[[Weights], Weights]
SPOILT: Final[Mapping[str, tuple[Spoil, str]]] = {
    "prefixed": (
        prefixed,
        r"21 missing \(lm_head\.weight, .*21 unexpected \(pretrained_model\.lm.*'pretrained_model\.'",
    ),
    "lacking": (
        lacking,
        r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\); the files are inc",
    ),
    "wider": (
        wider,
        r"1 of another shape \(lm_head\.weight: \(500, 32\) in place of \(400, 32\)\)",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plain(tmp_path / "model")


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("kind", SPOILT)
def test_case_1_a_language_model_that_does_not_fit(kind: str, shards: bool, folder: Path) -> None:
    """Headers alone, and loading, are refused in the same words."""
    spoil, said = SPOILT[kind]
    change_weights(folder, spoil)
    if shards:
        in_shards(folder)
    with pytest.raises(UserError, match=said) as loading:
        load_causal(folder, FLOAT)
    cut(folder)
    with pytest.raises(UserError) as examining:
        examine(Part.causal, Place(folder), None)
    assert str(examining.value) == str(loading.value)


@pytest.mark.parametrize(
    "prefix", ["pretrained_model.", "base_model.model.", "_orig_mod.", "module.actor."]
)
def test_case_1_another_trainers_prefix_is_found_and_taken_off(prefix: str, folder: Path) -> None:
    expected = load_causal(folder, FLOAT)
    change_weights(folder, lambda weights: prefixed(weights, prefix))
    place = Place(folder, key="model.policy.path", owner="model.policy")
    with pytest.raises(UserError, match=f"set model.policy.strip_prefix={prefix}$"):
        load_causal(place, FLOAT)
    found = load_causal(Place(folder, owner="model.policy", strip_prefix=prefix), FLOAT)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    found.save_pretrained(folder.parent / "saved")
    assert set(load_file(folder.parent / "saved" / WEIGHTS)) == set(expected.state_dict())


def test_case_1_a_prefix_that_is_not_there(folder: Path) -> None:
    place = Place(folder, key="model.dpo.path", owner="model.dpo", strip_prefix="actor.")
    for read in (lambda: load_causal(place, FLOAT), lambda: examine(Part.causal, place, None)):
        with pytest.raises(UserError, match=r"model\.dpo\.strip_prefix = 'actor\.': no tensor of "):
            read()


def commands(folder: Path, bare: Path) -> dict[str, Callable[[], object]]:
    """What reads a language model, but for training."""
    return {
        "generate": lambda: list(continuations(folder, ["a"], 1, 2, 1.0, 0)),
        "judge compare": lambda: players([str(folder)], None, None),
        "value": lambda: load_folder(bare, torch.float32),
    }


@pytest.mark.parametrize("command", ["generate", "judge compare", "value"])
def test_case_1_every_command_refuses_it(command: str, folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "trunk"
    LlamaForCausalLM.from_pretrained(folder).model.save_pretrained(bare)
    commands(folder, bare)[command]()  # as long as it is whole
    for place in (folder, bare):
        change_weights(
            place, lambda w: {n: t for n, t in w.items() if "layers.1.mlp.up_proj" not in n}
        )
    with pytest.raises(UserError, match=r"1 missing \(.*layers\.1\.mlp\.up_proj\.weight\)"):
        commands(folder, bare)[command]()


def test_case_1_an_oracle_of_one_model_or_of_grams(tmp_path: Path) -> None:
    classifier = reward_folder(tmp_path / "rm")
    open_oracle(str(classifier), [], "cpu")
    change_weights(classifier, lacking)
    with pytest.raises(UserError, match=r"--oracle = .*1 missing \(model\.layers\.1\.mlp\.up_proj"):
        open_oracle(str(classifier), [], "cpu")
    path = tmp_path / "oracle.safetensors"
    save_file({"weights": torch.ones(2048), "bias": torch.ones(())}, path)
    assert load_oracle(tmp_path).bias == 1
    save_file({"weights": torch.ones(2048), "slope": torch.ones(())}, path)
    with pytest.raises(UserError, match=r"BagOfGrams: 1 missing \(bias\), 1 unexpected \(slope\)"):
        load_oracle(tmp_path)
    with pytest.raises(UserError, match=r"1 of another shape \(weights: \(2048,\) in place of"):
        load_into(BagOfGrams(1024), path)


@pytest.mark.parametrize("kind", ["prefixed", "lacking"])
def test_case_1_the_base_of_an_adapter(kind: str, folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    model = LlamaForCausalLM.from_pretrained(folder)
    get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(adapter)
    load_causal(adapter, FLOAT)
    assert examine(Part.causal, Place(adapter), None) is not None
    change_weights(folder, SPOILT[kind][0])
    place = Place(adapter, key="model.policy.path", owner="model.policy")
    for read in (lambda: load_causal(place, FLOAT), lambda: examine(Part.causal, place, None)):
        with pytest.raises(UserError, match=rf"the base of model\.policy\.path.*{SPOILT[kind][1]}"):
            read()
    if kind == "prefixed":
        load_causal(Place(adapter, owner="model.policy", strip_prefix=PREFIX), FLOAT)


def test_case_1_an_adapter_that_was_never_merged(folder: Path) -> None:
    model = get_peft_model(LlamaForCausalLM.from_pretrained(folder), LoraConfig(r=2))
    state = {n.removeprefix("base_model.model."): t for n, t in model.state_dict().items()}
    change_weights(folder, lambda _: {n: t.contiguous() for n, t in state.items()})
    with pytest.raises(UserError, match="it holds an unmerged adapter: merge it"):
        load_causal(folder, FLOAT)


def finished(folder: Path, **more: str) -> PreTrainedModel:
    """The classifier as a finished reward model."""
    place = Place(folder, key="model.reward.path", owner="model.reward", **more)
    model = load_classifier(place, FLOAT)
    assert examine(Part.classifier, place, None) is not None
    return model


def test_case_2_a_finished_reward_model_brings_its_head(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1 missing \(score\.weight\); it brings no score head, so"
    ):
        finished(folder)
    narrow = make_causal(make_tokenizer(), num_key_value_heads=1, head_dim=8)
    with pytest.raises(UserError, match="it brings no score head, so"):  # whatever looks like one
        finished(save(tmp_path / "narrow", narrow, make_tokenizer()))
    with pytest.raises(UserError, match="it brings no score head"):
        open_oracle(str(folder), [], "cpu")
    classifier = load_classifier(folder, FLOAT, labels=2)  # one that is to be trained may lack it
    assert classifier.num_labels == 2
    assert finished(reward_folder(tmp_path / "rm")).num_labels == 1


@pytest.mark.parametrize("head", ["value_head", "v_head.summary", "module.reward"])
@pytest.mark.parametrize("labels", [1, 2])
def test_case_2_a_head_of_another_name(head: str, labels: int, tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "rm", labels)
    expected = finished(folder)
    change_weights(folder, lambda w: {n.replace("score.", f"{head}."): t for n, t in w.items()})
    if labels == 1:  # as where the folder's configuration is a language model's
        config = json.loads((folder / "config.json").read_text())
        kept = {k: v for k, v in config.items() if k not in {"id2label", "label2id"}}
        (folder / "config.json").write_text(json.dumps(kept))
    said = rf"{head} of shape \({labels}, 32\) may be one: set model\.reward\.head={head}$"
    with pytest.raises(UserError, match=said):
        finished(folder)
    model: Any = finished(folder, head=head)
    assert model.num_labels == labels
    assert torch.equal(model.score.weight, expected.score.weight)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"model\.reward\.head = 'reward_head': no tensor of "):
        finished(folder, head="reward_head")


def test_case_2_a_head_with_a_bias(tmp_path: Path) -> None:
    folder = reward_folder(tmp_path / "rm")
    change_weights(folder, lambda w: w | {"score.bias": torch.ones(1)})
    with pytest.raises(UserError, match=r"1 unexpected \(score\.bias\)"):
        finished(folder)
