"""From where the training of a stage goes on: saves beside its artifact, complete or absent.

A borrowed trainer's own checkpoints lack three things that these have: exactly the weights that it
trains (adapters on quantised weights too), the generator of the epoch's order, the losses so far.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import torch

from tokencredit.canonical import digest, folder_sha256
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.machine.child import tell_saving
from tokencredit.machine.faults import fault
from tokencredit.machine.stopping import Stopped, request
from tokencredit.store.artifacts import MANIFEST, SAVE_STATE, SAVES, find_damage
from tokencredit.store.files import building, read_json, reading, write_json

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainerState

    from tokencredit.config import Config

TRAINED: Final = "trained.pt"
ORDER: Final = "order.pt"
OPTIMIZER: Final = "optimizer.pt"  # this name and the next two are transformers'
SCHEDULE: Final = "scheduler.pt"
TRAINER_STATE: Final = "trainer_state.json"


class Losses(Protocol):
    """What watches the losses of a training."""

    def so_far(self) -> list[float]:
        """The loss of each optimizer step that was taken."""

    def go_on(self, losses: list[float]) -> None:
        """Take over the losses of the steps before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Where and how often the training of a stage is saved, and what decides its last bits."""

    what: str
    """The stage and its key, as lines name it."""
    folder: Path
    """Beside the artifact that is being built, and named by the same key."""
    minutes: float | None
    """Between two saves; None: never."""
    arithmetic: Mapping[str, object]
    """The settings of the hardware that change the last bits."""
    inexact: bool
    """Whether it may go on with others."""

    @classmethod
    def of(cls, config: Config, out: Path) -> Self:
        """That of a stage which writes its result into `out`."""
        return cls(
            what=f"{out.parent.name} {out.stem}",
            folder=out.with_suffix(SAVES),
            minutes=config.run.save_minutes,
            arithmetic=config.hardware.stage_arithmetic(),
            inexact=config.run.resume_inexact,
        )

    def check_arithmetic(self, save: Path, before: Mapping[str, object]) -> bool:
        """Whether a save was made by the same arithmetic; raises if by another, unless allowed."""
        other = [name for name, now in self.arithmetic.items() if before.get(name) != now]
        if not other or self.inexact:
            return not other
        name = other[0]
        raise UserError(
            f"hardware.{name} = {self.arithmetic[name]}: the save {save} began with "
            f"{before.get(name)}, and another value changes the last bits; set "
            f"hardware.{name}={before.get(name)}, or run.resume_inexact=true to go on all the "
            f"same, or delete {self.folder} to start over"
        )


class Saves:
    """The saves of one training. Only the newest complete one is kept."""

    def __init__(
        self, saving: Saving, trainer: Trainer, losses: Losses, start: Mapping[str, object]
    ) -> None:
        """Of `trainer`, which has not begun. A training that begins with another `start` (its
        weights, its seed, its steps) has other saves, though a stage may have several."""
        self.saving, self.trainer, self.losses = saving, trainer, losses
        self.root = saving.folder / digest(start)
        self.exact = True
        """Whether all steps were computed by the same arithmetic."""
        self.first = 0
        """The step from which it goes on."""
        self._loss = self._seconds = 0.0
        self._order: torch.Tensor | None = None
        self._began = time.monotonic()

    def attach(self) -> str | None:
        """Let the trainer save; the folder from which it is to go on, None for the beginning."""
        save = self.newest()
        if save is not None:
            self._take_over(save)
        self.trainer.add_callback(_callback(self))
        return None if save is None else str(save)

    def newest(self) -> Path | None:
        """The newest save that is complete and undamaged; None if there is none."""
        damaged = False
        for folder in sorted(self.root.glob("step-??????"), reverse=True):
            damage = find_damage(folder)
            if damage is None:
                return folder
            damaged = True
            say(f"{self.saving.what}: the save {folder.name} is damaged ({damage})")
        if damaged:
            say(f"{self.saving.what}: no other save is left, so it starts over")
        return None

    def _take_over(self, save: Path) -> None:
        state = read_json(save / SAVE_STATE)
        with reading(save / SAVE_STATE):
            same = self.saving.check_arithmetic(save, state["arithmetic"])
            self.exact = bool(state["exact"]) and same
            self.first = int(state["step"])
            self._loss, self._seconds = float(state["loss"]), float(state["seconds"])
            self.losses.go_on(state["losses"])
        self._order = torch.load(save / ORDER, weights_only=True)
        # Else the trainer would read a whole model, and overlook what is missing in it.
        self.trainer._load_from_checkpoint = self._load_weights  # noqa: SLF001

    def _load_weights(self, folder: str, _model: object = None) -> None:
        trained = self._trained()
        saved = torch.load(Path(folder) / TRAINED, map_location="cpu", weights_only=True)
        if {n: t.shape for n, t in trained.items()} != {n: t.shape for n, t in saved.items()}:
            raise UserError(
                f"{folder}: holds other weights than this stage trains; delete {self.saving.folder}"
            )
        for name, tensor in trained.items():
            tensor.copy_(saved[name])

    def _trained(self) -> dict[str, torch.Tensor]:
        """Every tensor that training changes, tied ones once."""
        named = self.trainer.model.named_parameters()
        return {name: parameter.data for name, parameter in named if parameter.requires_grad}

    def begin(self) -> None:
        """Let the trainer's mean loss be that of all steps; called before the first of these."""
        self._began = time.monotonic()
        if not self.first:
            return
        trainer = self.trainer
        trainer._tr_loss = torch.full_like(trainer._tr_loss, self._loss)  # noqa: SLF001
        # Steps whose losses the sum lacks, by the trainer's own account.
        assert trainer._initial_global_step == trainer._globalstep_last_logged == self.first  # noqa: SLF001
        trainer._initial_global_step = trainer._globalstep_last_logged = 0  # noqa: SLF001
        say(f"{self.saving.what}: continues at step {self.first} of {trainer.state.max_steps}")

    def begin_epoch(self) -> None:
        """Let an epoch that is gone on with have its order again, drawn as it was at first."""
        if self._order is not None and self.trainer.state.global_step == self.first:
            torch.set_rng_state(self._order)
        self._order = torch.get_rng_state()

    def stop(self) -> Stopped:
        """What ends the training because it was asked to, behind the step that it has taken."""
        state = self.trainer.state
        if self.saving.minutes is None:
            return Stopped("begins again, since run.save_minutes=null keeps no saves")
        if not self.save():
            return Stopped("was not saved, and goes on from the save before, if there is one")
        return Stopped(f"is saved behind step {state.global_step} of {state.max_steps}")

    def save(self) -> bool:
        """Write a save beside the older ones, then remove those; whether that went well.

        A full disk is said, and the training goes on without this save.
        """
        final = self.root / f"step-{self.trainer.state.global_step:06d}"
        try:
            with building(final.with_suffix(".partial"), final) as partial:
                self._write(partial)
        except Exception as error:
            known = fault(error, final)
            if known is None:
                raise
            say(f"{self.saving.what}: {final.name} is not saved: {known}")
            return False
        for older in self.root.iterdir():
            if older != final:
                shutil.rmtree(older, ignore_errors=True)
        return True

    def _write(self, folder: Path) -> None:
        trainer = self.trainer
        # Behind the last step of an epoch the next order is drawn, from where the generator stands.
        ended = float(trainer.state.epoch).is_integer()
        order = torch.get_rng_state() if ended else self._order
        torch.save(order, folder / ORDER)
        torch.save(self._trained(), folder / TRAINED)
        torch.save(trainer.optimizer.state_dict(), folder / OPTIMIZER)
        torch.save(trainer.lr_scheduler.state_dict(), folder / SCHEDULE)
        trainer._save_rng_state(str(folder))  # noqa: SLF001
        trainer.state.save_to_json(str(folder / TRAINER_STATE))
        state = {
            "schema_version": 1,
            "step": trainer.state.global_step,
            "loss": float(trainer._tr_loss),  # noqa: SLF001
            "losses": self.losses.so_far(),
            "arithmetic": dict(self.saving.arithmetic),
            "exact": self.exact,
            "seconds": self._seconds + time.monotonic() - self._began,
        }
        # A loss that is no number is judged at the end, as in a training that goes on.
        write_json(folder / SAVE_STATE, state, nan=True)
        write_json(folder / MANIFEST, {"schema_version": 1, "sha256": folder_sha256(folder)})


def _callback(saves: Saves) -> TrainerCallback:
    """What a trainer calls on the way."""
    from transformers import TrainerCallback

    asked = request()

    class Saver(TrainerCallback):  # type: ignore[misc]
        """Saves when enough minutes have gone by, or it is to stop; never behind the last step."""

        taken, last = 0, 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            tell_saving(now=True)  # to its end: what is trained is soon complete
            saves.begin()
            self.last = time.monotonic()

        def on_epoch_begin(self, *_: object, **__: object) -> None:
            saves.begin_epoch()

        def on_step_end(
            self, _args: object, state: TrainerState, _control: object, **_: object
        ) -> None:
            self.taken += 1
            minutes = saves.saving.minutes
            if state.global_step >= state.max_steps:
                return
            if asked.asked:
                raise saves.stop()
            if minutes is not None and time.monotonic() - self.last >= 60 * minutes:
                saves.save()
                self.last = time.monotonic()

        def on_train_end(
            self, _args: object, state: TrainerState, _control: object, **_: object
        ) -> None:
            if saves.first:
                say(
                    f"{saves.saving.what}: continued at step {saves.first}, took {self.taken} of "
                    f"{state.max_steps} steps"
                )

    return Saver()
