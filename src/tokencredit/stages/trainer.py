"""The one way of supervised training: a borrowed trainer, its arguments, its run, its figures."""

from __future__ import annotations

import atexit
import math
import operator
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from tokencredit.algorithms.optimizer import Schedule
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import in_float32
from tokencredit.stages.saves import Saves, Saving
from tokencredit.stages.together import divided, finish, joined, prepare
from tokencredit.store.finite import first_not_finite
from tokencredit.tracking.progress import Progress
from tokencredit.training_settings import Training

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DataCollator, PreTrainedModel, Trainer, TrainerCallback

    from tokencredit.config import Config


Arguments = dict[str, Any]
"""Of transformers' TrainingArguments, and of TRL's configs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedRun:
    """The training of one stage: by which settings, with which seed, and where."""

    key: str
    """The section of the configuration that holds its settings; errors and progress name it."""
    settings: Training
    out: Path
    """The stage's folder; the trainer makes one in it and leaves none."""
    seed: int
    on_cpu: bool
    saving: Saving
    """Where it is saved on the way, and goes on after an interruption."""

    @classmethod
    def of(cls, config: Config, key: str, out: Path, seed: int) -> Self:
        """The run that a section of a configuration describes: "sft", "judge.training"."""
        settings, on_cpu = operator.attrgetter(key)(config), config.hardware.on_cpu()
        saving = Saving.of(config, out)
        return cls(key=key, settings=settings, out=out, seed=seed, on_cpu=on_cpu, saving=saving)

    def steps(self, sequences: int, tokens: float) -> int:
        """Optimizer steps on so many sequences, of so many tokens each."""
        return step_count(self.settings, sequences, tokens)

    def fit(
        self,
        steps: int,
        build: Callable[[Arguments], Trainer],
        about: Mapping[str, object] | None = None,
    ) -> tuple[PreTrainedModel, dict[str, object]]:
        """The trained model, adapters unmerged, and the figures of its training.

        `build` makes the trainer (of transformers or TRL) from the arguments that all have in
        common. `about` are figures of the data; they stand behind the number of steps.
        """
        arguments = trainer_settings(self.settings, self.out, self.seed, self.on_cpu, steps)
        team = joined()
        if team is not None:
            arguments = divided(arguments, self.settings, team)
        trainer = build(arguments)
        in_float32(trainer.model)
        if team is not None:
            prepare(trainer, self.key, team, bf16=self.settings.bf16)
        return trainer.model, {
            "steps": steps,
            **(about or {}),
            **train(trainer, self.key, self.saving),
        }

    def fit_rows(
        self, model: PreTrainedModel, rows: Sequence[Mapping[str, Any]], collator: DataCollator
    ) -> tuple[PreTrainedModel, dict[str, object]]:
        """As `fit`, with transformers' Trainer and the loss that the model itself has.

        Each row holds `input_ids` and what the model learns of them, mostly `labels`. Rows of
        similar length are read together.
        """
        from transformers import Trainer, TrainingArguments

        if not rows:
            raise UserError(f"{self.key}: there is no text to learn from; use other data")

        def build(common: Arguments) -> Trainer:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(**common, train_sampling_strategy="group_by_length"),
                train_dataset=rows,
                data_collator=collator,
            )
            if isinstance(rows[0]["labels"], int):
                # A classifier's loss is the mean of the rows of one pass. The trainer would take it
                # for one that is divided by the labels of the whole batch, and so add the passes of
                # micro_batch_size up, and multiply it by the processes.
                trainer.model_accepts_loss_kwargs = False
            return trainer

        tokens = sum(len(row["input_ids"]) for row in rows) / len(rows)
        return self.fit(self.steps(len(rows), tokens), build)


def seed_generators(seed: int) -> None:
    """Start all global generators at `seed`: fresh heads and adapters are drawn before a borrowed
    trainer sets them itself."""
    from transformers import set_seed

    set_seed(seed % 2**31)


def trainer_settings(
    training: Training, out: Path, seed: int, on_cpu: bool, steps: int
) -> Arguments:
    """Arguments for TrainingArguments and TRL's configs; what they default to silently is set."""
    micro = training.micro_batch_size or training.batch_size
    return {
        "output_dir": str(out / "trainer"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": training.batch_size // micro,
        "max_steps": steps,
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "warmup_steps": warmup_steps(training, steps),
        "lr_scheduler_type": training.schedule.value,
        "max_grad_norm": training.max_grad_norm,
        "seed": seed % 2**31,
        "data_seed": seed % 2**31,
        "bf16": training.bf16,
        "fp16": False,
        "use_cpu": on_cpu,
        "activation_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_strategy": "no",
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def step_count(training: Training, sequences: int, tokens_per_sequence: float) -> int:
    """Optimizer steps of a stage: its epochs, cut at `max_tokens` and at `max_steps`."""
    per_epoch = sequences / training.batch_size
    steps = per_epoch * training.epochs
    if training.max_tokens is not None:
        steps = min(steps, training.max_tokens / (training.batch_size * tokens_per_sequence))
    if training.max_steps is not None:
        steps = min(steps, training.max_steps)
    return max(1, math.floor(steps))


def warmup_steps(training: Training, steps: int) -> int:
    """Of so many steps, those in which the learning rate rises."""
    return math.ceil(training.warmup_fraction * steps)


def may_only_warm_up(training: Training, sequences: int, longest: float) -> bool:
    """Whether the warm-up can take all steps of a stage.

    It has at least so many sequences, of at most `longest` tokens each; more steps only make the
    warm-up's share smaller.
    """
    fewest = step_count(training, sequences, longest)
    return training.schedule is not Schedule.constant and warmup_steps(training, fewest) >= fewest


def train(trainer: Trainer, stage: str, saving: Saving | None = None) -> dict[str, object]:
    """Run a borrowed trainer without its chatter; its mean `loss`, and the `curve` of it.

    With `saving` it is saved on the way, and goes on from the newest save if there is one; figures
    then speak of all steps, and `resumed_inexact` marks those that other settings computed in part.
    Several processes save nothing; in all but the main one this ends with `Relieved`. Raises
    UserError where loss or weights are not finite afterwards, or no weight has moved.
    """
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # prints raw dictionaries
    team = joined()
    if team is None or team.is_main:
        trainer.add_callback(progress_callback(stage.replace("_", " ")))
    _rise_from_above_zero(trainer)
    before, curve = _bits(trainer.model), LossCurve(trainer)
    start = {"section": stage, "seed": trainer.args.seed, "steps": trainer.args.max_steps}
    saves = None
    if team is None and saving is not None:
        saves = Saves(saving, trainer, curve, {**start, "bits": before})
    begin = None if saves is None else saves.attach()
    loss = float(trainer.train(resume_from_checkpoint=begin).metrics["train_loss"])
    if team is not None:
        *losses, loss = finish(trainer, curve.so_far(), loss, team)
        curve.go_on(losses)
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # made, and left empty
    if not math.isfinite(loss):
        raise UserError(f"{stage}: the training loss is {loss}; lower {stage}.learning_rate")
    tensor = first_not_finite(trainer.model.named_parameters())
    if tensor is not None:
        raise UserError(
            f"{stage}: the tensor {tensor} is not finite after training; lower "
            f"{stage}.learning_rate"
        )
    if _bits(trainer.model) == before:
        raise UserError(
            f"{stage}: no weight has moved in {trainer.args.max_steps} step(s); raise "
            f"{stage}.learning_rate (steps that are small beside a weight are lost where "
            f"model.dtype=bfloat16), raise {stage}.max_tokens or {stage}.epochs, or look for texts "
            "of which nothing is learnt"
        )
    marked = {} if saves is None or saves.exact else {"resumed_inexact": True}
    return {"loss": loss, "curve": curve.points(), **marked}


def _rise_from_above_zero(trainer: Trainer) -> None:
    """Where the warm-up takes all steps, step k of W has (k + 1) / (W + 1) of the learning rate.

    transformers gives it k / W: then the only step of a stage of one step learns nothing.
    """
    args = trainer.args
    warmup, steps = args.warmup_steps, args.max_steps
    if args.lr_scheduler_type == Schedule.constant.value or warmup < steps:
        return
    from torch.optim.lr_scheduler import LambdaLR

    def schedule(**_: object) -> None:
        trainer.lr_scheduler = LambdaLR(trainer.optimizer, lambda step: (step + 1) / (warmup + 1))

    if joined() is not None:  # the optimizer is DeepSpeed's, and comes later
        trainer.create_scheduler = schedule
        return
    trainer.create_optimizer()
    schedule()


def _bits(model: torch.nn.Module) -> dict[str, int]:
    """The sum of the bit patterns of each tensor that is trained: other weights, another sum."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: int(tensor.detach().view(whole[tensor.element_size()]).sum(dtype=torch.int64))
        for name, tensor in model.named_parameters()
        if tensor.requires_grad
    }


POINTS: Final = 200
"""Most points of a curve that is kept; of longer stages each is a mean over several steps."""


class LossCurve:
    """The training loss of each optimizer step.

    It looks on: the trainer's own logging would add its losses up in another order.
    """

    def __init__(self, trainer: Any) -> None:
        """Watch `trainer`, which has not begun."""
        self._losses: dict[int, Tensor | float] = {}
        inner = trainer.training_step

        def training_step(*arguments: Any, **options: Any) -> Tensor:
            loss: Tensor = inner(*arguments, **options)
            step = int(trainer.state.global_step)  # a step has as many losses as passes
            part = loss.detach()
            self._losses[step] = self._losses[step] + part if step in self._losses else part
            return loss

        trainer.training_step = training_step

    def so_far(self) -> list[float]:
        """The loss of each step that was taken."""
        return [float(self._losses[step]) for step in sorted(self._losses)]

    def go_on(self, losses: list[float]) -> None:
        """Take over the losses of the steps before, of a training that goes on behind them."""
        self._losses = dict(enumerate(losses))

    def points(self) -> Mapping[str, list[Any]]:
        """`step`, the number of steps done, and `loss`, the mean since the point before."""
        losses = self.so_far()
        width = -(-len(losses) // POINTS) or 1
        parts = [losses[start : start + width] for start in range(0, len(losses), width)]
        ends = [min((place + 1) * width, len(losses)) for place in range(len(parts))]
        return {"step": ends, "loss": [sum(part) / len(part) for part in parts]}


def progress_callback(label: str, seconds_between: float = 5.0) -> TrainerCallback:
    """A callback that shows a trainer's progress: a live bar on a terminal, else a line with the
    time left every few seconds."""
    from transformers import TrainerCallback

    class Shown(TrainerCallback):  # type: ignore[misc]
        """Steps done, of how many, and the time left."""

        started = last = 0.0
        first = 0
        bar: Progress | None = None

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
            self.started = self.last = time.monotonic()
            self.first = state.global_step  # above 0 where it goes on from a save
            bar = Progress(state.max_steps, self.first, label)
            if bar.is_live:
                self.bar = bar.__enter__()
                atexit.register(bar.close)  # an error must not leave the terminal without cursor

        def on_step_end(self, _args: Any, state: Any, _control: Any, **__: Any) -> None:
            if self.bar is not None:
                self.bar.update(state.global_step - 1, {})
                return
            now = time.monotonic()
            if now - self.last < seconds_between and state.global_step < state.max_steps:
                return
            self.last = now
            each = (now - self.started) / (state.global_step - self.first)
            left = each * (state.max_steps - state.global_step)
            say(f"{label}: step {state.global_step}/{state.max_steps}, {left:.0f} s left")

        def on_train_end(self, *_: Any, **__: Any) -> None:
            if self.bar is not None:
                self.bar.close()

    return Shown()
