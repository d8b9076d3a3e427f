"""The RL loop: rollout, judgement, token rewards, targets, updates; and what surrounds a step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tokencredit.algorithms.algorithm import Algorithm, State
from tokencredit.algorithms.scores import REFERENCE_SD, Normalise, reference_scores
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.data.prompts import PromptStream
from tokencredit.describe import describe
from tokencredit.engine import Engine, World
from tokencredit.errors import UserError
from tokencredit.judges.judge import OpenJudge
from tokencredit.models.actors import Actors
from tokencredit.ops import k1, masked_sum
from tokencredit.rollout import Batch, Judgement, Prompts, Rollout
from tokencredit.stages.checkpoints import Checkpoints, Progress
from tokencredit.stages.clock import Clock
from tokencredit.stages.compute import Compute
from tokencredit.stages.dump import dump, require_finite
from tokencredit.stages.evaluate import held_out
from tokencredit.stages.finish import export_policy
from tokencredit.stages.paying import Payer, warn_of_nothing
from tokencredit.stages.rollouts import Collector
from tokencredit.stages.samples import Said, sample_rows
from tokencredit.stages.value_warmup import warm_up
from tokencredit.tracking.tracker import Tracker
from tokencredit.update import NotFinite, Updater


@dataclass(slots=True)
class Surroundings:
    """What a run reads and where it writes."""

    prompts: PromptStream
    held_out: PromptStream
    """Prompts that nothing is trained on."""
    folder: Path
    compute: Compute | None = None
    """What a step needs, where that is to be logged."""


@dataclass(slots=True)
class Best:
    """The best held-out evaluation so far."""

    step: int
    score: float


class Learner:
    """The live state of a run between steps: weights, optimizer, coefficients, position."""

    def __init__(
        self, config: Config, actors: Actors, judge: OpenJudge, around: Surroundings, world: World
    ) -> None:
        """A run at step 0."""
        assert isinstance(config.algorithm, Algorithm)
        self.algorithm, self.config = config.algorithm, config
        self.payer = Payer(config)
        self.actors, self.world = actors, world
        self.prompts, self.held_out, self.folder = around.prompts, around.held_out, around.folder
        self.engine = Engine(actors.policy, self.algorithm, world)
        self.updater = Updater(self.engine, self.algorithm, config.seed)
        self.collector = Collector(world, judge, config.rollout.chunk)
        self.compute = around.compute
        self.state: State = self.algorithm.initial_state()
        self.next_step = 0
        self.best: Best | None = None

    def resume(self, checkpoint: Path, progress: Progress) -> None:
        """Continue from a checkpoint."""
        self.engine.load(checkpoint)
        self.state, self.next_step = progress.state, progress.next_step
        self.best = None if progress.best is None else Best(**progress.best)

    def train(self, tracker: Tracker | None, checkpoints: Checkpoints) -> None:
        """The remaining steps, with checkpoints on the way and one at the end.

        Every process calls this; only the main one has a tracker.
        """
        settings, steps = self.config.run, self.config.steps
        self.actors.policy.train()
        self._warn()
        self._measure_reference()
        warm_up(self)
        while self.next_step < steps:
            self.step(self.next_step, tracker)
            self.next_step += 1
            if self.next_step % settings.save_every == 0 or self.next_step == steps:
                checkpoints.save(self.engine, self.progress(tracker))
        self._held_out(steps)

    def _warn(self) -> None:
        """Say once what will not go as one might think."""
        if not self.world.is_main:
            return
        mismatch = self.config.rollout.mismatch()
        if mismatch:
            say(f"warning: {mismatch}")
        chunks = math.ceil(self.algorithm.batch_size / self.collector.chunk)
        if chunks < self.world.size:
            share = math.ceil(self.algorithm.batch_size / self.world.size)
            say(
                f"rollout.chunk = {self.collector.chunk}: a step has {chunks} chunk(s) for "
                f"{self.world.size} processes, so some wait; rollout.chunk={share} keeps all busy"
            )

    def progress(self, tracker: Tracker | None) -> Progress:
        """Everything besides weights and optimizer that a checkpoint holds."""
        offsets = {} if tracker is None else tracker.state()
        best = None if self.best is None else asdict(self.best)
        return Progress(self.next_step, self.state, offsets, best)

    def step(self, step: int, tracker: Tracker | None) -> None:
        """One rollout and the updates on it."""
        clock = Clock()
        evaluated = self._held_out(step)
        prompts = self._prompts(step)
        rollout, judgement = self.collector.collect(
            prompts, partial(self.actors.roll_out, stream=(self.config.seed, "rollout", step))
        )
        if rollout.kept is not None:
            self.config.rollout.check_kept(len(rollout.kept.ids))
        clock.mark("rollout")
        rewards = self.pay(rollout, judgement)
        baseline = self._greedy_totals(prompts, step) if self.algorithm.uses_greedy else None
        shaped = self.algorithm.shape(rewards, rollout, self.state, baseline)
        targets = self.algorithm.targets(rollout, shaped)
        if self.world.is_main:
            warn_of_nothing(self.folder, step, rewards, targets, rollout)
        clock.mark("credit")
        try:
            updates = self.updater.update(rollout, targets, self.state, step)
        except NotFinite as error:
            raise self._explained(error, rollout, shaped, targets) from error
        clock.mark("update")
        described = describe(rollout, judgement, rewards, targets)
        described |= self.payer.measure(rollout, self._paid(judgement), step)
        described |= self.algorithm.measure(rollout, shaped)
        described |= {} if self.compute is None else self.compute.measure(rollout, updates)
        if tracker is not None:
            other = {"update/padding": updates.pop("update/padding")}
            if rollout.kept is not None:
                other["rollout/kept_bytes"] = float(rollout.kept.bytes)
            metrics = {**described, **self.state, **updates, **evaluated}
            tracker.log(step, metrics, {**clock.timings(rollout), **other})
            columns = {"rewards": rewards, "shaped": shaped.total}
            self._samples(tracker, step, Said(rollout, judgement, targets, columns))
        measured = {**described, **updates}
        self.state = self.algorithm.next_state(self.state, measured, len(rollout))

    def _explained(self, error: NotFinite, *parts: Batch) -> UserError:
        """The same error, with the place of what the step was made of."""
        if not self.world.is_main:
            return error
        return UserError(f"{error}. The step's numbers are in {dump(self.folder, *parts)}")

    def _prompts(self, step: int) -> Prompts:
        algorithm = self.algorithm
        return self.prompts.batch(
            self.config.seed,
            step,
            algorithm.batch_size,
            samples_per_prompt=algorithm.samples_per_prompt,
        )

    def _greedy_totals(self, prompts: Prompts, step: int) -> Float[Tensor, "B"]:
        """The total reward of the greedy response to each row's prompt."""
        every = self.algorithm.samples_per_prompt
        first = prompts[torch.arange(0, len(prompts), every)]
        stream = (self.config.seed, "greedy", step)
        speak = partial(self.actors.answer, self.actors.policy.model, stream=stream, greedy=True)
        rollout, judgement = self.collector.collect(first, speak)
        totals = masked_sum(self.pay(rollout, judgement), rollout.response_mask)
        return totals.repeat_interleave(every)

    def pay(self, rollout: Rollout, judgement: Judgement) -> Float[Tensor, "B T"]:
        """The scheme's token rewards for the scores as the algorithm wants them paid."""
        place = self.folder if self.world.is_main else None
        require_finite(rollout, judgement, place, self.next_step)
        return self.payer.pay(rollout, self._paid(judgement), self.next_step)

    def _paid(self, judgement: Judgement) -> Judgement:
        """The judgement with its scores as the algorithm wants them paid."""
        scores = self.algorithm.paid_scores(judgement.scores, self.state)
        return replace(judgement, scores=scores)

    def _measure_reference(self) -> None:
        """Score responses of the reference once, where rewards are to be in units of theirs."""
        count, seed = self.algorithm.normalise_samples, self.config.seed
        if self.algorithm.normalise is not Normalise.reference or REFERENCE_SD in self.state:
            return
        prompts = self.prompts.batch(seed, 0, count, "reference")
        with self.actors.reference.model() as model:
            speak = partial(self.actors.answer, model, stream=(seed, "reference"))
            _, judgement = self.collector.collect(prompts, speak)
        self.state |= reference_scores(judgement.scores)

    def _held_out(self, step: int) -> dict[str, float]:
        """Score the policy on held-out prompts every `evaluation.every` steps; keep the best."""
        settings = self.config.evaluation
        if settings.every is None or step % settings.every:
            return {}
        batch, stream = held_out(settings, self.held_out)
        speak = partial(self.actors.roll_out, stream=stream)
        rollout, judgement = self.collector.collect(batch, speak)
        require_finite(rollout, judgement, None, step)
        score = float(judgement.scores.double().mean())
        if self.best is None or score > self.best.score:
            self.best = Best(step, score)
            if self.world.is_main:
                export_policy(self.actors, self.config.model.lora, self.folder, "policy_best")
        kl = masked_sum(k1(rollout.logp, rollout.ref_logp), rollout.response_mask)
        best = {"eval/best_score": self.best.score, "eval/best_step": float(self.best.step)}
        return {"eval/score": score, "eval/kl": float(kl.mean()), **best}

    def _samples(self, tracker: Tracker, step: int, said: Said) -> None:
        """Log the first responses at fixed steps."""
        settings = self.config.run
        if settings.samples and step % settings.sample_every == 0:
            tracker.samples(step, sample_rows(step, said, settings.samples, self.actors.tokenizer))
