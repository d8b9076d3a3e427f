"""Judges of a user's own class: called with care, and held to what every judge gives."""

from __future__ import annotations

from typing import Any

import torch

from tokencredit.errors import UserError
from tokencredit.judges.answers import Answers, asked_about
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.ops import keep
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.user_code.guard import guarded
from tokencredit.user_code.plugins import is_ours, place_of


def open_judge(
    judge: Judge, given: Given, actors: Live, *, scores: bool = True, evidence: bool = True
) -> OpenJudge:
    """The live judge, of which scores, or evidence, or both are read.

    Whatever a class of the user's does or returns, it works, or `UserError` names class and row.
    """
    kind = type(judge)
    if is_ours(kind):
        return judge.open(given, actors)
    what = f"{'judge' if evidence else 'scorer'} = {kind.__name__} (of {place_of(kind)})"
    seconds = given.seconds
    with guarded(what, seconds):
        opened: Any = judge.open(given, actors)
    if not callable(opened):
        raise UserError(
            f"{what}: open returned a value of type {type(opened).__name__}; return a function "
            "from a rollout to a Judgement"
        )
    meaning = judge.gives() if evidence else None

    def called(rollout: Rollout) -> Judgement:
        copy = rollout[torch.arange(len(rollout))]  # it may change tensors in place
        with guarded(what, seconds, asked_about(rollout.rows.tolist())):
            said: Any = opened(copy)
        if not isinstance(said, Judgement):
            raise UserError(
                f"{what}: returned a value of type {type(said).__name__}; return "
                "Judgement(scores=…, evidence=…) of tokencredit.rollout"
            )
        return _Held(what, rollout).judgement(said, scores, meaning)

    return called


class _Held:
    """Reads what was said of one batch of responses."""

    def __init__(self, what: str, rollout: Rollout) -> None:
        self.what, self.mask = what, rollout.response_mask
        self.rows = rollout.rows.tolist()

    def judgement(self, said: Judgement, scores: bool, meaning: Evidence | None) -> Judgement:
        """The judgement, detached and float32 on the device of the rollout; zero what is not read.

        That is the evidence where `meaning` is None.
        """
        notes = said.notes
        if notes is not None:
            if not isinstance(notes, Notes):
                raise self._unfit(f"notes are of type {type(notes).__name__}; give Notes({{…}})")
            named = notes.columns.items()
            notes = Notes({name: self._column(value, f" (note {name!r})") for name, value in named})
        return Judgement(
            scores=self._column(said.scores) if scores else self._zeros()[:, 0],
            evidence=self._evidence(said.evidence, meaning) if meaning else self._zeros(),
            notes=notes,
            ends=None if said.ends is None else self._matrix(said.ends, "ends").bool(),
        )

    def _column(self, values: Any, about: str = "") -> torch.Tensor:
        """One finite number a response."""
        return Answers(self.what + about, self.rows).scores(values).to(self.mask.device)

    def _evidence(self, values: Any, kind: Evidence) -> torch.Tensor:
        """One finite number a token, zero where masked."""
        if kind is Evidence.none and not isinstance(values, torch.Tensor):
            return self._zeros()
        found = keep(self._matrix(values, "evidence").float(), self.mask)
        self._refuse(~found.isfinite(), found, "a number that is not finite")
        if kind is Evidence.nonnegative:
            rule = "but the class gives nonnegative evidence; give weights >= 0, or declare signed"
            self._refuse(found < 0, found, rule)
        return found

    def _matrix(self, values: Any, name: str) -> torch.Tensor:
        """A real tensor of one number a token, without gradient."""
        if isinstance(values, torch.Tensor) and values.shape == self.mask.shape:
            if values.is_complex() or values.is_meta:
                raise self._unfit(f"{name} is of {values.dtype} on {values.device}; give numbers")
            return values.detach().to(self.mask.device)
        kind = type(values).__name__
        found = (
            f"of shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else f"a {kind}"
        )
        raise self._unfit(
            f"{name} is {found}; give a tensor of the shape {tuple(self.mask.shape)} of "
            "rollout.response_mask, one number a token"
        )

    def _refuse(self, bad: torch.Tensor, found: torch.Tensor, why: str) -> None:
        if bad.any():
            row, token = bad.nonzero()[0].tolist()
            raise self._unfit(
                f"token {token} of row {self.rows[row]}, response {row} has the evidence "
                f"{float(found[row, token]):g}, {why}"
            )

    def _zeros(self) -> torch.Tensor:
        return torch.zeros(self.mask.shape, device=self.mask.device)

    def _unfit(self, problem: str) -> UserError:
        return UserError(f"{self.what}: {problem}")
