"""The RL loop: rollout, judgement, token rewards, targets, updates; and what surrounds a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float

from tokencredit.algorithms.algorithm import State
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.data.prompts import PromptStream
from tokencredit.errors import UserError
from tokencredit.judges.judge import OpenJudge
from tokencredit.machine.stopping import Request, Stopped, saving
from tokencredit.models.actors import Actors
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.collector import Collector, Speaker
from tokencredit.rl.compute import Compute
from tokencredit.rl.engine import Engine
from tokencredit.rl.evaluate import Rater, held_out, on_the_way
from tokencredit.rl.export import export_policy
from tokencredit.rl.failed_step import dump, require_finite
from tokencredit.rl.metrics import explained_variance
from tokencredit.rl.payer import Payer, Reshaper, warn_of_nothing
from tokencredit.rl.perplexity import Perplexities
from tokencredit.rl.step_log import Clock, Made, StepLog
from tokencredit.rl.update import NotFinite, Updater
from tokencredit.rl.world import World
from tokencredit.rollout import Batch, Judgement, Prompts, Rollout, Targets
from tokencredit.tracking.tracker import Tracker

WARMUP: Final = "value warm-up"
"""The stream of the value function's warm-up."""


@dataclass(slots=True)
class RunInputs:
    """What a run reads and where it writes."""

    prompts: PromptStream
    held_out: PromptStream
    """Prompts that nothing is trained on."""
    folder: Path
    compute: Compute | None = None
    """What a step needs, where that is to be logged."""
    oracle: Rater | None = None
    """What rates held-out responses on the way, where there is one."""
    frozen: Sequence[torch.nn.Module] = ()
    """The frozen models that judge and scorer read; the reference's own is known."""


@dataclass(slots=True)
class Best:
    """The best held-out evaluation so far."""

    step: int
    score: float


class Learner:
    """The live state of a run between steps: weights, optimizer, coefficients, position."""

    def __init__(
        self, config: Config, actors: Actors, judge: OpenJudge, around: RunInputs, world: World
    ) -> None:
        """A run at step 0."""
        self.algorithm, self.config = config.policy_algorithm, config
        self.payer, self.reshaper = Payer(config), Reshaper(config)
        self.actors, self.world = actors, world
        self.prompts, self.held_out, self.folder = around.prompts, around.held_out, around.folder
        beside = [*around.frozen, *filter(None, [actors.reference.frozen])]
        self.engine = Engine(actors.policy, self.algorithm, world, beside)
        self.updater = Updater(self.engine, self.algorithm, config.seed)
        self.collector = Collector(world, judge, config.rollout.chunk)
        self.compute, self.oracle = around.compute, around.oracle
        self.perplexities = Perplexities.of(config, actors, world, around.held_out)
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

        Every process calls this; only the main one has a tracker. Raises `Stopped` behind the step
        in which one of them was asked to stop, once that is saved.
        """
        settings, steps, saved = self.config.run, self.config.steps, self.next_step
        log = self.log(tracker)
        self.actors.policy.train()
        self._warn()
        with self.engine.whole():
            self.state = self.algorithm.prepared(self.state, self._reference_scores)
        self._warm_up()
        with saving() as asked:
            while not self._stops(asked) and self.next_step < steps:
                self.step(self.next_step, log)
                self.next_step += 1
                if self.next_step % settings.save_every == 0 or self.next_step == steps:
                    checkpoints.save(self.engine, self.progress(log))
                    saved = self.next_step
            if self._stops(asked):
                if saved < self.next_step:
                    checkpoints.save(self.engine, self.progress(log))
                raise Stopped(f"is saved behind step {self.next_step} of {steps}")
        with self.engine.whole():
            self._held_out(steps)

    def _stops(self, asked: Request) -> bool:
        """Whether a process of the run was asked to stop: all of them get the same answer."""
        if self.world.size == 1:
            return asked.asked
        return self.world.sums({"asked": float(asked.asked)})["asked"] > 0

    def log(self, tracker: Tracker | None) -> StepLog:
        """What measures the steps, and writes them down if there is a tracker."""
        return StepLog(
            tracker=tracker,
            algorithm=self.algorithm,
            payer=self.payer,
            compute=self.compute,
            run=self.config.run,
            tokenizer=self.actors.tokenizer,
        )

    def progress(self, log: StepLog) -> Progress:
        """Everything besides weights and optimizer that a checkpoint holds."""
        best = None if self.best is None else asdict(self.best)
        return Progress(self.next_step, self.state, log.offsets(), best)

    def step(self, step: int, log: StepLog) -> None:
        """One rollout and the updates on it."""
        clock = Clock()
        prompts = self._prompts(step)
        with self.engine.whole() as gathered:
            if gathered:
                clock.mark("gather")
            evaluated = self._held_out(step)
            if evaluated:
                clock.mark("evaluation")
            rollout, judgement = self._roll_out(prompts, step)
            clock.mark("rollout")
            paid = self.algorithm.scaled(judgement, self.state)
            rewards = self.payer.pay(rollout, paid, step)
            observed = self.algorithm.observe(rollout, Beside(self, prompts, step))
        shaped = self.algorithm.shape(rewards, rollout, self.state, observed)
        change = self.reshaper.change(rollout, paid, shaped, step)
        targets = self.algorithm.targets(rollout, shaped, change)
        self._warn_of_nothing(step, rewards, targets, rollout)
        clock.mark("credit")
        with self._dumping(rollout, shaped, targets):
            updates = self.updater.update(rollout, targets, self.state, step)
        clock.mark("update")
        made = Made(
            rollout=rollout,
            judgement=judgement,
            paid=paid,
            rewards=rewards,
            shaped=shaped,
            targets=targets,
            updates=updates,
            evaluated=evaluated,
        )
        measured = log.write(step, made, self.state, clock)
        self.state = self.algorithm.next_state(self.state, measured, len(rollout))

    def _prompts(self, step: int) -> Prompts:
        algorithm = self.algorithm
        return self.prompts.batch(
            self.config.seed,
            step,
            algorithm.batch_size,
            samples_per_prompt=algorithm.samples_per_prompt,
        )

    def _roll_out(self, prompts: Prompts, step: int) -> tuple[Rollout, Judgement]:
        """The policy's responses, judged; a sampler that keeps too many ids is refused."""
        speak = partial(self.actors.roll_out, stream=(self.config.seed, "rollout", step))
        rollout, judgement = self.collect(prompts, speak, step)
        self.config.rollout.check_kept(0 if rollout.kept is None else len(rollout.kept.ids))
        return rollout, judgement

    def collect(self, prompts: Prompts, speak: Speaker, step: int) -> tuple[Rollout, Judgement]:
        """What `speak` responds, judged; raises, and dumps it, where a number is not finite."""
        rollout, judgement = self.collector.collect(prompts, speak)
        require_finite(rollout, judgement, self.folder if self.world.is_main else None, step)
        return rollout, judgement

    def _reference_scores(self, count: int) -> Float[torch.Tensor, "N"]:
        """The scores of that many responses of the reference."""
        seed = self.config.seed
        prompts = self.prompts.batch(seed, 0, count, "reference")
        with self.actors.reference.model() as model:
            speak = partial(self.actors.answer, model, stream=(seed, "reference"))
            _, judgement = self.collector.collect(prompts, speak)
        return judgement.scores

    def _warm_up(self) -> None:
        """Train the value function on `algorithm.value_warmup` rollouts; the policy does not move.

        Prompts and noise have a stream of their own, so the steps that follow see the same ones as
        without a warm-up. Nothing is kept: a run that is resumed at step 0 begins with it again.
        """
        algorithm, seed = self.algorithm, self.config.seed
        rollouts = 0 if self.next_step > 0 else algorithm.warmup_rollouts()
        updater = Updater(self.engine, algorithm, seed, only="value")
        for number in range(rollouts):
            prompts = self.prompts.batch(seed, number, algorithm.batch_size, WARMUP)
            speak = partial(self.actors.roll_out, stream=(seed, WARMUP, number))
            with self.engine.whole():
                rollout, judgement = self.collect(prompts, speak, self.next_step)
            paid = algorithm.scaled(judgement, self.state)
            rewards = self.payer.pay(rollout, paid, self.next_step)
            targets = algorithm.targets(rollout, algorithm.shape(rewards, rollout, self.state))
            explained = explained_variance(rollout.values, targets.returns, rollout.response_mask)
            # Negative steps: shuffled by names of their own, at the peak learning rate.
            updater.update(rollout, targets, self.state, number - rollouts)
            if self.world.is_main:
                say(
                    f"value warm-up: rollout {number + 1}/{rollouts}, explained "
                    f"variance {float(explained):.2f}"
                )

    def _held_out(self, step: int) -> dict[str, float]:
        """Score the policy on held-out prompts every `evaluation.every` steps; keep the best."""
        settings = self.config.evaluation
        if settings.every is None or step % settings.every:
            return {}
        batch, stream = held_out(settings, self.held_out)
        speak = partial(self.actors.roll_out, stream=stream)
        rollout, judgement = self.collector.collect(batch, speak)
        require_finite(rollout, judgement, None, step)
        measured = on_the_way(self.actors, rollout, judgement, self.oracle)
        if self.perplexities is not None:
            measured |= self.perplexities.on_the_way(rollout)
        score = measured["eval/score"]
        if self.best is None or score > self.best.score:
            self.best = Best(step, score)
            if self.world.is_main:
                export_policy(self.actors, self.config.model.lora, self.folder, "policy_best")
        best = {"eval/best_score": self.best.score, "eval/best_step": float(self.best.step)}
        return {**measured, **best}

    @contextmanager
    def _dumping(self, *parts: Batch) -> Iterator[None]:
        """Where the updates' numbers go out of range, keep what the step was made of."""
        try:
            yield
        except NotFinite as error:
            if not self.world.is_main:
                raise
            raise UserError(
                f"{error}. The step's numbers are in {dump(self.folder, *parts)}"
            ) from error

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

    def _warn_of_nothing(
        self, step: int, rewards: torch.Tensor, targets: Targets, rollout: Rollout
    ) -> None:
        if self.world.is_main:
            warn_of_nothing(self.folder, step, rewards, targets, rollout)


@dataclass(frozen=True, slots=True)
class Beside:
    """`algorithms.asking.Asking` of one step."""

    learner: Learner
    prompts: Prompts
    step: int

    def policy(
        self, prompts: Prompts, name: str, *, greedy: bool = False
    ) -> tuple[Rollout, Judgement]:
        """What the policy responds now, judged."""
        actors, stream = self.learner.actors, (self.learner.config.seed, name, self.step)
        speak = partial(actors.answer, actors.policy.model, stream=stream, greedy=greedy)
        return self.learner.collect(prompts, speak, self.step)

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Float[torch.Tensor, "B T"]:
        """The scheme's rewards, for scores as the algorithm scales them."""
        paid = self.learner.algorithm.scaled(judgement, self.learner.state)
        return self.learner.payer.pay(rollout, paid, self.step)
