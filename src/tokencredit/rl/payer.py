"""Paying token rewards: by a scheme that is held to its promises, with errors that name it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float

from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge
from tokencredit.rewards.promises import (
    FINITE,
    MEASURED,
    REMEDIES,
    SHAPE,
    as_declared,
    broken,
    looks_ahead,
    unmeasured,
    vanishing,
)
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout, Targets
from tokencredit.store.run_folder import RunFolder, State
from tokencredit.user_code.guard import guarded

if TYPE_CHECKING:
    from tokencredit.config import Config

FIRST: Final = 3
"""Steps in which every promise is looked at; later ones look for shape and finite numbers."""
WARNINGS: Final = "warnings"
"""Where the manifest keeps what was said."""


class Payer:
    """Turns judgements into token rewards."""

    def __init__(self, config: Config) -> None:
        """The configured scheme; its promises are those of `rewards/promises.py`."""
        self.scheme, self.seconds = config.reward_scheme, config.run.function_seconds
        kind = type(self.scheme)
        self.users = not kind.__module__.startswith("tokencredit.")
        file = getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__
        owner = f" of {file}" if self.users else ""
        self.what = f"reward_scheme = {config.run.scheme or kind.__name__} ({kind.__name__}{owner})"
        plugin = f" --plugin {file}" if self.users else ""
        self.remedy = f"`tokencredit check-scheme {kind.__name__}{plugin}` lists what it breaks"

    def pay(self, rollout: Rollout, judgement: Judgement, step: int) -> Float[torch.Tensor, "B T"]:
        """The token rewards; raises `UserError` naming scheme and step for a broken promise."""
        with self._named(step):
            rewards = self.scheme.token_rewards(*self._given(rollout, judgement))
        problems = broken(self.scheme, rollout, judgement, rewards)
        if step >= FIRST:
            problems = {name: problems[name] for name in (SHAPE, FINITE) if name in problems}
        self._check(problems, step)
        return rewards.float()

    def measure(self, rollout: Rollout, judgement: Judgement, step: int) -> dict[str, float]:
        """What the scheme wants logged."""
        with self._named(step):
            found = self.scheme.measure(*self._given(rollout, judgement))
        if not self.users:
            return found
        problem = unmeasured(found)
        self._check({MEASURED: problem} if problem else {}, step)
        return {name: float(value) for name, value in found.items()}

    def _given(self, rollout: Rollout, judgement: Judgement) -> tuple[Rollout, Judgement]:
        """What the scheme may read; a copy for the user's, which may change tensors in place."""
        if self.users:
            rows = torch.arange(len(rollout))
            rollout, judgement = rollout[rows], judgement[rows]
        return rollout, as_declared(self.scheme, judgement)

    def _check(self, problems: Mapping[str, str], step: int) -> None:
        if problems:
            listed = "; ".join(f"{n}: {found}; {REMEDIES[n]}" for n, found in problems.items())
            raise UserError(
                f"{self.what}: step {step}: breaks a promise of every scheme: {listed}. "
                f"{self.remedy}"
            )

    @contextmanager
    def _named(self, step: int) -> Iterator[None]:
        """Name the user's scheme in whatever it raises; a fault of our own stays a traceback."""
        if not self.users:
            yield
            return
        try:
            with guarded(self.what, self.seconds):
                yield
        except UserError as error:
            text = str(error).removeprefix(f"{self.what}: ")
            raise UserError(f"{self.what}: step {step}: {text}. {self.remedy}") from error


def warn_of_nothing(
    folder: Path, step: int, rewards: torch.Tensor, targets: Targets, rollout: Rollout
) -> None:
    """Say once, and keep in the manifest, that a first step teaches the policy nothing."""
    if step >= FIRST:
        return
    run = RunFolder(folder)
    known = run.manifest().get(WARNINGS, [])
    for problem in vanishing(rewards, targets.advantages, rollout.response_mask):
        if any(problem in text for text in known):
            continue
        text = f"step {step}: {problem}"
        say(f"warning: {text}")
        known = [*known, text]
        run.write(State.running, **{WARNINGS: known})


def horizon(judge: Judge, scheme: RewardScheme) -> str:
    """Whether token rewards depend on later tokens, and what follows for the policy gradient.

    Rewards that do not, whatever they are, have the gradient of their expected sum; a look ahead
    at a token that is chosen later is paid before it is chosen, and that token's own return lacks
    it. Empty for a scheme that reads no evidence.
    """
    if scheme.evidence is Evidence.none:
        return ""
    try:
        with guarded(type(scheme).__name__):
            early, later = looks_ahead(scheme)
    except UserError:  # which is said when it pays
        return ""
    ahead = {
        f"evidence of {type(judge).__name__}": not judge.causal,
        f"{type(scheme).__name__} weighs evidence by the whole response": later,
        "where sentences end": scheme.reads_ends,
    }
    why = ", ".join(each for each, so in ahead.items() if so)
    if early and why:
        return f"look-ahead: rewards depend on later tokens ({why}); the policy gradient is biased"
    whole = "the score's" if scheme.preserves_sum() else "that of the sum of rewards"
    return f"causal: no reward depends on later tokens; the policy gradient is {whole}"
