"""The RL stage: who may write the run, what it reads, and what it leaves behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeGuard

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.canonical import canonical, differences
from tokencredit.config import dump
from tokencredit.console import say, say_once
from tokencredit.data.prompts import PromptStream
from tokencredit.data.token_ids import TokenIds
from tokencredit.judges.fit import advantage_inputs
from tokencredit.judges.panel import open_panel
from tokencredit.models.actors import Actors
from tokencredit.models.loading.model import RewardReads
from tokencredit.models.loading.weights import noting
from tokencredit.reports.stage_report import curves_of, left_out
from tokencredit.rl.checkpoints import Checkpoints
from tokencredit.rl.compute import Compute, stored_parameters
from tokencredit.rl.evaluate import evaluate, report
from tokencredit.rl.export import export_policy
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.payer import horizon
from tokencredit.rl.world import World, compute_deterministically
from tokencredit.stages.catalogue import critic_role, given_of, panel_stages
from tokencredit.stages.mirrored import (
    facts,
    headline,
    labelled,
    rows_left_out,
    stage_numbers,
)
from tokencredit.stages.oracle import OracleStage, load_oracle
from tokencredit.stages.results import (
    remembering_failure,
    seconds_of_steps,
    write_figures,
    write_results,
)
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.scorers import accuracies
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Plan, check_writable
from tokencredit.store.files import Damaged, write_rows, write_text
from tokencredit.store.run_folder import CONFIG, EVALUATION, RunFolder, State, hash_exports
from tokencredit.tracking.tracker import Tracker
from tokencredit.user_code.kept import keep_code
from tokencredit.user_code.plugins import used_code


class RLStage(Stage):
    """A policy trained by rollouts, and its evaluation, in a run folder."""

    is_run: ClassVar[bool] = True
    name: ClassVar[str] = "rl"
    version: ClassVar[int] = 1

    def parents(self) -> Mapping[str, Stage]:
        """SFT always; reward model and oracle where they are used."""
        config = self.context.config
        parents: dict[str, Stage] = {"sft": SFTStage(self.context)}
        parents |= panel_stages(self.context)
        if critic_role(config) == RewardModelStage.name:
            parents[RewardModelStage.name] = RewardModelStage(self.context)
        if config.oracle.enabled:
            parents["oracle"] = OracleStage(self.context)
        return parents

    def inputs(self) -> Mapping[str, object]:
        """Everything of the configuration that can change a metric or the evaluation."""
        config, prints = self.context.config, self.context.corpus.fingerprints
        reads = config.model.reward_reads
        return {
            "algorithm": config.algorithm,
            "reward_scheme": config.reward_scheme,
            **advantage_inputs(config.advantage_scheme),
            "judge": config.judge.identity(),
            "scorer": config.scorer.identity(),
            "rollout": config.rollout,
            "prompt": config.dataset.prompt,
            "format": config.dataset.format,
            "dtype": config.model.dtype,
            "autocast": config.model.autocast,
            "value": config.model.value,
            "lora": config.model.lora,
            "context": config.model.context,
            "evaluation": config.evaluation,
            "plugins": used_code(self._components(), config.plugins),
            "data": prints["rl"],
            "eval": prints["eval"],
            "seed": config.seed,
            **({} if reads is RewardReads.ids else {"reward_reads": reads}),
            **config.model.quantization_inputs(),
            **self._columns(),
        }

    def _columns(self) -> dict[str, object]:
        """A hash of the columns that judge or scorer read."""
        config, there = self.context.config, self.context.config.dataset.column_names
        names = {name for each in (config.judge, config.scorer) for name in each.columns(there)}
        return {"columns": self.context.columns_digest(sorted(names))} if names else {}

    def _components(self) -> list[object]:
        """What of the configuration may be of the user's own and decides the result."""
        config = self.context.config
        schemes = [config.reward_scheme, config.advantage_scheme]
        chosen = [config.algorithm, *schemes, config.judge, config.scorer]
        return [*chosen, config.dataset, config.dataset.reader(), config.model]

    @property
    def algorithm(self) -> Algorithm:
        """The policy algorithm of the run."""
        return self.context.config.policy_algorithm

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

    def found(self) -> str:
        """Where the run is; with a remark if it has more steps than are asked for: nothing is
        deleted."""
        rows, steps = RunFolder(self.folder).rows(), self.context.config.steps
        surplus = f" ({rows} steps; results speak of {rows}, not of the {steps} asked for)"
        return f"complete in {self.folder}{surplus * (rows > steps)}"

    def is_done(self) -> bool:
        """Whether the run is complete with all steps that are asked for, as it was left."""
        return RunFolder(self.folder).done(self.key, self.context.config.steps)

    def is_there(self) -> bool:
        """As `is_done`: a run that is not complete goes on, and is looked at again."""
        return self.is_done()

    def build(self) -> None:
        """Train and evaluate in the run's folder."""
        self.run(self.folder)

    def check_folder(self) -> None:
        """Raise unless the run may be written to its folder."""
        run = RunFolder(self.folder)
        run.check_kinds()
        run.check_owner(self.key, self.identity)
        run.check_irreplaceable()
        named = self.context.config.run_dir is not None
        check_writable(self.folder, "run_dir" if named else "runs_dir")
        config = self.context.config
        run.check_arithmetic(config.hardware.arithmetic(), config.run.resume_inexact)

    def plan(self) -> Plan:
        """Complete, or how far the run is."""
        run = RunFolder(self.folder)
        if self.is_done():
            return self._planned(hit=True, state=str(self.folder))
        state = run.state() if run.manifest().get("key") == self.key else State.absent
        rows = (
            f", {run.rows()} of {self.context.config.steps} steps"
            if state is not State.absent
            else ""
        )
        where = f"{self.folder}: {state.value}{rows}"
        damage = run.damage() if state is not State.absent else None
        reasons = self._nearest() if state is State.absent else (damage,) if damage else ()
        return self._planned(hit=False, state=where, reasons=tuple(reasons))

    def _planned(self, *, hit: bool, state: str, reasons: tuple[str, ...] = ()) -> Plan:
        ahead = horizon(self.context.config.judge, self.context.config.reward_scheme)
        return Plan(self.name, self.key, hit, state, reasons, ahead)

    def _nearest(self) -> tuple[str, ...]:
        """The inputs in which the nearest run beside this one differs."""
        folders = [self.folder, *self.folder.parent.glob("*")]
        found: list[list[str]] = []
        for path in (path for path in folders if path.is_dir()):
            try:
                other = RunFolder(path).manifest().get("identity")
            except (Damaged, OSError) as error:
                say_once(f"{error}; planning goes on without it")
                continue
            if other:
                found.append(differences(other, self.identity))
        nearest = min(found, key=len) if found else []
        return tuple(nearest)

    def run(self, out: Path) -> Mapping[str, object]:
        """Train, or continue to train; then evaluate. Everything is written to the run folder.

        Every process of the run calls this; the main one holds the folder and writes.
        """
        run = RunFolder(out)
        settings = self.algorithm.optimizer
        world = World(self.context.config.hardware, settings.max_grad_norm)
        if world.is_main:
            self.check_folder()
        with run.locked() if world.is_main else nullcontext():
            if world.broadcast(self.is_done()):  # by the process that held the folder until now
                return {}
            if world.is_main:
                _tell_damage(run)
            newest = Checkpoints(run.path).newest()  # before anything is changed: it may be damaged
            if world.is_main:
                self._write_identity(run, newest)
            world.wait()
            compute_deterministically()
            return self._train_and_evaluate(run, world, newest)

    def _train_and_evaluate(
        self, run: RunFolder, world: World, newest: Path | None
    ) -> Mapping[str, object]:
        config = self.context.config
        started = time.monotonic()
        learner = self._learner(run, world, newest)
        tracker = self._tracker(run, learner, newest)
        before = seconds_of_steps(run.path) if tracker else 0.0  # of sessions that ended early
        first = learner.next_step
        with nullcontext() if tracker is None else tracker:
            with remembering_failure(run, tracker):
                learner.train(tracker, Checkpoints(run.path))
            if tracker is not None:
                run.write(State.trained, prompts_dropped=learner.prompts.dropped)
            speakers = learner.actors, learner.collector, learner.oracle, learner.held_out
            with learner.engine.whole():
                rows, right = evaluate(config, *speakers), accuracies(self.context, *speakers)
                if tracker is None:
                    return {}
                write_rows(run.path / EVALUATION, rows)
                export_policy(learner.actors, config.model.lora, run.path)
            took = round(seconds_of_steps(run.path) - before, 3)
            session = {"steps": config.steps - first, "step_seconds": took}
            seconds = before + time.monotonic() - started
            results = write_results(run, config, self.key, report(rows), seconds, right)
            if config.run.figures:
                write_figures(run.path)
            session["all_seconds"] = round(seconds - before, 3)
            run.write(State.complete, exports=hash_exports(run.path), session=session)
            figures = self.figures_before()
            dropped = self.context.corpus.dropped
            lost = left_out(dropped.counts, dropped.filtered, figures, learner.prompts.dropped)
            tracker.close(headline(results) | stage_numbers(figures) | rows_left_out(lost))
        return results

    def _learner(self, run: RunFolder, world: World, newest: Path | None) -> Learner:
        """The learner at the newest checkpoint, or at the start."""
        config, context = self.context.config, self.context
        parents = self.parents()
        start = critic_role(config)
        actors = load_actors(
            config,
            context.store.get(parents["sft"]).path,
            None if start is None else context.store.get(parents[start]).path,
            world.shards(),
        )
        with noting() as read_models:
            judge = open_panel(config.judge, config.scorer, given_of(context), actors)
        read = {role for each in (config.judge, config.scorer) for role in each.passes()}
        sizes = {
            role: stored_parameters(context.store.get(parents[role]).path)
            for role in read & parents.keys()
        }
        prompts, held_out = (self.prompts(split, actors) for split in ("rl", "eval"))
        compute = Compute.of(config, actors, sizes)
        oracle = load_oracle(self.made("oracle")) if config.oracle.enabled else None
        around = RunInputs(prompts, held_out, run.path, compute, oracle, read_models())
        learner = Learner(config, actors, judge, around, world)
        if newest is not None:
            learner.resume(newest, Checkpoints.progress(newest))
            if world.is_main:
                say(f"rl {self.key}: continues at step {learner.next_step}")
        return learner

    def _tracker(self, run: RunFolder, learner: Learner, newest: Path | None) -> Tracker | None:
        """The log of the run, cut to where the learner stands; None but in the main process."""
        if not learner.world.is_main:
            return None
        config = self.context.config
        tracker = Tracker(
            run.path,
            labelled(config, self.name),
            self.key,
            f"{config.run.scheme or type(config.reward_scheme).__name__} seed {config.seed}",
            facts(config, self.key),
            None if newest is None else Checkpoints.progress(newest).offsets,
            config.steps,
            learner.next_step,
        )
        tracker.curves(curves_of(self.figures_before()))
        return tracker

    def _write_identity(self, run: RunFolder, newest: Path | None) -> None:
        config = self.context.config
        now = config.hardware.arithmetic()
        if newest is not None and config.run.resume_inexact:
            run.mark_inexact(Checkpoints.progress(newest).next_step, now)
        code = keep_code(config.named_code(), run.path)
        ahead = horizon(config.judge, config.reward_scheme)
        run.write(
            State.running,
            key=self.key,
            identity=canonical(self.identity),
            arithmetic=now,
            hardware=canonical(config.hardware),
            recipes=self.recipes,
            seeds={"seed": config.seed, "stage_seed": config.stage_seed},
            fingerprints=self.context.corpus.fingerprints,
            parents={role: parent.key for role, parent in self.parents().items()},
            weights={role: self.context.store.sha256(s) for role, s in self.parents().items()},
            dropped=dict(self.context.corpus.dropped.counts),
            filtered=dict(self.context.corpus.dropped.filtered),
            figures=self.figures_before(),
            failed=None,
            exports=None,
            **({"code": code} if code else {}),
            **({"horizon": ahead} if ahead else {}),
        )
        write_text(run.path / CONFIG, dump(config))

    def prompts(self, split: str, actors: Actors) -> PromptStream:
        """The prompts of one split of the data, as the policy reads them."""
        config = self.context.config
        records = self.context.corpus.parts[split]
        ids = TokenIds(actors.tokenizer, config.dataset.special_tokens)
        return self.context.prompts(records, ids)


def is_run(stage: Stage) -> TypeGuard[RLStage]:
    """Whether a stage is a run, told by what it says of itself."""
    return stage.is_run


def _tell_damage(run: RunFolder) -> None:
    """Say which file of a complete run is why its end is computed again."""
    damage = run.damage()
    if damage is not None:
        say(f"rl: {run.path} is damaged ({damage}); it is made again from the last checkpoint")
