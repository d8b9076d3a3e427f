"""One stage before RL in several processes: all train, DeepSpeed divides, one of them writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from tokencredit.console import say
from tokencredit.errors import require
from tokencredit.fields import key_of
from tokencredit.rl.world import Team, check_kind
from tokencredit.rl.zero import take_off
from tokencredit.store.artifacts import Buildable, Store

if TYPE_CHECKING:
    from transformers import Trainer

    from tokencredit.hardware import Hardware
    from tokencredit.training_settings import Training

T = TypeVar("T")
_joined: list[Team] = []


class Relieved(Exception):
    """What is left to do of a stage the main process does alone."""


class _Led:
    """A stage whose work the main process begins in all processes."""

    def __init__(self, stage: Buildable, team: Team) -> None:
        self.name, self.key, self.identity = stage.name, stage.key, stage.identity
        self.stage, self.team, self.begun = stage, team, False

    def run(self, out: Path) -> Mapping[str, object]:
        """As the stage's own."""
        self.begun = self.team.broadcast(True)
        return self.stage.run(out)


def build_together(stage: Buildable, store: Store, hardware: Hardware) -> None:
    """Build the artifact of `stage` in several processes, each of which calls this, unless it is
    there.

    The main process holds the lock and writes. The others say nothing, and end where the model is
    trained; what they write until then goes nowhere.
    """
    team = Team(hardware)
    _joined.append(team)
    try:
        if team.is_main:
            led = _Led(stage, team)
            store.build(led)
            if not led.begun:
                team.broadcast(False)
        elif team.broadcast(False):
            with (
                TemporaryDirectory() as out,
                Path(os.devnull).open("w", encoding="utf-8") as nowhere,
                redirect_stderr(nowhere),
                suppress(Relieved),
            ):
                stage.run(Path(out))
    finally:
        _joined.clear()


def joined() -> Team | None:
    """The processes that build the stage of this process together; None if it builds it alone."""
    return _joined[0] if _joined else None


def check_share(settings: Training, processes: int) -> int:
    """How many sequences of a batch each process has; raises `UserError` where they do not share
    them evenly, in whole passes."""
    key, batch = key_of(settings, "batch_size"), settings.batch_size
    require(
        batch % processes == 0,
        key,
        batch,
        f"hardware.processes = {processes} cannot have equally many of these sequences; set {key} "
        "to a multiple of it, or use fewer processes",
    )
    share, micro = batch // processes, settings.micro_batch_size
    require(
        micro is None or share % min(micro, share) == 0,
        key_of(settings, "micro_batch_size"),
        micro,
        f"each of hardware.processes = {processes} has {share} of {key} = {batch} sequences, which "
        "are no whole number of passes; set it to a divisor of that",
    )
    return share


def divided(common: Mapping[str, object], settings: Training, team: Team) -> dict[str, object]:
    """A trainer's arguments `common`, made those of one of several processes: all of them together
    take the sequences of a batch."""
    share = check_share(settings, team.size)
    micro = min(settings.micro_batch_size or share, share)
    return {
        **common,
        **team.arguments(),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "bf16": False,  # DeepSpeed would make the weights bfloat16, not the computation alone
    }


def prepare(trainer: Trainer, what: str, team: Team, *, bf16: bool) -> None:
    """Let a trainer of several processes read the batches that one would, in the number format that
    was asked for; raise unless DeepSpeed divides its model."""
    check_kind(trainer.accelerator)
    say(
        f"{what}: {team.size} processes under DeepSpeed ZeRO-{team.hardware.zero_stage}; nothing "
        "is saved on the way, so an interruption starts it over"
    )
    draw = trainer._get_train_sampler  # noqa: SLF001

    def sampler(*arguments: object) -> object:
        found = draw(*arguments)
        return _one_order(found, team) if hasattr(found, "batch_size") else found

    trainer._get_train_sampler = sampler  # noqa: SLF001
    if bf16:
        plain, kind = trainer.model.forward, team.device.type
        trainer.model.forward = torch.autocast(kind, torch.bfloat16)(plain)


class Grouping(Protocol):
    """What draws an order of sequences, those of similar length together."""

    batch_size: int
    """Sequences that are grouped."""

    def __len__(self) -> int:
        """How many it draws."""

    def __iter__(self) -> Iterator[int]:
        """Draw."""


def _one_order(drawn: Grouping, team: Team) -> torch.utils.data.Sampler[int]:
    """What groups sequences by length, over the batch of all processes; the main process draws."""
    drawn.batch_size *= team.size

    class Sampler(torch.utils.data.Sampler[int]):
        """The order that one process alone would have."""

        def __len__(self) -> int:
            return len(drawn)

        def __iter__(self) -> Iterator[int]:
            return iter(team.broadcast(list(drawn)))

    return Sampler()


def through(trainer: Trainer, model: torch.nn.Module, compute: Callable[[Any], T]) -> T:
    """`compute` of the trainer's plain model, as a forward pass of `model`, which may wrap it."""
    plain = trainer.accelerator.unwrap_model(model)
    if plain is model:
        return compute(model)
    before = vars(plain).get("forward")

    def forward() -> T:
        restore()  # `compute` may want the real one
        return compute(plain)

    def restore() -> None:
        if before is None:
            vars(plain).pop("forward", None)
        else:
            plain.forward = before

    plain.forward = forward
    try:
        found: T = model()
    finally:
        restore()
    return found


def finish(trainer: Trainer, losses: list[float], loss: float, team: Team) -> list[float]:
    """The main process's model whole and plain again, and the means over all processes of the
    losses of each step, with the mean of all steps behind them.

    Raises `Relieved` in the other processes.
    """
    each = team.gather([[*losses, loss]])
    frozen = getattr(trainer, "ref_model", None)
    for wrapped in (trainer.model_wrapped, frozen):
        if wrapped is not None and hasattr(wrapped, "destroy"):  # DeepSpeed's engine
            take_off(wrapped, keep=team.is_main)
    team.load_whole()
    if not team.is_main:
        raise Relieved
    return [sum(values) / team.size for values in zip(*each, strict=True)]
