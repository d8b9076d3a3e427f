"""What every judge promises of its judgements, and the responses that hold it to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from tokencredit.errors import UserError
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.loading.trunk import backbone, count_reads
from tokencredit.ops import keep
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import LEFT_PADDED, Judgement, Rollout
from tokencredit.user_code.promises import Promise, examine

PADDING: Final = 3
"""Columns that are added on either side."""
NEAR: Final = 1e-4
"""By how much numbers that were computed in another batch may differ, in units of the largest."""
COUNTING: Final = 0.1
"""By how much a count of passes may be off: the last token of a response need not be read."""
POLICY: Final = "policy"
"""The role of the policy that is being trained."""
CONFIG: Final = "config.json"
"""The file by which a folder is known to hold a model, whose passes can be seen."""
THOUGHTS: Final = ("logp", "ref_logp", "values")
"""What policy, reference, and value function think of a response."""

NEEDS: Final = "asks for what it declares alone"
SHAPE: Final = "returns float32 of shapes (B,) and (B, T)"
KIND: Final = "gives the kind of evidence that it declares"
FINITE: Final = "gives finite numbers, for one token too"
SAME: Final = "says the same twice"
MASK: Final = "says nothing of masked slots, and reads none"
PADDED: Final = "does not depend on padding"
ORDER: Final = "follows a permutation of the batch"
ALONE: Final = "judges a response alone as in a batch"
PASSES: Final = "counts its forward passes"
CAUSAL: Final = "looks at no later token, as declared"
GRADIENT: Final = "needs no gradient, and leaves the policy as it is"
REMEDIES: Final = {
    NEEDS: "declare it: needs or artifacts() for a role, columns() for a column of the data, "
    "reads_reference() for log-probabilities and values of a rollout",
    SHAPE: "return Judgement(scores=…, evidence=…) with one float32 a response, and one a token, "
    "of the shape of rollout.response_mask",
    MASK: "pass the evidence through tokencredit.ops.keep(evidence, rollout.response_mask), and "
    "read ids by tokencredit.models.passes.sequences.compact",
    KIND: "declare it: evidence: ClassVar[Evidence], or gives(); gives_ends() where it says where "
    "sentences end",
    FINITE: "look for a division by 0 (a response of one token) or a logarithm of 0",
    SAME: "draw no random numbers, or from tokencredit.streams by what they are for, and keep "
    "nothing from call to call",
    PADDED: "let no width of a tensor into the evidence; count real tokens by the masks",
    ORDER: "put what was sorted back into the order of the rollout's rows",
    ALONE: "let a response's evidence depend on that response alone",
    PASSES: "return from passes() how often each model reads prompt and response (a backward pass "
    "counts as two)",
    CAUSAL: "read a token's evidence from prompt and response up to it, or leave out causal = True",
    GRADIENT: "compute under torch.no_grad(), and change nothing of actors.policy",
}
"""By promise: what to do where it is broken."""


class Undeclared(UserError):
    """A judge has asked for what it does not declare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A judge, what it is opened with, and responses to show it."""

    judge: Judge
    given: Given
    """Its `folder` knows more roles than the judge may ask for."""
    actors: Live
    rollout: Rollout
    """Responses of different lengths, the shortest (one token) first, as policy, reference, and
    value function see them."""
    even: Rollout
    """Responses of one length, as are their prompts, so that no pass reads padding."""
    words: Sequence[int]
    """Ids of ordinary tokens."""


def examine_judge(trial: Trial) -> dict[str, str]:
    """By promise: what is wrong with it and what to do; empty where it holds."""
    return examine(type(trial.judge).__name__, Examination(trial).promises(), REMEDIES)


@dataclass(slots=True)
class Examination:
    """One judge, opened once. The promises are asked in their order.

    A method returns what is wrong, and "" where nothing is. What cannot be told, since another
    promise is broken, is not asked.
    """

    trial: Trial
    undeclared: list[str] = field(default_factory=list)
    """What it has asked for."""
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    """The live policy, before the judge was opened."""
    opened: OpenJudge | None = None
    said: Judgement | None = None
    """Of the trial's rollout, where it has the right shapes."""
    steady: bool = False
    """Whether it says the same twice."""

    def promises(self) -> dict[str, Promise]:
        """What is asked, by name."""
        found: dict[str, Promise] = {SHAPE: self.shape}
        judged = {KIND: self.kind, FINITE: self.finite, SAME: self.same, PASSES: self.passes}
        steady = {MASK: self.mask, PADDED: self.padded, ORDER: self.order, ALONE: self.alone}
        if self.trial.judge.causal and self.trial.judge.gives() is not Evidence.none:
            steady[CAUSAL] = self.causal
        found |= {name: partial(self._where_said, look) for name, look in judged.items()}
        found[NEEDS] = self.needs
        found |= {name: partial(self._where_steady, look) for name, look in steady.items()}
        return found | {GRADIENT: partial(self._where_said, self.gradient)}

    def _where_said(self, look: Callable[[Judgement], str]) -> str | None:
        return None if self.said is None else look(self.said)

    def _where_steady(self, look: Callable[[Judgement], str]) -> str | None:
        return self._where_said(look) if self.steady else None

    def shape(self) -> str | None:
        """Opens it, and calls it for the judgement that the others look at."""
        trial, mask = self.trial, self.trial.rollout.response_mask
        live = trial.actors.policy.named_parameters()
        self.before = {name: weight.detach().clone() for name, weight in live}
        try:
            self.opened = trial.judge.open(self._given(), trial.actors)
            said = self._call(trial.rollout)
        except Undeclared:
            return None
        wanted = {"scores": mask.shape[:1]} if trial.judge.gives_scores else {}
        for name, shape in {**wanted, "evidence": mask.shape}.items():
            found: object = getattr(said, name, None)
            if not isinstance(found, torch.Tensor):
                return f"found {name} of type {type(found).__name__}"
            if found.shape != shape or found.dtype != torch.float32:
                return f"found {name} of {found.dtype} and shape {tuple(found.shape)}"
        self.said = said
        return ""

    def _given(self) -> Given:
        """What the judge is handed, with a note of what it asks for and does not declare."""
        judge, given = self.trial.judge, self.trial.given
        roles, columns = judge.artifacts(), judge.columns(given.column_names)

        def note(declared: bool, what: str) -> None:
            if not declared:
                self.undeclared.append(what)
                raise Undeclared(f"asks for {what}; {REMEDIES[NEEDS]}")

        def folder(role: str) -> Path:
            note(role in roles, f"given.folder({role!r})")
            return given.folder(role)

        def values(names: Sequence[str]) -> Mapping[str, Sequence[object]]:
            note({*names} <= {*columns}, f"given.columns({list(names)})")
            return given.columns(names)

        return replace(given, folder=folder, columns=values)

    def needs(self) -> str | None:
        """No artifact or column besides, nor what only a scored response has."""
        if self.undeclared:
            return f"found {self.undeclared[0]}"
        if self.said is None:
            return None
        if not self.steady or self.trial.judge.reads_reference():
            return ""
        rollout = self.trial.rollout
        other = self._compared(_thought(rollout, _halved, rollout.response_mask), self.said, "")
        return "found logp, ref_logp, or values of the rollout" if other else ""

    def kind(self, said: Judgement) -> str:
        """No evidence below zero, or other than zero, where it declares that; ends if it does."""
        judge, mask, ends = self.trial.judge, self.trial.rollout.response_mask, said.ends
        evidence, kind = said.evidence.detach()[mask], judge.gives()
        wrong = {Evidence.nonnegative: evidence < 0, Evidence.none: evidence != 0}.get(kind)
        if wrong is not None and wrong.any():
            return f"found {float(evidence[wrong][0]):g} where evidence is {kind.value}"
        if judge.gives_ends() != (ends is not None):
            return f"found {'no ends' if ends is None else 'ends'}"
        if ends is not None and (ends.dtype != torch.bool or ends.shape != mask.shape):
            return f"found ends of {ends.dtype} and shape {tuple(ends.shape)}"
        return ""

    def finite(self, said: Judgement) -> str:
        """No NaN, and no infinity."""
        for numbers in self._numbers(self.trial.rollout, said):
            bad = ~numbers.isfinite()
            if bad.any():
                tokens = int(self.trial.rollout.lengths[bad.nonzero()[0, 0]])
                return f"found {float(numbers[bad][0]):g} for a response of {tokens} token(s)"
        return ""

    def same(self, said: Judgement) -> str:
        """Bit for bit."""
        for _ in range(2):  # the first may have been said by what it keeps from call to call
            problem = self._compared(self.trial.rollout, said, "of the same responses", 0.0)
            if problem:
                return problem
        self.steady = True
        return ""

    def passes(self, said: Judgement) -> str:
        """Tokens that each model has read, in units of those of prompts and responses."""
        del said
        trial, declared = self.trial, self.trial.judge.passes()
        places = {role: trial.given.folder(role) for role in trial.judge.artifacts()}
        models = {str(place): r for r, place in places.items() if (place / CONFIG).is_file()}
        policy: Any = trial.actors.policy
        with count_reads(models, {backbone(policy.model): POLICY}) as tokens:
            self._call(trial.even)
        whole = float(trial.even.total_lengths.sum())
        for role in (*models.values(), POLICY):
            found, wanted = tokens[role] / whole, declared.get(role, 0.0)
            if abs(found - wanted) > COUNTING * max(wanted, found):
                return f"found {found:.3g} of {role}, and {wanted:g} declared"
        return ""

    def mask(self, said: Judgement) -> str:
        """Zeros outside of the response; other ids and NaN there change nothing."""
        rollout, filler = self.trial.rollout, self.trial.words[0]
        outside = said.evidence.detach()[~rollout.response_mask]
        if (outside != 0).any():
            return f"found {float(outside[outside != 0][0]):g} behind the end of a response"
        poisoned = replace(
            _thought(rollout, lambda x: torch.full_like(x, torch.nan), ~rollout.response_mask),
            prompt_ids=torch.where(rollout.prompt_mask, rollout.prompt_ids, filler),
            response_ids=torch.where(rollout.response_mask, rollout.response_ids, filler),
        )
        return self._compared(poisoned, said, "with other ids and NaN there")

    def padded(self, said: Judgement) -> str:
        """More columns of padding on both sides."""
        wide: dict[str, Any] = {}
        for name in ("prompt_ids", "prompt_mask", "response_ids", "response_mask", *THOUGHTS):
            sides = (PADDING, 0) if name in LEFT_PADDED else (0, PADDING)
            wide[name] = torch.nn.functional.pad(getattr(self.trial.rollout, name), sides)
        return self._compared(replace(self.trial.rollout, **wide), said, "with more of it")

    def order(self, said: Judgement) -> str:
        """The rows the other way round."""
        order = torch.arange(len(said)).flip(0)
        return self._compared(self.trial.rollout[order], said, "in another order", rows=order)

    def alone(self, said: Judgement) -> str:
        """Each row in a batch of its own."""
        for row in torch.arange(len(said)).split(1):
            how = f"of response {int(row)} alone"
            problem = self._compared(self.trial.rollout[row], said, how, rows=row)
            if problem:
                return problem
        return ""

    def causal(self, said: Judgement) -> str:
        """Later tokens exchanged, with what the policy thinks of them. Bit for bit: lengths are the
        same, and so are all shapes."""
        rollout = self.trial.rollout
        places = torch.arange(rollout.response_mask.shape[1])
        words = torch.tensor(self.trial.words)[places % len(self.trial.words)]
        for last in range(len(places) - 1):
            later = (places > last) & rollout.response_mask
            ids = torch.where(later, words, rollout.response_ids)
            found = self._call(replace(_thought(rollout, _halved, later), response_ids=ids))
            seen = later.any(dim=1, keepdim=True) & (places <= last)
            if not _near(keep(found.evidence, seen), keep(said.evidence, seen), near=0.0):
                return f"found other evidence of token {last} or before with other tokens behind it"
        return ""

    def gradient(self, said: Judgement) -> str:
        """Of what it has said, and of the policy after all calls."""
        for name in ("scores", "evidence"):
            tensor: object = getattr(said, name)
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                return f"found a gradient of {name}"
        for name, weight in self.trial.actors.policy.named_parameters():
            if name in self.before and not torch.equal(weight, self.before[name]):
                return f"found another {name} of the policy than before"
            if weight.grad is not None:
                return f"found a .grad of {name} of the policy"
        return ""

    def _call(self, rollout: Rollout) -> Judgement:
        assert self.opened is not None
        return self.opened(rollout[torch.arange(len(rollout))])  # it may change tensors in place

    def _numbers(self, rollout: Rollout, said: Judgement) -> list[torch.Tensor]:
        """What it says of these responses and their tokens, without gradient."""
        found = [said.scores] if self.trial.judge.gives_scores else []
        found += [keep(said.evidence, rollout.response_mask)]
        found += [] if said.ends is None else [said.ends & rollout.response_mask]
        return [numbers.detach().float() for numbers in found]

    def _compared(
        self,
        rollout: Rollout,
        said: Judgement,
        how: str,
        near: float = NEAR,
        rows: torch.Tensor | None = None,
    ) -> str:
        """What is wrong unless it says of `rollout` what it has said of these rows, or of all."""
        found = self._numbers(rollout, self._call(rollout))
        for new, old in zip(found, self._numbers(self.trial.rollout, said), strict=True):
            if not _near(new, old if rows is None else old[rows], near):
                return f"found another judgement {how}"
        return ""


def _near(found: torch.Tensor, wanted: torch.Tensor, near: float) -> bool:
    """Equal up to `near` of the largest number, NaN and infinities to themselves; of two widths,
    in the columns of `wanted`."""
    size = float(wanted.nan_to_num(posinf=0, neginf=0).abs().max())
    found = found[:, : wanted.shape[1]] if wanted.dim() == 2 else found
    return torch.allclose(found, wanted, rtol=0, atol=near * size, equal_nan=True)


def _halved(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 - 1.0


def _thought(
    rollout: Rollout, change: Callable[[torch.Tensor], torch.Tensor], there: torch.Tensor
) -> Rollout:
    """The rollout with other log-probabilities and values there."""
    changed: dict[str, Any] = {}
    for name in THOUGHTS:
        before: torch.Tensor = getattr(rollout, name)
        changed[name] = torch.where(there, change(before), before)
    return replace(rollout, **changed)
