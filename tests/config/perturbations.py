"""Every key of a run: another value, and where its effect can be seen; or which test has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from algorithms.test_algorithms_keys import OTHER as OF_ALGORITHMS
from observers import (
    Observer,
    built,
    chunked,
    crowded,
    exported,
    judged,
    learned,
    mirrored,
    paid,
    prompted,
    rolled,
)
from stage_observers import (
    fine_tuned,
    finished,
    kept,
    launched,
    limited,
    loaded,
    met,
    places,
    preferred,
    rated,
    read,
    results,
    resumed,
    reward_trained,
    sampled,
    scratched,
    split_sizes,
    stages,
    stored,
    where,
)

from .held_elsewhere import HELD_ELSEWHERE
from .perturbed_credit import CREDIT, PAIRS
from .perturbed_reviser import OF_REVISER
from .tries import HERE, Try

SMALL: dict[str, Any] = {
    "dataset.source": "path",
    "dataset.path": f"{HERE}/reviews.jsonl",
    "dataset.prompt.min_characters": 100,
    "model.policy.source": "path",
    "model.policy.path": f"{HERE}/model",
    "model.architecture.hidden_size": 24,
    "model.architecture.layers": 1,
    "model.architecture.heads": 2,
    "model.architecture.mlp_size": 16,
    "reward_model.max_length": 64,
    "oracle.buckets": 2048,
    "oracle.epochs": 2,
    "oracle.batch_size": 8,
}
"""What every observation starts from."""

LOOP = {
    "algorithm.batch_size": 4,
    "algorithm.epochs": 1,
    "algorithm.minibatches": 2,
    "algorithm.optimizer.learning_rate": 1e-2,
    "rollout.min_new_tokens": 2,
    "rollout.max_new_tokens": 6,
    "evaluation.every": 2,
    "evaluation.prompts": 3,
    "steps": 2,
}
LORA = {"model.lora.enabled": True, "model.lora.r": 4, "model.lora.alpha": 8}
NF4 = LORA | {"model.quantization": "nf4"}
SEPARATE = {"model.value.kind": "separate"}
FROM_REWARD = SEPARATE | {"model.value.init": "reward_model"}
HUB = {"dataset.source": "hub", "dataset.hub": "some/reviews", "dataset.path": None}
POLICY_OF_HUB = {
    "model.policy.source": "hub",
    "model.policy.name": "some/model",
    "model.policy.path": None,
}
DPO_OF_HUB = {"model.dpo.source": "hub", "model.dpo.name": "some/model"}
SAMPLED = {"dpo.pairs": "sampled", "dpo.prompts": 5, "dpo.held_out": 3}
REWARD_OF_HUB = {"model.reward.source": "hub", "model.reward.name": "some/model"}
STRANGER = {
    "model.reward.source": "path",
    "model.reward.path": f"{HERE}/wordpiece_llama",
    "reward_model.train": False,
    "reward_model.held_out": 8,
}
OFFLINE = {"tracking.mode": "offline"}
SIGNED = ("judge=attribution", "reward_scheme=attribution")
BESIDE: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "algorithm": (LOOP, ()),
    "advantage_scheme": (LOOP, SIGNED),
    "tracking": (OFFLINE, ()),
}
"""Settings and options of the default that an option of the group is compared with."""
KEPT = {"experiments_dir": f"{HERE}/kept", "run.experiment": "mine/own"}


def loop(value: Any, **given: Any) -> Try:
    return Try(learned, value, LOOP | {key.replace("__", "."): v for key, v in given.items()})


def split(name: str) -> Try:
    other = "sft" if name == "eval" else "eval"
    also = {f"dataset.splits.{other}": 0.3 if name == "eval" else 0.15}
    return Try(lambda config, place: split_sizes(config, place)[name], SPLITS[name], also=also)


SPLITS = {"sft": 0.3, "reward": 0.2, "rl": 0.05, "oracle": 0.0, "eval": 0.15}
EPOCHS = {name: {f"{name}.epochs": 8.0} for name in ("sft", "reward_model", "dpo")}
TRAINED: dict[str, Any] = {
    "learning_rate": 0.1,
    "batch_size": 8,
    "micro_batch_size": 8,
    "epochs": 9.0,
    "max_tokens": 2000,
    "max_length": 48,
    "weight_decay": 0.1,
    "warmup_fraction": 0.5,
    "schedule": "constant",
    "max_grad_norm": 0.5,
    "max_steps": 1,
    "bf16": True,
    "train": False,
}
"""For all stages that borrow a trainer."""

TRIES: dict[str, Try] = {
    "model.name": Try(results, "mine"),
    "model.policy.source": Try(places, "package", also={"model.policy.path": None}),
    "model.policy.name": Try(places, "other/model", POLICY_OF_HUB),
    "model.policy.path": Try(places, f"{HERE}/reward"),
    "model.policy.revision": Try(places, "v2", POLICY_OF_HUB),
    "model.policy.strip_prefix": Try(places, "theirs."),
    "model.reward.strip_prefix": Try(places, "theirs.", REWARD_OF_HUB),
    "model.reward.head": Try(places, "value_head", REWARD_OF_HUB),
    "model.dpo.strip_prefix": Try(places, "theirs.", DPO_OF_HUB),
    "model.reward.source": Try(places, "package"),
    "model.reward.name": Try(places, "other/model", REWARD_OF_HUB),
    "model.reward.path": Try(
        places,
        f"{HERE}/reward",
        {"model.reward.source": "path", "model.reward.path": f"{HERE}/model"},
    ),
    "model.reward.revision": Try(places, "v2", REWARD_OF_HUB),
    "model.reward_reads": Try(met, "text", STRANGER),
    "model.dpo.source": Try(places, "package"),
    "model.dpo.name": Try(places, "other/model", DPO_OF_HUB),
    "model.dpo.path": Try(
        places,
        f"{HERE}/reward",
        {"model.dpo.source": "path", "model.dpo.path": f"{HERE}/model"},
    ),
    "model.dpo.revision": Try(places, "v2", DPO_OF_HUB),
    "model.architecture.vocab_size": Try(scratched, 300),
    "model.architecture.hidden_size": Try(scratched, 32),
    "model.architecture.layers": Try(scratched, 2),
    "model.architecture.heads": Try(scratched, 1),
    "model.architecture.mlp_size": Try(scratched, 24),
    "model.context": Try(scratched, 64),
    "stage_seed": Try(scratched, 1),
    "model.rates.sft": Try(fine_tuned, 0.1),
    "model.rates.reward": Try(reward_trained, 0.1),
    "model.rates.dpo": Try(preferred, 0.1),
    "model.rates.rl": Try(learned, 0.1, LOOP | {"algorithm.optimizer.learning_rate": None}),
    "model.dtype": Try(built, "bfloat16"),
    "model.autocast": Try(built, "bfloat16"),
    "model.quantization": Try(built, "nf4", LORA),
    "model.nf4.double_quantization": Try(built, False, NF4),
    "model.nf4.compute_dtype": Try(built, "float32", NF4),
    "model.lora.enabled": Try(built, True),
    "model.lora.r": Try(built, 2, LORA),
    "model.lora.alpha": Try(built, 32, LORA),
    "model.lora.rslora": Try(built, True, LORA),
    "model.lora.layers": Try(built, "all", LORA),
    "model.lora.dropout": Try(fine_tuned, 0.1, LORA, ("algorithm=sft",)),
    "model.lora.merge": Try(exported, False, LORA),
    "model.value.kind": Try(built, "separate"),
    "model.value.init": Try(built, "reward_model", SEPARATE),
    "model.value.head": Try(learned, "keep", LOOP | FROM_REWARD),
    "dataset.name": Try(
        read, "rotten_tomatoes", {"dataset.source": "package", "dataset.path": None}
    ),
    "dataset.source": Try(
        read,
        "hub",
        {"dataset.source": "package", "dataset.hub": "stanfordnlp/imdb", "dataset.path": None},
    ),
    "dataset.hub": Try(read, "other/reviews", HUB),
    "dataset.subset": Try(read, "plain", HUB),
    "dataset.hub_split": Try(read, "test", HUB),
    "dataset.revision": Try(read, "v2", HUB),
    "dataset.path": Try(read, "other.jsonl"),
    "dataset.max_bytes": Try(read, 1000),
    "dataset.margin_column": Try(read, "gap", {"dataset.format": "preference"}),
    "dataset.data_dir": Try(read, "folder", HUB),
    "dataset.template": Try(read, "{title}: {post} ", {"dataset.format": "summaries"}),
    "dataset.single_turn": Try(read, True, {"dataset.format": "hh"}),
    "dataset.special_tokens": Try(prompted, "parse", {"dataset.path": f"{HERE}/spelt.jsonl"}),
    "dataset.format": Try(read, "prompt_completion"),
    "dataset.text_column": Try(read, "body"),
    "dataset.label_column": Try(read, "mark"),
    "dataset.positive": Try(read, ["1"]),
    "dataset.negative": Try(read, ["0"]),
    "dataset.plain_text": Try(read, False),
    "dataset.strict": Try(read, True),
    **{f"dataset.splits.{name}": split(name) for name in SPLITS},
    "dataset.prompt.min_tokens": Try(prompted, 7),
    "dataset.prompt.max_tokens": Try(prompted, 30),
    "dataset.prompt.min_characters": Try(prompted, 300),
    "dataset.prompt.max_prompt_tokens": Try(prompted, 18, PAIRS),
    **CREDIT,
    "algorithm.batch_size": loop(8),
    "algorithm.samples_per_prompt": loop(2),
    "algorithm.epochs": loop(2),
    "algorithm.minibatches": loop(4),
    "algorithm.normalise_samples": loop(6, algorithm__normalise="reference"),
    "algorithm.optimizer.eps": loop(1e-2),
    "algorithm.optimizer.beta1": loop(0.5),
    "algorithm.optimizer.beta2": loop(0.9),
    "algorithm.optimizer.weight_decay": loop(0.1),
    "algorithm.optimizer.max_grad_norm": loop(1e-3),
    "algorithm.optimizer.clip_norm": loop("per_group", algorithm__optimizer__max_grad_norm=1e-3),
    "algorithm.value_warmup": loop(2),
    "algorithm.value_optimizer.beta1": loop(0.5),
    "algorithm.value_optimizer.beta2": loop(0.9),
    "algorithm.value_optimizer.weight_decay": loop(0.1),
    "hardware.name": Try(results, "mine"),
    "hardware.device": Try(launched, "cuda"),
    "hardware.threads": Try(launched, 3),
    "hardware.stage_threads": Try(launched, 3, {"hardware.stage_threads": 1}),
    "hardware.processes": Try(launched, 2),
    "hardware.micro_batch": loop(1),
    "hardware.gradient_checkpointing": Try(built, True),
    "hardware.logits_memory_mb": Try(chunked, 1),
    "tracking.mode": Try(mirrored, "disabled", OFFLINE),
    "tracking.project": Try(mirrored, "other", OFFLINE),
    "tracking.entity": Try(mirrored, "someone", OFFLINE),
    "tracking.timeout_seconds": Try(mirrored, 3.0, OFFLINE),
    "tracking.tags": Try(mirrored, ["a"], OFFLINE),
    "tracking.group": Try(mirrored, "mine", OFFLINE),
    "tracking.job_type": Try(mirrored, "probe", OFFLINE),
    "rollout.min_new_tokens": Try(rolled, 12),
    "rollout.max_new_tokens": Try(rolled, 12),
    "rollout.eos_masked_before": Try(rolled, 1),
    "rollout.stop": Try(rolled, ["e", "a", "o"]),
    "rollout.temperature": Try(rolled, 0.7),
    "rollout.top_k": Try(rolled, 5),
    "rollout.top_p": Try(rolled, 0.5),
    "rollout.logprob_mask": Try(rolled, "full"),
    "rollout.score_rows": Try(rolled, 6),
    "rollout.nucleus_memory_mb": Try(crowded, 1, {"rollout.top_p": 0.999}),
    "rollout.chunk": loop(2),
    **{
        f"{stage}.{name}": Try(see, value, EPOCHS[stage])
        for stage, see in (
            ("sft", fine_tuned),
            ("reward_model", reward_trained),
            ("dpo", preferred),
        )
        for name, value in TRAINED.items()
    },
    "sft.packing": Try(fine_tuned, True),
    "reward_model.train": Try(
        reward_trained,
        False,
        {"model.reward.source": "path", "model.reward.path": f"{HERE}/reward"},
    ),
    "reward_model.min_length": Try(reward_trained, 64),
    "reward_model.held_out": Try(reward_trained, 2),
    "reward_model.score_at": Try(judged, "before_end"),
    "reward_model.objective": Try(reward_trained, "labels", PAIRS),
    "reward_model.centre": Try(reward_trained, 0.1, PAIRS),
    "dpo.beta": Try(preferred, 0.3),
    "dpo.loss": Try(preferred, "hinge"),
    "dpo.label_smoothing": Try(preferred, 0.1, {"dpo.loss": "robust"}),
    "dpo.pairs": Try(preferred, "sampled"),
    "dpo.prompts": Try(sampled, 9, SAMPLED),
    "dpo.held_out": Try(preferred, 4),
    "oracle.enabled": Try(stages, False),
    "oracle.buckets": Try(rated, 1024),
    "oracle.epochs": Try(rated, 1),
    "oracle.learning_rate": Try(rated, 0.1),
    "oracle.batch_size": Try(rated, 4),
    "oracle.l2": Try(rated, 0.1),
    "evaluation.prompts": loop(4),
    "evaluation.every": loop(1),
    "evaluation.stream": loop(1),
    "evaluation.perplexity": loop(True),
    "run.save_every": loop(1),
    "run.sample_every": loop(1),
    "run.samples": loop(1),
    "run.resume_inexact": Try(resumed, True),
    "run.function_seconds": Try(limited, 5.0),
    "run.figures": Try(finished, False),
    "run.primary": Try(results, "abc/higher"),
    "run.experiment": Try(where, "mine/own"),
    "run.scale": Try(results, "cpu"),
    "run.scheme": Try(where, "halves"),
    "run.job_type": Try(mirrored, "pilot", OFFLINE),
    "run.group": Try(mirrored, "sweep 2", OFFLINE),
    "steps": loop(3),
    "seed": loop(1),
    "run_dir": Try(where, "elsewhere"),
    "runs_dir": Try(where, "others"),
    "store": Try(stored, "shop"),
    "experiments_dir": Try(kept, None, KEPT),
    "sweep.recompute": Try(kept, True, KEPT),
    "plugins": Try(loaded, [f"{HERE}/plugin.py"]),
}

ELSEWHERE = {**HELD_ELSEWHERE, **OF_REVISER} | {
    f"algorithm.{key}": ("formulas alone read it", "test_field_B19_every_key_changes_something")
    for key in OF_ALGORITHMS
    if f"algorithm.{key}" not in TRIES
}
"""Keys without an effect that can be seen here: why, and the test that has them."""

GROUPS: dict[str, tuple[Observer, tuple[str, ...], Mapping[str, Any]]] = {
    "model": (results, ("model=scratch",), {}),
    "dataset": (results, ("dataset=rotten_tomatoes",), {}),
    "judge": (judged, ("judge=reward_model", "reward_scheme=sparse"), {}),
    "scorer": (judged, ("scorer=function",), {"scorer.function": f"{HERE}/judge.py:length"}),
    "reward_scheme": (paid, ("reward_scheme=uniform",), {}),
    "advantage_scheme": (learned, ("advantage_scheme=own", *SIGNED), LOOP),
    "algorithm": (learned, ("algorithm=reinforce",), LOOP),
    "hardware": (launched, ("hardware=cpu_ddp2",), {}),
    "tracking": (mirrored, ("tracking=disabled",), {}),
}
"""Another option of each group, and what it needs."""
