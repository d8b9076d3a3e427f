"""A model that learnt without rollouts, evaluated as the policy of a finished run is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final, TypeGuard

from tokencredit.console import say_once
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.rl.collector import Collector
from tokencredit.rl.evaluate import evaluate, report, unpaid
from tokencredit.rl.load import load_finished
from tokencredit.rl.world import World, compute_deterministically
from tokencredit.stages.catalogue import STAGES
from tokencredit.stages.oracle import OracleStage, load_oracle
from tokencredit.stages.results import Record, called
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.scorers import accuracies
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import MANIFEST, Plan, processor
from tokencredit.store.files import read_json, write_rows
from tokencredit.store.run_folder import COMPLETE, EVALUATION, git_commit

POLICY: Final = "policy"
"""The role of the model that is evaluated."""


class EvaluationStage(Stage):
    """The answers of the model that a run ends with, and of the SFT model, to the held-out prompts
    of every run, in evaluation.jsonl; measures of them among its figures.

    Its key has no `seed`: the model has learnt by `stage_seed` alone.
    """

    name: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1

    @cached_property
    def trained(self) -> Stage:
        """The stage that made the model."""
        return STAGES[self.context.config.algorithm.ends_with](self.context)

    def parents(self) -> Mapping[str, Stage]:
        """The model, the one that it is compared with, and what rates both."""
        oracle = OracleStage(self.context)
        return {POLICY: self.trained, "sft": SFTStage(self.context), oracle.name: oracle}

    def inputs(self) -> Mapping[str, object]:
        """Prompts, and how they are answered; named as the inputs of a run are."""
        config, settings = self.context.config, self.context.config.evaluation
        measured = {"prompts": settings.prompts, "stream": settings.stream}
        return {
            "rollout": config.rollout,
            "prompt": config.dataset.prompt,
            "format": config.dataset.format,
            "special_tokens": config.dataset.special_tokens,
            "dtype": config.model.dtype,
            "autocast": config.model.autocast,
            "context": config.model.context,
            "evaluation": {**measured, "perplexity": settings.perplexity},
            "eval": self.context.corpus.fingerprints["eval"],
            **config.model.quantization_inputs(),
        }

    def plan(self) -> Plan:
        """As of every stage, with what it will cost."""
        config, plan = self.context.config, Stage.plan(self)
        count = min(config.evaluation.prompts, self.context.corpus.size("eval"))
        longest = config.rollout.longest
        models = " and by ".join(dict.fromkeys((self.trained.name, SFTStage.name)))
        cost = f"answers {count} held-out prompts twice, by {models}"
        return plan if plan.hit else replace(plan, remark=f"{cost}, in at most {longest} tokens")

    def run(self, out: Path) -> Mapping[str, object]:
        """Write a row for each prompt; return what a run's results.json has of its evaluation."""
        config, context, hardware = self.context.config, self.context, self.hardware
        compute_deterministically()
        actors = load_finished(config, self.made(POLICY), self.made("sft"))
        ids = TokenIds(actors.tokenizer, config.dataset.special_tokens)
        prompts = context.prompts(context.corpus.parts["eval"], ids)
        collector = Collector(World(hardware), unpaid, config.rollout.chunk)
        speakers = actors, collector, load_oracle(self.made(OracleStage.name)), prompts
        rows = evaluate(config, *speakers)
        write_rows(out / EVALUATION, rows)
        return {
            "evaluation": report(rows),
            "scorers": accuracies(context, *speakers),
            "git_commit": git_commit(),
            "processor": processor(),
            "arithmetic": hardware.arithmetic(),
        }

    @property
    def hardware(self) -> Hardware:
        """The run's, in one process."""
        return replace(self.context.config.hardware, processes=1, sharding=Sharding.none)

    def figures_before(self) -> dict[str, Record]:
        """Those of the model's stage too, by its own name."""
        oracle = self.parents()[OracleStage.name]
        own = {stage.name: stage.figures() for stage in (self.trained, oracle)}
        return {**self.trained.figures_before(), **own}

    def results(self) -> Record:
        """What results.json of a run holds, of a model without steps. Its seed is `stage_seed`, and
        its time that of the evaluation and of what trained the model from the SFT model on."""
        config, figures = self.context.config, self.figures()
        timed = {stage.name: stage for stage in (self, self.trained) if stage.name != SFTStage.name}
        seconds = sum(float(self._manifest(stage)["seconds"]) for stage in timed.values())
        return {
            **called(config, self.key, config.stage_seed),
            "status": COMPLETE,
            "steps": 0,
            "scale": config.run.scale,
            "git_commit": figures["git_commit"],
            "wall_seconds": round(seconds, 3),
            "scored_samples": self.scored_samples(),
            "metrics": {},
            "evaluation": figures["evaluation"],
            "scorers": figures["scorers"],
            **({} if config.run.primary is None else {"primary": config.run.primary}),
        }

    def scored_samples(self) -> int:
        """Responses that were scored to order the sampled pairs that the model has learnt from."""
        sampled = any(stage.name == SampledPairsStage.name for stage in _before(self.trained))
        return 2 * self.context.config.dpo.prompts if sampled else 0

    def provenance(self) -> Record:
        """What computed it, from what: as a committed cell keeps it."""
        figures, store = self.figures(), self.context.store
        steps = 0 if self.trained.name == SFTStage.name else self.trained.figures()["steps"]
        return {
            "environment": self._manifest(self)["environment"],
            "processor": figures["processor"],
            "arithmetic": figures["arithmetic"],
            "fingerprints": {"eval": self.context.corpus.fingerprints["eval"]},
            "parents": {
                role: {"key": parent.key, "sha256": store.sha256(parent)}
                for role, parent in self.parents().items()
            },
            "identity": self._manifest(self)["identity"],
            "recipes": self.recipes,
            "spent": {"optimizer_steps": steps},
        }

    def _manifest(self, stage: Stage) -> Record:
        return read_json(self.context.store.folder(stage) / MANIFEST)


def is_evaluation(stage: Stage) -> TypeGuard[EvaluationStage]:
    """Whether a stage is the evaluation of a model without rollouts."""
    return isinstance(stage, EvaluationStage)


def is_evaluated(stage: Stage) -> bool:
    """Whether a run that ends with `stage`, before RL, goes on to its evaluation: if that is a
    model that answers, and an oracle can rate it.

    An experiment whose data the oracle cannot learn from is refused, as one with rollouts is.
    """
    config, context = stage.context.config, stage.context
    if not stage.makes_policy or not config.oracle.enabled:
        return False
    context.corpus  # noqa: B018 - what is wrong with the data themselves is no matter of the oracle
    try:
        OracleStage(context).inputs()
    except UserError as error:
        if config.run.experiment is not None:
            raise
        say_once(f"evaluation: none, since there is no oracle to rate with ({error})")
        return False
    return True


def _before(stage: Stage) -> Iterator[Stage]:
    """All stages before one."""
    for parent in stage.parents().values():
        yield parent
        yield from _before(parent)
