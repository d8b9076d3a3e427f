"""Pretrained models that are adapters: merged into the base they name, in a folder or on the hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from builders import KINDS, make_prompts, tiny_actors, tiny_causal, train_tokenizer
from quantised import NAMES, ON_CPU
from tokencredit.errors import UserError
from tokencredit.models.adapters.adapter import find_adapter
from tokencredit.models.adapters.lora import Lora, adapted
from tokencredit.models.loading.model import Dtype, check_folder, load_tokenizer
from tokencredit.models.loading.source import folder_identity
from tokencredit.models.loading.weights import load_causal, load_classifier
from tokencredit.models.scorer import Scorer

IDS = torch.randint(2, 300, (3, 9), generator=torch.Generator().manual_seed(0))
HEAD = "base_model.model.score.weight"
every_architecture = pytest.mark.parametrize("architecture", NAMES)


def base_at(folder: Path, architecture: str, seed: int = 0) -> Path:
    """A causal language model with its tokenizer, as it is published."""
    tiny_causal(architecture, seed).save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


def reward_adapter(folder: Path, base: Path, labels: int = 1) -> PreTrainedModel:
    """A reward model as peft saves it: an adapter, a score head, and the name of the base."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(5)
    classifier = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    model = get_peft_model(classifier, LoraConfig(r=4, lora_alpha=8, task_type="SEQ_CLS"))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("lora_B" in name or "score" in name):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    files = {path.name for path in folder.iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    return model.eval()


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@every_architecture
@pytest.mark.parametrize("labels", [1, 2])
@torch.no_grad()
def test_an_adapter_with_a_head_is_a_classifier(
    architecture: str, labels: int, tmp_path: Path
) -> None:
    base = base_at(tmp_path / "base", architecture)
    expected = reward_adapter(tmp_path / "reward", base, labels)
    check_folder(tmp_path / "reward")
    model: Any = load_classifier(tmp_path / "reward", Dtype.float32, context=64).eval()
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert type(model) is KINDS[architecture][1] and model.config.num_labels == labels
    model.config.pad_token_id = expected.config.pad_token_id = 1
    logits = model(input_ids=IDS).logits
    torch.testing.assert_close(logits, expected(input_ids=IDS).logits, atol=1e-5, rtol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-2
    assert load_tokenizer(tmp_path / "reward").get_vocab() == train_tokenizer().get_vocab()
    bare = tiny_causal(architecture)
    assert not torch.equal(model.base_model(IDS)[0], bare.eval().base_model(IDS)[0])


@torch.no_grad()
def test_it_scores_and_pays_attention(tmp_path: Path) -> None:
    """The paper's reward model for summaries: GPT-J with one output."""
    base = base_at(tmp_path / "base", "gptj")
    expected = reward_adapter(tmp_path / "reward", base)
    rollout = tiny_actors("gptj").roll_out(make_prompts([3, 5, 2]), ("t", 0))
    scorer = Scorer(load_classifier(tmp_path / "reward", Dtype.float32), 1)
    scores, evidence = scorer.score_and_attention(rollout, -1)
    for row in range(3):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        ids = torch.cat([prompt, rollout.response_ids[row][rollout.response_mask[row]]])[None]
        assert float(expected(input_ids=ids).logits) == pytest.approx(float(scores[row]), abs=1e-4)
    assert (evidence.sum(dim=1) > 0).all()


@torch.no_grad()
def test_an_adapter_of_a_policy_is_merged_too(tmp_path: Path) -> None:
    base = base_at(tmp_path / "base", "llama")
    model = adapted(load_causal(base, Dtype.float32), Lora(enabled=True, r=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "policy")
    found = load_causal(tmp_path / "policy", Dtype.float32)
    torch.testing.assert_close(found(IDS).logits, model(IDS).logits, atol=1e-4, rtol=1e-4)
    # A classifier may start from it, with a head of its own; a finished one may not.
    assert load_classifier(tmp_path / "policy", Dtype.float32, labels=2).config.num_labels == 2
    with pytest.raises(UserError, match=r"brings no score head \(score\.weight\), so it is no cl"):
        load_classifier(tmp_path / "policy", Dtype.float32)


def test_what_it_is_includes_its_base_and_not_where_that_lies(tmp_path: Path) -> None:
    base = base_at(tmp_path / "base", "gpt2")
    reward = tmp_path / "reward"
    reward_adapter(reward, base)
    before = folder_identity(reward)
    assert before == folder_identity(reward) != folder_identity(base)
    shutil.copytree(base, tmp_path / "moved")
    edit(reward, base_model_name_or_path=str(tmp_path / "moved"))
    assert folder_identity(reward) == before
    base_at(tmp_path / "moved", "gpt2", seed=3)
    other_base = folder_identity(reward)
    edit(reward, base_model_name_or_path=str(base), lora_alpha=9)
    other_settings = folder_identity(reward)
    edit(reward, lora_alpha=8)
    weights = load_file(reward / "adapter_model.safetensors")
    save_file({**weights, HEAD: weights[HEAD] + 1}, reward / "adapter_model.safetensors")
    assert len({before, other_base, other_settings, folder_identity(reward)}) == 4


def test_the_identity_of_a_plain_folder_is_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert folder_identity(tmp_path) == (
        "b5fa22a57bc3e6ee1d66799ec8df736f2133a0926af31be011a15c43e38aff03"
    )


def broken(folder: Path, what: str) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    path = folder / "adapter_model.safetensors"
    match what:
        case "pickled":
            path.rename(folder / "adapter_model.bin")
        case "nameless":
            edit(folder, base_model_name_or_path=None)
        case "gone":
            edit(folder, base_model_name_or_path="/no/such/folder")
        case "lacking":
            save_file({n: w for n, w in weights.items() if "h.1." not in n}, path)
        case "more":
            save_file({**weights, "base_model.model.extra.weight": torch.ones(1)}, path)
        case "wide":
            save_file(
                {n: w[:, :1].clone() if "lora_A" in n else w for n, w in weights.items()}, path
            )


BROKEN = {
    "pickled": r"is an adapter without adapter_model\.safetensors; pickled weights are not loaded",
    "nameless": r"does not name a base \(base_model_name_or_path\)",
    "gone": r"sits on /no/such/folder, and there is no such folder; correct base_model_name_or_path",
    "lacking": r"does not fit its base: \d+ missing \(base_model\.model\.transformer\.h\.1",
    "more": r"does not fit its base: 1 unexpected \(base_model\.model\.extra\.weight\)",
    "wide": r"does not fit its base: \d+ of another shape \(.*lora_A.*: \(4, 1\) in place of \(4, \d+\)",
}


@pytest.mark.parametrize("what", BROKEN)
def test_one_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    base = base_at(tmp_path / "base", "gpt2")
    reward_adapter(tmp_path / "reward", base)
    broken(tmp_path / "reward", what)
    with pytest.raises(UserError, match=BROKEN[what]):
        load_classifier(tmp_path / "reward", Dtype.float32)


def test_what_cannot_be_trained_further_is_refused(tmp_path: Path) -> None:
    base = base_at(tmp_path / "base", "gpt2")
    reward_adapter(tmp_path / "reward", base)
    with pytest.raises(UserError, match=r"has 1 label\(s\), and a classifier with 2 is to be tra"):
        load_classifier(tmp_path / "reward", Dtype.float32, labels=2)
    with pytest.raises(UserError, match=r"on four-bit weights it cannot be trained further; merge"):
        load_classifier(tmp_path / "reward", Dtype.float32, quantized=ON_CPU)
    with pytest.raises(UserError, match=r"unexpected \(base_model\.model\.score"):
        load_causal(tmp_path / "reward", Dtype.float32)


def test_a_model_without_an_adapter_is_none(tmp_path: Path) -> None:
    assert find_adapter(base_at(tmp_path / "base", "gpt2")) is None
    assert find_adapter("some/model") is None


SCRIPT = """
import json, sys
from tokencredit.models.loading.source import hub_identity
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.loading.model import Dtype, ModelSource, Pretrained, load_tokenizer
source = Pretrained(source=ModelSource.hub, name="Holarissun/trl_rm_tldr_gptj")
identity = hub_identity(source)
model = load_classifier(Place(source.name, identity["commit"]), Dtype.float32)
print(json.dumps([identity, model.config.num_labels, model.score.weight.tolist(),
                  len(load_tokenizer(source.name, identity["commit"]))]))
"""


def test_one_of_the_hub_is_found_with_its_base_in_the_cache(tmp_path: Path) -> None:
    """The layout in which huggingface_hub keeps repositories, without a network."""
    base = base_at(tmp_path / "base", "gptj")
    expected = reward_adapter(tmp_path / "reward", base)
    edit(tmp_path / "reward", base_model_name_or_path="EleutherAI/gpt-j-6b")
    cache = tmp_path / "home" / "hub"
    for name, source, commit in (
        ("EleutherAI--gpt-j-6b", base, "a" * 40),
        ("Holarissun--trl_rm_tldr_gptj", tmp_path / "reward", "b" * 40),
    ):
        repository = cache / f"models--{name}"
        shutil.copytree(source, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            "PATH": "/usr/bin",
            "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    identity, labels, head, size = json.loads(done.stdout.splitlines()[-1])
    assert identity == {
        "hub": "Holarissun/trl_rm_tldr_gptj",
        "commit": "b" * 40,
        "base": {"hub": "EleutherAI/gpt-j-6b", "commit": "a" * 40},
    }
    assert labels == 1 and size == len(train_tokenizer())
    own = dict(expected.named_parameters())["base_model.model.score.modules_to_save.default.weight"]
    assert torch.allclose(torch.tensor(head), own)
