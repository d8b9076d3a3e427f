"""What headers and configuration show of models is refused by `plan`, in the words of `train`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from case_models import change_weights, make_causal, make_classifier, make_tokenizer, plain, save
from case_plans import model, planned, refusal, small
from case_weights import cut, lacking, prefixed, reward_folder, spoil_config
from tokencredit.errors import UserError
from tokencredit.pipeline import pipeline
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context

FINISHED: Final = "reward_model.train=false"
DAE: Final = ["reward_scheme=dae", "judge=advantage", "dpo.pairs=sampled"]
RTO: Final = ["reward_scheme=rto", "judge=implicit", "dpo.train=false"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, each with one peculiarity; where nothing else is said, only headers are there."""
    place, tokenizer = tmp_path_factory.mktemp("shelf"), make_tokenizer()
    plain(place / "plain")
    change_weights(plain(place / "prefixed"), prefixed)
    change_weights(plain(place / "lacking"), lacking)
    for labels in (1, 10):
        reward_folder(place / f"rm{labels}", labels)
    change_weights(
        reward_folder(place / "value_head"),
        lambda w: {n.replace("score.", "value_head."): t for n, t in w.items()},
    )
    other = make_tokenizer(eos="<|im_end|>")
    save(place / "foreign", make_causal(other), other)
    save(place / "foreign_rm", make_classifier(other), other)
    save(place / "wide", make_causal(tokenizer, hidden_size=48), tokenizer)
    plain(place / "endless")
    edit = place / "endless" / "tokenizer_config.json"
    edit.write_text(json.dumps(json.loads(edit.read_text()) | {"eos_token": None}))
    (place / "endless" / "special_tokens_map.json").unlink(missing_ok=True)
    torch.manual_seed(1)
    gemma = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    save(place / "gemma2", Gemma2ForCausalLM(gemma), tokenizer)
    old = OpenAIGPTConfig(
        vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2
    )
    save(place / "gpt1", OpenAIGPTLMHeadModel(old), tokenizer)
    for folder in place.iterdir():
        if folder.name not in WHOLE:
            cut(folder)
    return place


WHOLE: Final = ("plain", "rm1", "foreign", "foreign_rm", "wide", "endless")
"""Those that are refused for another reason than their weights, or not at all."""
Overrides = list[str]


def policy(name: str, **more: str) -> Overrides:
    return [f"policy:{name}", *[f"model.policy.{key}={value}" for key, value in more.items()]]


def reward(name: str, **more: str) -> Overrides:
    return ["policy:plain", f"reward:{name}", *[f"model.reward.{k}={v}" for k, v in more.items()]]


REFUSED: Final[dict[str, tuple[Overrides, str]]] = {
    "case 1, a prefix": (
        policy("prefixed"),
        r"model\.policy\.path = .*21 missing .*set model\.policy\.strip_prefix=pretrained_model\.$",
    ),
    "case 1, a tensor": (policy("lacking"), r"model\.policy\.path = .*1 missing \(model\.layers\.1"),
    "case 1, a start of rewards": (reward("lacking"), r"model\.reward\.path = .*1 missing \(model\."),
    "case 1, a prefix of rewards": (reward("prefixed"), r"set model\.reward\.strip_prefix=pretrain"),
    "case 1, a DPO model": (["policy:plain", "dpo:lacking", *RTO], r"model\.dpo\.path = .*1 missing"),
    "case 2, no head": ([*reward("plain"), FINISHED], r"model\.reward\.path = .*no score head, so"),
    "case 2, the policy": (["policy:plain", FINISHED], r"model\.policy\.path = .*no score head, so"),
    "case 2, another name": ([*reward("value_head"), FINISHED], "set model.reward.head=value_head$"),
    "case 2, a wrong name": ([*reward("value_head", head="v"), FINISHED], r"model\.reward\.head = 'v"),
    "case 18, logits": (policy("gemma2"), "final_logit_softcapping of Gemma2Model"),
    "case 18, outputs": ([*reward("rm10"), FINISHED], "10 outputs"),
    "case 18, attention": (reward("gemma2"), "attn_logit_softcapping cannot be read row by row"),
    "a layer": ([*policy("plain"), "judge.layer=2"], r"judge\.layer = 2: the model has 2 attention la"),
    "a head": ([*policy("plain"), "judge.heads=[2]"], r"judge\.heads = \[2\]: the model has 2 "),
    "a layer of the policy": (
        [*policy("plain"), "judge=policy_attention", "reward_scheme=abc_d", "judge.layer=-3"],
        r"judge\.layer = -3: the model has 2 attention layers",
    ),
    "a layer of members": ([*policy("plain"), "judge=ensemble", "judge.attention.layer=9"], "= 9: the"),
    "a layer of the shipped model": (["judge.layer=4"], r"judge\.layer = 4: the model has 4 attent"),
    "a layer from nothing": (["model=scratch", "judge.layer=4"], "= 4: the model has 4 attention"),
    "a rank": ([*policy("plain"), *DAE, "judge.rank=33"], r"judge\.rank = 33: is above the width .*32;"),
    "a rank of the shipped model": ([*DAE, "judge.rank=193"], r"judge\.rank = 193: is above .* 192;"),
    "no adapters": (
        [*policy("gpt1"), "model.lora.enabled=true", "algorithm=sft"],
        r"model\.lora\.layers = 'default': adapters find no layer of OpenAIGPTLMHeadModel",
    ),
    "context": ([*policy("plain"), "model.context=300"], r"model\.context = 300: the model reads at"),
    "context of SFT": ([*policy("plain"), "sft.max_length=300"], r"sft\.max_length = 300: the model"),
    "context of rewards": ([*policy("plain"), "reward_model.max_length=300"], r"reward_model\.max_len"),
    "context, shipped": (["model.context=2000"], r"model\.context = 2000: the model reads at most 1024"),
    "vocabulary": (reward("foreign"), r"vocabulary differs .*model\.reward_reads=text"),
    "vocabulary of a finished one": ([*reward("foreign_rm"), FINISHED], "vocabulary differs"),
    "vocabulary of values": (
        [*reward("foreign"), "model.reward_reads=text", "model.value.kind=separate",
         "model.value.init=reward_model"],
        r"model\.value\.init = 'reward_model': its vocabulary differs",
    ),
    "vocabulary of DPO": (["policy:plain", "dpo:foreign", *RTO], "the DPO model's vocabulary differs"),
    "another architecture": (["policy:plain", "dpo:wide", *RTO], "is of another architecture than its"),
    "no end token": (policy("endless"), "has no end-of-sequence token"),
    "no end token, rewards": (reward("endless"), "has no end-of-sequence token"),
    "path without source": (["model.policy.path=x"], r"model\.policy\.path = 'x': is not read while"),
    "rewards' path": (["model.reward.path=x"], r"set model\.reward\.source=path, or leave it out"),
    "DPO's path": (["model.dpo.path=x"], r"set model\.dpo\.source=path, or leave it out"),
    "revision": (["model.policy.revision=v1"], r"set model\.policy\.source=hub, or leave it out"),
    "rewards' name": (["model.reward.name=gpt2"], r"set model\.reward\.source=hub, or leave it out"),
    "prefix of the shipped": (["model.policy.strip_prefix=a."], r"source=path or hub, or leave it out"),
    "head without a source": (["model.reward.head=v"], r"source=path or hub, or leave it out"),
    "prefix of a GGUF file": (policy("x.gguf", strip_prefix="a."), r"and a GGUF file is given; leave"),
    "no folder": (policy("nowhere"), r"model\.policy\.path = .*there is no such folder"),
    "no folder, rewards": (reward("nowhere"), r"model\.reward\.path = .*there is no such folder"),
    "no folder, DPO": (["policy:plain", "dpo:nowhere", *RTO], r"model\.dpo\.path = .*there is no such"),
}  # fmt: skip


def placed(overrides: Overrides, shelf: Path) -> Overrides:
    """`overrides` with folders for names of models."""
    found: Overrides = []
    for each in overrides:
        role, _, name = each.partition(":")
        found += model(role, shelf / name) if role in {"policy", "reward", "dpo"} else [each]
    return found


@pytest.mark.parametrize("what", REFUSED)
def test_case_18_what_can_be_seen_is_refused_before_any_work(
    what: str, shelf: Path, tmp_path: Path
) -> None:
    overrides, said = REFUSED[what]
    assert re.search(said, found := refusal(tmp_path, *placed(overrides, shelf))), found


READ: Final[dict[str, Overrides]] = {
    "a policy": ["policy:plain"],
    "a finished reward model": ["policy:plain", "reward:rm1", FINISHED],
    "a start of another size": ["policy:plain", "reward:rm1"],
    "another vocabulary, as text": ["policy:plain", "reward:foreign", "model.reward_reads=text"],
    "a DPO model": ["policy:plain", "dpo:plain", *RTO],
    "another layer": ["policy:plain", "judge.layer=-2", "judge.heads=[1]"],
}


@pytest.mark.parametrize("what", READ)
def test_what_is_whole_is_planned(what: str, shelf: Path, tmp_path: Path) -> None:
    names = [plan.name for plan in planned(tmp_path, *placed(READ[what], shelf))]
    assert names[0] == "sft" and names[-1] == "rl"


def test_weights_that_are_cut_off_are_found_last(tmp_path: Path) -> None:
    folder = plain(tmp_path / "model")
    cut(folder)
    said = refusal(tmp_path, *model("policy", folder))
    assert "model.safetensors is damaged, or cut off before its end (" in said


def test_a_stage_that_is_made_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path, *model("policy", plain(tmp_path / "model")), "algorithm=sft")
    pipeline.plan(config)
    stage = pipeline.all_stages(Context(config))[0]
    folder = Context(config).store.folder(stage)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"sha256": {}}')
    monkeypatch.setattr("tokencredit.preflight.sight.examine", lambda *_: pytest.fail("looked"))
    assert pipeline.plan(config)[0].hit


def test_renamings_are_part_of_what_a_model_is(tmp_path: Path) -> None:
    """And a folder without them keeps its identity."""
    folder = change_weights(plain(tmp_path / "model"), prefixed)
    given = [{}, {"strip_prefix": "pretrained_model."}, {"strip_prefix": "pretrained"}]
    configs = [small(tmp_path, *model("policy", folder, **more)) for more in given]
    found = [base_of(Context(config), config.model.policy).identity() for config in configs]
    assert found[0] != found[1] != found[2] != found[0]
    assert isinstance(found[0], dict) and set(found[0]) == {"folder"}
    spoil_config(folder, quantization_config={"quant_method": "awq"})
    with pytest.raises(UserError, match=r"model\.policy\.path = .*quantised \(awq\)"):
        pipeline.plan(configs[1])
