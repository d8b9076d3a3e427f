"""What can be seen of a configuration: each function runs one part of the program on tiny models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import (
    EOS_ID,
    PAD_ID,
    make_judgement,
    make_prompts,
    make_rollout,
    speaking,
    tiny_actors,
    tiny_causal,
    tiny_classifier,
    train_tokenizer,
)
from policies import stir
from tokencredit.config import Config
from tokencredit.data.prompts import PromptStream
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.panel import open_panel
from tokencredit.models.log_ratio import LogRatio, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.logprob import chunks
from tokencredit.models.scorer import Scorer
from tokencredit.ops import keep, masked_sum
from tokencredit.rl.compute import Compute
from tokencredit.rl.engine import Engine
from tokencredit.rl.evaluate import Rater
from tokencredit.rl.export import export_policy
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.stages.mirrored import labelled
from tokencredit.tracking.wandb_mirror import WandbMirror

Observer = Callable[[Config, Path], Any]
"""A configuration, and a folder that `furnish` has filled; something that can be compared."""


def furnish(folder: Path) -> Path:
    """Put a policy, a reward model, 200 reviews of 60 to 400 characters, and 200 pairs into `folder`."""
    for name, model in (("model", tiny_causal()), ("reward", tiny_classifier())):
        model.config.max_position_embeddings = 1024
        model.save_pretrained(folder / name)
        train_tokenizer().save_pretrained(folder / name)
    tones = ("awful", "boring", "dull"), ("wonderful", "moving", "bright")
    lines = [
        f'{{"text": "review {n}: the plot is {tones[n % 2][n // 2 % 3]}'
        f'{", and so are the actors" * (1 + n % 14)}", "label": {n % 2}}}'
        for n in range(200)
    ]
    (folder / "reviews.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spelt = "\n".join(lines).replace("review ", "<|pad|> review ")
    (folder / "spelt.jsonl").write_text(spelt, encoding="utf-8")
    pairs = [
        f'{{"prompt": "{"so " * (n % 5)}how was film {n}?", "chosen": " {tones[1][n % 3]}, I say", '
        f'"rejected": " {tones[0][n // 3 % 3]}", "label": {n % 2}}}'
        for n in range(200)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(pairs), encoding="utf-8")
    (folder / "judge.py").write_text(
        "def length(prompts, responses): return [float(len(r)) for r in responses]\n"
        "def nothing(prompts, responses): return [0.0] * len(responses)\n"
    )
    return folder


def plain(value: Any) -> Any:
    """Tensors as lists, batches and other dataclasses as dictionaries."""
    if isinstance(value, Tensor):
        return value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def sums(tensors: dict[str, Tensor]) -> dict[str, list[float]]:
    """Two numbers of each tensor, in which any change shows."""
    found = {name: tensor.detach().double() for name, tensor in tensors.items()}
    return {name: [float(x.sum()), float(x.square().sum())] for name, x in found.items()}


def prompts_of(config: Config, split: str) -> PromptStream:
    context, ids = Context(config), TokenIds(train_tokenizer(), config.dataset.special_tokens)
    spec, longest = config.dataset.prompt, config.model.context
    return PromptStream(context.corpus.parts[split], ids, spec, config.rollout, longest)


def prompted(config: Config, place: Path) -> Any:
    """The prompts of a first step, and how many records may become one."""
    stream = prompts_of(config, "rl")
    return [plain(stream.batch(config.seed, 0, 8)), len(stream.records)]


def rolled(config: Config, place: Path) -> Any:
    """A rollout, and how many passes scored it."""
    actors = tiny_actors(sampling=config.rollout)
    passes: list[int] = []
    actors.policy.value_head.register_forward_hook(lambda *_: passes.append(1))
    batch = prompts_of(config, "rl").batch(0, 0, 18)
    return [plain(actors.roll_out(batch, ("seen",))), len(passes)]


def crowded(config: Config, place: Path) -> str:
    """Whether the kept ids of 160 responses have room."""
    actors = tiny_actors(sampling=config.rollout)
    try:
        actors.respond(actors.policy.model, make_prompts([2] * 160, max_new=15), ("seen",))
    except UserError as refused:
        return str(refused)
    return "enough"


def built(config: Config, place: Path) -> Any:
    """The loaded models: parameters by group, and what policy, values, and reference say."""
    actors = load_actors(config, place / "model", place / "reward")
    policy = actors.policy
    with torch.no_grad():
        stir(policy)
        rollout = actors.score(seen_rollout())
    groups = policy.parameter_groups().items()
    return {
        "groups": {name: [[*p.shape, str(p.dtype)] for p in group] for name, group in groups},
        "checkpointing": any(getattr(m, "gradient_checkpointing", False) for m in policy.modules()),
        "computation": plain(policy.computation),
        "says": plain([rollout.logp, rollout.ref_logp, rollout.values]),
    }


def chunked(config: Config, place: Path) -> list[int]:
    """In how many pieces the logits of 1,200 tokens are computed."""
    policy, pieces = load_actors(config, place / "model").policy, []

    def counted(*given: Any) -> list[slice]:
        found = list(chunks(*given))
        pieces.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("tokencredit.models.passes.logprob.chunks", counted)
        policy(seen_rollout([12] * 100))
    return pieces


def seen_rollout(lengths: Sequence[int] = (4, 1, 9, 3, 6)) -> Rollout:
    """Responses that are the same for every configuration."""
    rollout = make_rollout(lengths)
    empty = torch.zeros_like(rollout.logp)
    return replace(rollout, logp=empty, ref_logp=empty, values=empty)


def exported(config: Config, place: Path) -> list[str]:
    """The files of an exported policy."""
    folder = place / "exported"
    folder.mkdir(exist_ok=True)
    actors = load_actors(config, place / "model", place / "reward")
    export_policy(actors, config.model.lora, folder)
    return sorted(path.name for path in (folder / "policy").iterdir())


def paid(config: Config, place: Path) -> Any:
    """Token rewards of made-up responses."""
    rollout = make_rollout([4, 1, 9, 3])
    return plain(config.reward_scheme.token_rewards(rollout, make_judgement(rollout)))


def judged(config: Config, place: Path) -> Any:
    """What judge and scorer say of made-up responses, and how many passes that took."""
    rollout = make_rollout([4, 1, 9, 3])
    passes: list[int] = []

    def opened(folder: Path, *_: Any) -> Scorer:
        member = int(folder.name.rpartition("_")[2]) if folder.name[-1].isdigit() else 0
        scorer = Scorer(tiny_classifier(seed=1 + member), PAD_ID, config.reward_model.score_at)
        scorer.backbone.register_forward_hook(lambda *_: passes.append(1))
        return scorer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokencredit.judges.retokenised.open_reader", opened)
        patch.setattr("tokencredit.models.log_ratio.open_log_ratio", lambda *_: two_models())
        handed = replace(given_of(Context(config)), folder=Path)
        panel = open_panel(config.judge, config.scorer, handed, speaking(train_tokenizer()))
        return [plain(panel(rollout)), config.judge.gives().value, len(passes)]


def two_models() -> LogRatio:
    """A DPO model and its reference."""
    dpo, reference = (as_it_is(tiny_causal(seed=seed)) for seed in (5, 6))
    return LogRatio(dpo, reference, Computation(), EOS_ID)


@dataclass
class Log:
    """Stands for tracker and checkpoints: remembers what it is told."""

    rows: list[dict[str, float]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    said: list[tuple[int, int]] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)

    def log(self, step: int, metrics: dict[str, float], timings: dict[str, float]) -> None:
        self.rows.append({"step": step, **metrics})
        self.timings.append(timings)

    def samples(self, step: int, rows: list[Any]) -> None:
        self.said.append((step, len(rows)))

    def state(self) -> dict[str, int]:
        return {}

    def save(self, engine: Engine, progress: Any) -> None:
        self.saves.append(progress.next_step)


@dataclass
class EvenJudge:
    """Even ids are good, odd ones bad; counts its calls."""

    calls: int = 0

    def __call__(self, rollout: Rollout) -> Judgement:
        self.calls += 1
        evidence = keep(1.0 - 2.0 * (rollout.response_ids % 2), rollout.response_mask)
        return Judgement(scores=masked_sum(evidence, rollout.response_mask), evidence=evidence + 2)


def learn(config: Config, place: Path, oracle: Rater | None = None) -> SimpleNamespace:
    """The RL loop from its first step to its last: log, judge, learner, and forward passes."""
    actors = load_actors(config, place / "model", place / "reward")
    compute = Compute.of(config, actors, dict.fromkeys(("reward_model", "dpo", "sft"), 1000))
    prompts, held_out = prompts_of(config, "rl"), prompts_of(config, "eval")
    around = RunInputs(prompts, held_out, place, compute, oracle)
    log, judge, world = Log(), EvenJudge(), World(config.hardware)
    learner = Learner(config, actors, judge, around, world)
    forwards: list[int] = []
    learner.engine.module().register_forward_hook(lambda *_: forwards.append(1))
    learner.train(log, log)  # type: ignore[arg-type]
    return SimpleNamespace(log=log, judge=judge, learner=learner, forwards=len(forwards))


def learned(config: Config, place: Path) -> Any:
    """Metrics, samples, and checkpoints of a short run, its passes, and the weights at its end."""
    ran = learn(config, place)
    trained = dict(ran.learner.engine.module().named_parameters())
    state = copy.deepcopy(ran.learner.state)
    counts = [ran.judge.calls, ran.forwards]
    return [ran.log.rows, ran.log.said, ran.log.saves, counts, state, sums(trained)]


class Anything:
    """Does nothing, whatever is asked."""

    def __getattr__(self, _: str) -> Any:
        return Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Anything()

    def __rsub__(self, _: Any) -> Any:
        return Anything()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def mirrored(config: Config, place: Path) -> Any:
    """What W&B is told when a run starts."""
    import wandb

    told: list[Any] = []

    def init(**given: Any) -> Any:
        settings = given.pop("settings")
        told.append([given, settings.init_timeout, settings.finish_timeout])
        return Anything()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", init)
        patch.setattr("tokencredit.tracking.wandb_mirror._quiet_session", lambda: None)
        WandbMirror.open(labelled(config, "rl"), place, "key", "name", {})
    return told
