"""tokencredit as a program of the comparison.

    python serve_tokencredit.py --setting a [--reward sparse|abc]

What runs is `Learner.step`, the step of `tokencredit train`, with the configuration's own judge,
scheme, and algorithm, in the environment that a training run gives its process. Only prompts and
models are put in from outside: random ones of the comparison's sizes, no data set, no store.

The phases are taken from two calls that the step makes: `Actors.respond`, whose time is the
rollout, and `Updater.update`, which begins the optimisation.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import workload
from hydra import compose, initialize_config_dir
from protocol import Iteration, conversation, serve
from torch_side import Watch, facts, tokenizer, use_threads
from workload import PAD, Setting

from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.judges import retokenised
from tokencredit.judges.panel import open_panel
from tokencredit.models import scorer
from tokencredit.models.actors import Actors
from tokencredit.models.loading.weights import load_classifier
from tokencredit.pipeline.process import stage_environment
from tokencredit.pipeline.worker import hush
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World, compute_deterministically
from tokencredit.rollout import Prompts, Rollout
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.user_code.plugins import conf_dir

STARTED = "TOKENCREDIT_BENCHMARK_STARTED"
"""Set once the process has the environment of a training run."""


@dataclass(slots=True)
class Marks:
    """Where the time of the step in progress went."""

    generation: float = 0.0
    training: float = 0.0
    """When the first minibatch began."""
    response_tokens: int = 0


@dataclass(slots=True)
class TimedActors(Actors):
    """Actors that note how long they speak."""

    marks: Marks = field(default_factory=Marks)

    def respond(self, *args: Any, **options: Any) -> Rollout:
        """As `Actors`."""
        started = time.perf_counter()
        said = Actors.respond(self, *args, **options)
        self.marks.generation += time.perf_counter() - started
        self.marks.response_tokens += int(said.lengths.sum())
        return said


@dataclass(slots=True)
class TimedUpdater:
    """An updater that notes when it begins."""

    inner: Any
    marks: Marks

    def update(self, *args: Any) -> dict[str, float]:
        """As `Updater`."""
        self.marks.training = time.perf_counter()
        found: dict[str, float] = self.inner.update(*args)
        return found


class FixedPrompts:
    """A stream that gives the same prompts in every step, each row with its own length."""

    def __init__(self, setting: Setting) -> None:
        """Rows end by their length limit, at the same length as the peers' end by EOS."""
        rows = workload.prompts(setting)
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
        lengths = torch.tensor(setting.response_lengths)
        self.prompts = Prompts(
            rows=torch.arange(len(rows)),
            samples=torch.zeros(len(rows), dtype=torch.long),
            groups=torch.arange(len(rows)),
            ids=ids,
            mask=ids != PAD,
            min_new=lengths,
            max_new=lengths,
        )

    def batch(self, *_: Any, **__: Any) -> Prompts:
        """The prompts, whatever step it is."""
        return self.prompts


def configured(setting: Setting, reward: str) -> Config:
    """The configuration of a run of this size; what is not named is the default."""
    overrides = [
        f"reward_scheme={reward}",
        "algorithm=ppo",
        f"algorithm.batch_size={setting.rows}",
        f"algorithm.epochs={workload.EPOCHS}",
        f"algorithm.minibatches={setting.minibatches}",
        f"algorithm.optimizer.learning_rate={workload.LEARNING_RATE}",
        f"model.context={workload.POSITIONS}",
        f"rollout.min_new_tokens={min(setting.response_lengths)}",
        f"rollout.max_new_tokens={setting.max_new + 1}",
        f"hardware.threads={workload.THREADS}",
        "tracking=disabled",
        f"seed={workload.MODEL_SEED}",
    ]
    configuration.register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return configuration.load(compose("train", overrides))


def write_models(folder: Path) -> None:
    """A policy and a reward model with random weights from a fixed seed, and their tokenizer."""
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    torch.manual_seed(workload.MODEL_SEED)
    config = GPT2Config(**workload.gpt2(), num_labels=2)  # ours scores with two labels
    for name, model in (("sft", GPT2LMHeadModel), ("reward", GPT2ForSequenceClassification)):
        model(config).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)


class Peer:
    """A learner at step 0, and the steps it is asked for."""

    def __init__(self, setting: Setting, reward: str) -> None:
        """Models go through a folder and the project's own loaders, as in a run."""
        config = configured(setting, reward)
        world = World(config.hardware, config.policy_algorithm.optimizer.max_grad_norm)
        compute_deterministically()
        self.marks = Marks()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_models(folder)
            actors = load_actors(config, folder / "sft")
            known = scorer.Scorer(load_classifier(folder / "reward", config.model.dtype), PAD)
        # In place of an artifact of the store.
        vars(retokenised)["open_reader"] = lambda *_: known
        handed = replace(given_of(Context(config)), folder=Path)
        judge = open_panel(config.judge, config.scorer, handed, actors)
        parts = {each.name: getattr(actors, each.name) for each in fields(Actors)}
        stream: Any = FixedPrompts(setting)
        around = RunInputs(stream, stream, Path(tempfile.gettempdir()))
        timed = TimedActors(**parts, marks=self.marks)
        self.learner = Learner(config, timed, judge, around, world)
        timed_updater: Any = TimedUpdater(self.learner.updater, self.marks)
        self.learner.updater = timed_updater
        actors.policy.train()
        self.watch = Watch(actors.policy.model.transformer.ln_f.weight)
        self.step = 0

    def iterate(self) -> Iteration:
        """One step of the learner, without a log."""
        marks = self.marks
        marks.generation, marks.response_tokens = 0.0, 0
        self.watch.start()
        started = time.perf_counter()
        self.learner.step(self.step, self.learner.log(None))
        done = time.perf_counter()
        self.step += 1
        return Iteration(
            whole=done - started,
            rollout=marks.generation,
            scoring=marks.training - started - marks.generation,
            optimisation=done - marks.training,
            response_tokens=marks.response_tokens,
            optimizer_steps=self.watch.steps,
            weight_change=self.watch.change(),
        )


def enter_environment(config: Config) -> None:
    """Start again with the variables that a training run sets for its process (threads, malloc)."""
    if STARTED not in os.environ:
        environment = {**stage_environment(config, "rl"), STARTED: "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)  # noqa: S606


def main() -> None:
    """Build, then answer commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", required=True, choices=sorted(workload.SETTINGS))
    parser.add_argument("--reward", default="sparse", choices=("sparse", "abc"))
    asked = parser.parse_args()
    setting = workload.SETTINGS[asked.setting]
    enter_environment(configured(setting, asked.reward))
    with conversation() as channel:
        hush()
        use_threads()
        peer = Peer(setting, asked.reward)
        channel.ready(program="tokencredit", reward=asked.reward, **facts())
        serve(channel, peer.iterate)


if __name__ == "__main__":
    main()
