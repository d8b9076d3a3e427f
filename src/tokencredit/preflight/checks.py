"""What is wrong with a run and can be known before any work: `plan` and `train` ask alike.

Each check reads the configuration, headers of files, or the first records; none loads weights.
A new one is a function that raises `UserError`, listed in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tokencredit.console import say
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import long_texts
from tokencredit.data.splits import Corpus
from tokencredit.errors import nearest, require
from tokencredit.hardware import Sharding
from tokencredit.judges.function import FunctionJudge
from tokencredit.models.loading.model import Dtype
from tokencredit.papers.entries import claim_names
from tokencredit.preflight.lengths import check_lengths, prompts_of
from tokencredit.preflight.models import check_models, open_run
from tokencredit.stages.context import Context
from tokencredit.stages.evaluation import is_evaluation
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.speech import check_template, say_spelt
from tokencredit.stages.stage import Stage
from tokencredit.stages.supervised import check_report_folder
from tokencredit.stages.together import check_share
from tokencredit.store.artifacts import check_writable
from tokencredit.tracking.wandb_mirror import check_key

UNRATED: Final = "; or end without an evaluation (oracle.enabled=false)"
Check = Callable[[Context, Sequence[Stage]], None]


def check(context: Context, stages: Sequence[Stage]) -> None:
    """Raise `UserError` for the first thing that would make the run fail; `stages` in order."""
    for each in CHECKS:
        each(context, stages)


def check_machine(context: Context, stages: Sequence[Stage]) -> None:
    """The configured device and packages are here, and can do what the algorithm asks."""
    config = context.config
    config.hardware.check()
    config.model.check()
    for key, chosen in (("dtype", config.model.dtype), ("autocast", config.model.autocast)):
        require(
            chosen.value != "bfloat16" or config.hardware.has_bfloat16(),
            f"model.{key}",
            chosen.value,
            "this GPU does not multiply it; use "
            + ("float32" if key == "dtype" else "model.autocast=none"),
        )
    warmup = getattr(config.algorithm, "value_warmup", 0)
    require(
        warmup == 0 or config.hardware.sharding is Sharding.none,
        "algorithm.value_warmup",
        warmup,
        "cannot train the value function alone where the optimizer's state is sharded; use "
        "hardware.sharding=none",
    )


def check_masters(context: Context, stages: Sequence[Stage]) -> None:
    """What is trained has weights, or copies of them, in which small steps are not lost."""
    config = context.config
    kept = (
        config.model.dtype is Dtype.float32
        or config.model.lora.enabled  # adapters are float32
        or config.hardware.sharding is not Sharding.none
    )
    trains = any(not each.is_there() and (each.is_run or each.training) for each in stages)
    require(
        kept or not trains,
        "model.dtype",
        config.model.dtype.value,
        "steps smaller than 1/256 of a weight would be lost, as nothing keeps float32 copies of "
        "what is trained; use model.dtype=float32 with model.autocast=bfloat16, or "
        "model.lora.enabled=true, or hardware.sharding=zero1, zero2, or zero3",
    )


def check_batches(context: Context, stages: Sequence[Stage]) -> None:
    """The processes of each stage that is still to be trained can share its batches."""
    for stage in stages:
        count, settings = context.config.hardware.processes_of(stage.name), stage.training
        if not stage.is_run and count > 1 and settings is not None and not stage.is_there():
            check_share(settings, count)


def check_primary(context: Context, stages: Sequence[Stage]) -> None:
    """The claim that the run is for is one of the catalogue."""
    named = context.config.run.primary
    if named is not None:
        known = claim_names()
        rule = (
            f"must be null or a claim of the catalogue{nearest(named, known)}: {', '.join(known)}"
        )
        require(named in known, "run.primary", named, rule)


def check_places(context: Context, stages: Sequence[Stage]) -> None:
    """Everything that will be written can be, and the run's folder is the run's own."""
    config = context.config
    check_writable(context.store.root, "store")
    for stage in stages:
        stage.check_place()
    if config.experiments_dir is not None and config.run.experiment is not None:
        check_writable(Path(config.experiments_dir).expanduser(), "experiments_dir")
    run = open_run(stages)
    if run is not None:
        run.check_folder()
    elif not stages[-1].is_run:
        check_report_folder(stages[-1])


def check_tracking(context: Context, stages: Sequence[Stage]) -> None:
    """A run that must be mirrored has a key for that."""
    if open_run(stages) is not None or not stages[-1].is_run:
        check_key(context.config.tracking)


def check_judges(context: Context, stages: Sequence[Stage]) -> None:
    """Judge and scorer find what they name."""
    if open_run(stages) is not None:
        config = context.config
        config.reward_scheme.check()
        config.judge.check()
        config.scorer.check()
        if isinstance(config.judge, FunctionJudge):
            config.judge.check_pays(config.reward_scheme)


def check_speech(context: Context, stages: Sequence[Stage]) -> None:
    """The chat templates of all models that read the data take its conversations."""
    model = context.config.model
    sources = [model.policy] * any(isinstance(stage, SFTStage) for stage in stages)
    judges = [stage for stage in stages if isinstance(stage, RewardModelStage)]
    sources += [model.reward_source()] * any(judge.measures() for judge in judges)
    for source in sources:
        check_template(context, source)
    if sources:
        say_spelt(context, sources[0])


def check_records(context: Context, stages: Sequence[Stage]) -> None:
    """There are prompts to train and to evaluate on; what was left out of the data is said once."""
    corpus, spec = context.corpus, context.config.dataset.prompt
    count = corpus.dropped.counts.total()
    if count and not corpus.dropped.told:
        corpus.dropped.told = True
        say(f"dataset: {count} unusable records are left out ({corpus.dropped.summary()})")
    if is_evaluation(stages[-1]):
        context.config.check_room(UNRATED)
    for split in prompts_of(stages[-1]):
        _count_long(corpus, split, spec)


def _count_long(corpus: Corpus, split: str, spec: PromptSpec) -> int:
    """Texts of a split that prompts can be cut from; raises `UserError` where there is none."""
    question = f"texts of {split} of more than {spec.min_characters} characters"
    return corpus.ask(question, lambda: len(long_texts(corpus.parts[split], spec)))


CHECKS: Final[tuple[Check, ...]] = (
    check_machine,
    check_masters,
    check_batches,
    check_primary,
    check_places,
    check_tracking,
    check_judges,
    check_records,
    check_models,
    check_speech,
    check_lengths,
)
