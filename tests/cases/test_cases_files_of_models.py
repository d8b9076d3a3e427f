"""Files of a model that are damaged, missing, or of a kind that is not used: said by `plan`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, MambaConfig, MambaForCausalLM

from case_models import WEIGHTS, change_weights, make_causal, make_tokenizer, plain, save
from case_plans import model, planned, refusal
from case_weights import in_shards, reward_folder, spoil_config
from tokencredit.commands.generate import continuations
from tokencredit.errors import UserError
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.weights import load_causal, load_classifier

INDEX: Final = f"{WEIGHTS}.index.json"
Spoil = Callable[[Path], object]


def config(**settings: Any) -> Spoil:
    return lambda folder: spoil_config(folder, **settings)


def text(name: str, content: str) -> Spoil:
    return lambda folder: (folder / name).write_text(content)


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    return lambda folder: change_weights(folder, change)


def index(content: str) -> Spoil:
    return lambda folder: (in_shards(folder) / INDEX).write_text(content)


def without_shard(folder: Path) -> None:
    (in_shards(folder) / "model-2.safetensors").unlink()


def longer(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"more")


def strange_type(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes().replace(b'"F32"', b'"Q42"', 1))


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


SPOILT: Final[dict[str, tuple[Spoil, str]]] = {
    "a shard": (without_shard, r"names model-2\.safetensors, which is missing; fetch"),
    "an index of numbers": (index('{"weight_map": {"a": 3}}'), r"names 3, which is no \.safetensors"),
    "an index of other folders": (
        index('{"weight_map": {"a": "../other/model.safetensors"}}'), "which is no .* beside it",
    ),
    "an index without names": (index('{"weight_map": ["a"]}'), r"weight_map = .* is no dict"),
    "integers": (
        weights(lambda w: {n: (t * 100).to(torch.int8) for n, t in w.items()}),
        r"21 tensors in model\.safetensors are integers \(lm_head\.weight, .*quantised weights",
    ),
    "a longer file": (longer, r"model\.safetensors is damaged, or cut off before its end \(.*fully"),
    "a type of another program": (strange_type, r"is damaged, or cut off .*unknown variant `Q42`"),
    "pickled weights": (pickled, "only pickled weights, which are not loaded; convert them"),
    "a list": (text("config.json", "[]"), r"model\.policy\.path = .*it cannot be loaded: .*; fetch or"),
    "half a file": (text("config.json", '{"model_type": "lla'), r"not a valid JSON file; fetch or save"),
    "text for a number": (config(hidden_size="32"), r"'hidden_size' expected int, got str"),
    "no heads": (config(num_attention_heads=0), r"cannot be loaded: integer modulo by zero; fetch"),
    "three heads": (config(num_attention_heads=3), r"not a multiple of the number of attention heads"),
    "no such activation": (config(hidden_act="mystery"), r"no language model .*KeyError: 'mystery'"),
    "no such kind": (config(model_type="mystery"), "model type `mystery` but Transformers does not"),
    "no such dtype": (config(dtype="mystery"), "no attribute 'mystery'; fetch or save it again"),
    "quantised in a word": (config(quantization_config="gptq"), "model.policy.path = .*cannot be load"),
    "code of its own": (
        config(model_type="mystery", auto_map={"AutoConfig": "configuration_x.X"}),
        "custom code .*; code that a model brings is not run; use one that transformers knows",
    ),
    "ends in half a file": (text("generation_config.json", '{"eos'), "generation_config.json: is dam"),
    "ends by name": (
        text("generation_config.json", '{"eos_token_id": "</s>"}'),
        r"generation_config\.json: eos_token_id = '</s>': must be an id, or a list of ids",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"no tokenizer can be loaded .*tokenizer_config\.json\) must be there and whole",
    ),
    "another tokenizer file": (text("tokenizer.json", '{"version": "1.0"}'), "no tokenizer can be loa"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_case_1_files_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    spoil, said = SPOILT[what]
    spoil(folder := plain(tmp_path / "model"))
    assert re.search(said, found := refusal(tmp_path, *model("policy", folder))), found


def test_case_1_a_damaged_model_in_generate(tmp_path: Path) -> None:
    for what in ("integers", "three heads", "ends by name", "a longer file"):
        spoil, said = SPOILT[what]
        spoil(folder := plain(tmp_path / what))
        with pytest.raises(UserError, match=said):
            list(continuations(folder, ["The film"], 1, 4, 1.0, 0))


def test_case_1_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    file = plain(tmp_path / "model") / WEIGHTS
    assert "is a file; give the folder that holds it" in refusal(tmp_path, *model("policy", file))
    folder = (tmp_path / "model").rename(tmp_path / "model.gguf")
    assert planned(tmp_path, *model("policy", folder))


def test_case_1_a_stage_alone_looks_at_its_model(tmp_path: Path) -> None:
    folder = config(num_hidden_layers=3)(plain(tmp_path / "model"))
    assert isinstance(folder, Path)
    said = refusal(tmp_path, *model("policy", folder), "algorithm=sft")
    assert re.search("9 missing", said)


@pytest.mark.parametrize("reader", [load_causal, load_classifier], ids=["policy", "reward"])
def test_case_1_weights_that_are_no_numbers(reader: Any, tmp_path: Path) -> None:
    folder = (plain if reader is load_causal else reward_folder)(tmp_path / "model")
    change_weights(folder, lambda w: w | {"model.norm.weight": torch.full((32,), torch.nan)})
    with pytest.raises(UserError, match=r"the tensor model\.norm\.weight is not finite; fetch"):
        reader(folder, Dtype.float32)


def test_case_18_a_model_that_reads_both_ways(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 64,
    }  # fmt: skip
    encoder = save(tmp_path / "bert", BertForMaskedLM(BertConfig(**sizes)), make_tokenizer())
    said = "BertModel reads texts in both directions, so it cannot write them"
    beside = model("reward", plain(tmp_path / "plain"))
    assert said in refusal(tmp_path, *model("policy", encoder), *beside)
    with pytest.raises(UserError, match=said):
        list(continuations(encoder, ["The film"], 1, 4, 1.0, 0))
    decoder = BertLMHeadModel(BertConfig(**sizes, is_decoder=True))
    assert load_causal(save(tmp_path / "decoder", decoder, make_tokenizer()), Dtype.float32)


def test_case_18_a_model_that_keeps_a_state(tmp_path: Path) -> None:
    sizes = MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, state_size=4)
    folder = save(tmp_path / "mamba", MambaForCausalLM(sizes), make_tokenizer())
    said = "MambaModel keeps a state in place of keys and values"
    beside = model("reward", plain(tmp_path / "plain"))
    assert said in refusal(tmp_path, *model("policy", folder), *beside)
    with pytest.raises(UserError, match=said):
        list(continuations(folder, ["The film"], 1, 4, 1.0, 0))


def adapter(place: Path, base: Path, **settings: Any) -> Path:
    """An adapter on the model in `base`; `settings` replace those of its configuration."""
    made = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(make_causal(make_tokenizer()), made).save_pretrained(place)
    path = place / "adapter_config.json"
    given = {"base_model_name_or_path": str(base), **settings}
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    return place


ADAPTERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a base of no name": ({"base_model_name_or_path": 3}, "does not name a base"),
    "a base that is gone": ({"base_model_name_or_path": "/nowhere/x"}, "there is no such folder"),
    "modules": ({"target_modules": ["mystery"]}, r"does not fit its base .*\{'mystery'\} not found"),
    "a rank": ({"r": 4}, "does not fit its base: 4 of another shape"),
    "an unknown kind": ({"peft_type": "MYSTERY"}, "is of kind 'MYSTERY' .*cannot be merged"),
    "a prompt": ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "kind 'PROMPT_TUNING'"),
}  # fmt: skip


@pytest.mark.parametrize("what", ADAPTERS)
def test_case_1_adapters_that_cannot_be_merged(what: str, tmp_path: Path) -> None:
    settings, said = ADAPTERS[what]
    folder = adapter(tmp_path / "adapter", plain(tmp_path / "plain"), **settings)
    assert re.search(said, found := refusal(tmp_path, *model("policy", folder))), found


def test_case_1_adapters_that_sit_on_one_another(tmp_path: Path) -> None:
    for name, base in (("one", "two"), ("two", "one")):
        adapter(tmp_path / name, tmp_path / base)
    said = refusal(tmp_path, *model("policy", tmp_path / "one"))
    assert re.search("the adapter .* sits on itself; correct base_model_name_or_path", said)


def test_case_1_all_of_a_merged_adapter_is_trained(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter", plain(tmp_path / "plain"))
    for loaded in (
        load_causal(folder, Dtype.float32),
        load_classifier(folder, Dtype.float32, labels=1),
    ):
        assert all(parameter.requires_grad for parameter in loaded.parameters())


FINISHED: Final = "reward_model.train=false"


@pytest.mark.parametrize("source", [[], ["model=scratch"]], ids=["shipped", "scratch"])
def test_case_2_our_own_models_are_no_finished_reward_models(
    source: list[str], tmp_path: Path
) -> None:
    assert "it brings no score head, so it is no" in refusal(tmp_path, *source, FINISHED)


def test_case_18_sampled_pairs_are_scored_by_ids(tmp_path: Path) -> None:
    other = make_tokenizer(eos="<|im_end|>")
    foreign = save(tmp_path / "foreign", make_causal(other), other)
    sampled = ["reward_scheme=rto", "judge=implicit", "dpo.pairs=sampled"]
    given = [*model("policy", plain(tmp_path / "plain")), *model("reward", foreign), *sampled]
    assert "vocabulary differs from the policy's" in refusal(tmp_path, *given)
    said = refusal(tmp_path, *given, "model.reward_reads=text")
    assert "pairs that the policy samples" in said
