"""Reinforcement learning with token rewards. The loop is eight lines; the rest keeps it safe."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.atomic import write_text
from tokencredit.canonical import canonical, differences
from tokencredit.console import say
from tokencredit.data.prompts import PromptStream
from tokencredit.describe import describe
from tokencredit.engine import Engine
from tokencredit.judges.judge import OpenJudge, open_panel
from tokencredit.plugins import plugin_identity
from tokencredit.rollout import Rollout
from tokencredit.stages.actors import Actors, load_actors
from tokencredit.stages.checkpoints import Checkpoints, Progress
from tokencredit.stages.evaluate import evaluate, report
from tokencredit.stages.finish import (
    export_policy,
    seconds_of_steps,
    write_figures,
    write_results,
    write_rows,
)
from tokencredit.stages.oracle import OracleStage, load_oracle
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.run_folder import RunFolder, State
from tokencredit.stages.samples import Said, sample_rows
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.store import Plan, check_writable
from tokencredit.tracking.tracker import Tracker

if TYPE_CHECKING:
    from tokencredit.context import Context


class RLStage(Stage):
    """A policy trained by rollouts, and its evaluation, in a run folder."""

    name: ClassVar[str] = "rl"
    version: ClassVar[int] = 1

    def parents(self) -> Mapping[str, Stage]:
        """SFT always; reward model and oracle where they are used."""
        config = self.context.config
        parents: dict[str, Stage] = {"sft": SFTStage(self.context)}
        if "reward_model" in config.judge.needs + config.scorer.needs:
            parents["reward_model"] = RewardModelStage(self.context)
        if config.oracle.enabled:
            parents["oracle"] = OracleStage(self.context)
        return parents

    def inputs(self) -> Mapping[str, object]:
        """Everything of the configuration that can change a metric or the evaluation."""
        config, prints = self.context.config, self.context.corpus.fingerprints
        return {
            "algorithm": config.algorithm,
            "reward_scheme": config.reward_scheme,
            "judge": config.judge.identity(),
            "scorer": config.scorer.identity(),
            "rollout": config.rollout,
            "prompt": config.dataset.prompt,
            "format": config.dataset.format,
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "context": config.model.context,
            "evaluation": config.evaluation,
            "plugins": plugin_identity(config.plugins),
            "data": prints["rl"],
            "eval": prints["eval"],
            "seed": config.seed,
        }

    @cached_property
    def folder(self) -> Path:
        """Where the run lies."""
        config = self.context.config
        if config.run_dir is not None:
            return Path(config.run_dir).expanduser()
        name = (
            config.run.experiment
            or config.run.scheme
            or type(config.reward_scheme).__name__.lower()
        )
        return Path(config.runs_dir).expanduser() / name / self.key

    def surplus(self) -> str:
        """A remark if the run has more steps than are asked for; nothing is deleted."""
        rows, steps = RunFolder(self.folder).rows(), self.context.config.steps
        return f" ({rows} steps; results speak of {rows}, not of the {steps} asked for)" * (
            rows > steps
        )

    def is_done(self) -> bool:
        """Whether the run is complete with all the steps that are asked for."""
        return RunFolder(self.folder).done(self.key, self.context.config.steps)

    def check_folder(self) -> None:
        """Raise unless the run may be written to its folder."""
        run = RunFolder(self.folder)
        run.check_owner(self.key, self.identity)
        named = self.context.config.run_dir is not None
        check_writable(self.folder, "run_dir" if named else "runs_dir")
        config = self.context.config
        run.check_threads(config.hardware.threads, config.run.resume_inexact)

    def plan(self) -> Plan:
        """Complete, or how far the run is."""
        run = RunFolder(self.folder)
        if self.is_done():
            return Plan(self.name, self.key, hit=True, state=str(self.folder))
        state = run.state() if run.manifest().get("key") == self.key else State.absent
        rows = (
            f", {run.rows()} of {self.context.config.steps} steps"
            if state is not State.absent
            else ""
        )
        where = f"{self.folder}: {state.value}{rows}"
        reasons = () if state is not State.absent else self._nearest()
        return Plan(self.name, self.key, hit=False, state=where, reasons=reasons)

    def _nearest(self) -> tuple[str, ...]:
        """The inputs in which the nearest run beside this one differs."""
        folders = [self.folder, *self.folder.parent.glob("*")]
        others = [RunFolder(path).manifest().get("identity") for path in folders if path.is_dir()]
        found: list[list[str]] = [differences(other, self.identity) for other in others if other]
        nearest = min(found, key=len) if found else []
        return tuple(nearest)

    def run(self, out: Path) -> Mapping[str, object]:
        """Train, or continue to train; then evaluate. Everything is written to the run folder."""
        run = RunFolder(out)
        self.check_folder()
        with run.locked():
            if self.is_done():  # by the process that held the folder until now
                return {}
            self._write_identity(run)
            torch.use_deterministic_algorithms(True, warn_only=True)
            return self._train_and_evaluate(run)

    def _train_and_evaluate(self, run: RunFolder) -> Mapping[str, object]:
        config, context = self.context.config, self.context
        started = time.monotonic()
        actors = load_actors(config, context.store.get(self.parents()["sft"]).path)
        judge = open_panel(config.judge, config.scorer, context, actors.tokenizer)
        learner = Learner(config_algorithm(self.context), actors, judge, self.context)
        with self._tracker(run, learner) as tracker:
            before = seconds_of_steps(run.path)  # of sessions that ended early
            learner.train(tracker, Checkpoints(run.path))
            run.write(State.trained, prompts_dropped=learner.prompts.dropped)
            oracle = load_oracle(self._oracle_folder()) if config.oracle.enabled else None
            rows = evaluate(config, actors, judge, oracle, self._prompts("eval", actors))
            write_rows(run.path, rows)
            export_policy(actors, config.model.lora, run.path)
            seconds = before + time.monotonic() - started
            results = write_results(run, self, report(rows), seconds)
            if config.run.figures:
                write_figures(run.path)
            run.write(State.complete)
            tracker.close(results["metrics"] | results["evaluation"])
        return results

    def _write_identity(self, run: RunFolder) -> None:
        from tokencredit import config as configuration

        config = self.context.config
        run.write(
            State.running,
            key=self.key,
            identity=canonical(self.identity),
            threads=config.hardware.threads,
            hardware=canonical(config.hardware),
            seeds={"seed": config.seed, "stage_seed": config.stage_seed},
            fingerprints=self.context.corpus.fingerprints,
            parents={role: parent.key for role, parent in self.parents().items()},
            dropped=dict(self.context.corpus.dropped.counts),
        )
        write_text(run.path / "config.yaml", configuration.dump(config))

    def _oracle_folder(self) -> Path:
        return self.context.store.get(self.parents()["oracle"]).path

    def _prompts(self, split: str, actors: Actors) -> PromptStream:
        config = self.context.config
        records = self.context.corpus.parts[split]
        return PromptStream(
            records, actors.tokenizer, config.dataset.prompt, config.rollout, config.model.context
        )

    @contextmanager
    def _tracker(self, run: RunFolder, learner: Learner) -> Iterator[Tracker]:
        config = self.context.config
        newest = Checkpoints(run.path).newest()
        offsets = None
        if newest is not None:
            progress = Checkpoints.progress(newest)
            learner.resume(newest, progress)
            offsets = progress.offsets
            say(f"rl {self.key}: continues at step {progress.next_step}")
        label = f"{config.run.scheme or type(config.reward_scheme).__name__} seed {config.seed}"
        plain = cast(dict[str, Any], canonical(config))
        with Tracker(
            run.path,
            config.tracking,
            self.key,
            label,
            plain,
            offsets,
            config.steps,
            learner.next_step,
        ) as tracker:
            yield tracker


def config_algorithm(context: Context) -> Algorithm:
    """The policy algorithm of the run."""
    assert isinstance(context.config.algorithm, Algorithm)
    return context.config.algorithm


class Learner:
    """The live state of a run between steps: weights, optimizer, KL coefficient, position."""

    def __init__(
        self, algorithm: Algorithm, actors: Actors, judge: OpenJudge, context: Context
    ) -> None:
        """A run at step 0."""
        config = context.config
        self.algorithm, self.actors, self.judge, self.config = algorithm, actors, judge, config
        self.scheme = config.reward_scheme
        self.engine = Engine(
            actors.policy, algorithm.optimizer, on_cpu=config.hardware.on_cpu(), seed=config.seed
        )
        self.prompts = PromptStream(
            context.corpus.parts["rl"],
            actors.tokenizer,
            config.dataset.prompt,
            config.rollout,
            config.model.context,
        )
        self.kl_coef = algorithm.kl.coef
        self.next_step = 0

    def resume(self, checkpoint: Path, progress: Progress) -> None:
        """Continue from a checkpoint."""
        self.engine.load(checkpoint)
        self.kl_coef, self.next_step = progress.kl_coef, progress.next_step

    def train(self, tracker: Tracker, checkpoints: Checkpoints) -> None:
        """The remaining steps, with checkpoints on the way and one at the end."""
        settings, steps = self.config.run, self.config.steps
        self.actors.policy.train()
        while self.next_step < steps:
            step = self.next_step
            self.step(step, tracker)
            self.next_step = step + 1
            if self.next_step % settings.save_every == 0 or self.next_step == steps:
                progress = Progress(self.next_step, self.kl_coef, tracker.state())
                checkpoints.save(self.engine, progress)

    def step(self, step: int, tracker: Tracker) -> None:
        """One rollout and the updates on it."""
        seed, size = self.config.seed, self.algorithm.batch_size
        clock = Clock()
        prompts = self.prompts.batch(seed, step, size).to(self.engine.device)
        rollout = self.actors.roll_out(prompts, (seed, "rollout", step))
        clock.mark("generate")
        judgement = self.judge(rollout)
        clock.mark("judge")
        rewards = self.scheme.token_rewards(rollout, judgement)
        shaped = self.algorithm.shape(rewards, rollout, self.kl_coef)
        targets = self.algorithm.targets(rollout, shaped)
        updates = self.engine.update(self.algorithm, rollout, targets, step)
        clock.mark("update")
        described = describe(rollout, judgement, rewards, targets)
        tracker.log(step, {**described, "kl/coef": self.kl_coef, **updates}, clock.timings(rollout))
        self._samples(
            tracker, step, Said(rollout, judgement, targets, {"rewards": rewards, "shaped": shaped})
        )
        self.kl_coef = self.algorithm.kl.next_coef(self.kl_coef, described["kl/k1"], len(rollout))

    def _samples(self, tracker: Tracker, step: int, said: Said) -> None:
        """Log the first responses at fixed steps."""
        settings = self.config.run
        if settings.samples and step % settings.sample_every == 0:
            tracker.samples(step, sample_rows(step, said, settings.samples, self.actors.tokenizer))


class Clock:
    """Seconds of each phase of a step."""

    def __init__(self) -> None:
        """Starts now."""
        self.last = self.started = time.perf_counter()
        self.phases: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """The phase that began at the last mark ends now."""
        now = time.perf_counter()
        self.phases[f"time/{phase}_seconds"] = now - self.last
        self.last = now

    def timings(self, rollout: Rollout) -> dict[str, float]:
        """The phases, and response tokens a second over the whole step."""
        total = max(self.last - self.started, 1e-9)
        rate = float(rollout.response_mask.sum()) / total
        assert math.isfinite(rate)
        return {**self.phases, "throughput/tokens_per_second": rate}
