"""Token rewards and advantages: by schemes that are held to their promises, with errors that name
them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from jaxtyping import Float

from tokencredit.algorithms.algorithm import Shaped
from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge
from tokencredit.rewards.advantage_schemes import AdvantageScheme
from tokencredit.rewards.promises import (
    FINITE,
    MEASURED,
    REMEDIES,
    SHAPE,
    as_declared,
    broken,
    flaws,
    looks_ahead,
    unmeasured,
    vanishing,
)
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Batch, Judgement, Rollout, Targets
from tokencredit.store.run_folder import RunFolder, State
from tokencredit.user_code.guard import guarded

if TYPE_CHECKING:
    from tokencredit.config import Config

FIRST: Final = 3
"""Steps in which every promise is looked at; later ones look for shape and finite numbers."""
Given = TypeVar("Given", bound=Batch)
WARNINGS: Final = "warnings"
"""Where the manifest keeps what was said."""


class Held:
    """A scheme, a user's own perhaps, that is held to the promises of `rewards/promises.py`."""

    def __init__(
        self, scheme: RewardScheme | AdvantageScheme, name: str, seconds: float | None
    ) -> None:
        """`name` is that of the chosen option, `seconds` how long a user's own may take."""
        kind = type(scheme)
        self.seconds, self.users = seconds, not kind.__module__.startswith("tokencredit.")
        file = getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__
        owner = f" of {file}" if self.users else ""
        self.what = f"{scheme.section} = {name} ({kind.__name__}{owner})"
        plugin = f" --plugin {file}" if self.users else ""
        self.remedy = f"`tokencredit check-scheme {kind.__name__}{plugin}` lists what it breaks"

    def check(self, problems: Mapping[str, str], step: int) -> None:
        """Raise `UserError` naming scheme and step for promises that are broken."""
        if problems:
            listed = "; ".join(f"{n}: {found}; {REMEDIES[n]}" for n, found in problems.items())
            raise UserError(
                f"{self.what}: step {step}: breaks a promise of every scheme: {listed}. "
                f"{self.remedy}"
            )

    @contextmanager
    def named(self, step: int) -> Iterator[None]:
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

    def own_copy(self, part: Given) -> Given:
        """What the scheme may read; a copy for the user's, which may change tensors in place."""
        return part[torch.arange(len(part))] if self.users else part


class Payer:
    """Turns judgements into token rewards."""

    def __init__(self, config: Config) -> None:
        """The configured scheme."""
        self.scheme = config.reward_scheme
        name = config.run.scheme or type(self.scheme).__name__
        self.held = Held(self.scheme, name, config.run.function_seconds)

    def pay(self, rollout: Rollout, judgement: Judgement, step: int) -> Float[torch.Tensor, "B T"]:
        """The token rewards; raises `UserError` naming scheme and step for a broken promise."""
        with self.held.named(step):
            rewards = self.scheme.token_rewards(*self._given(rollout, judgement))
        problems = broken(self.scheme, rollout, judgement, rewards)
        if step >= FIRST:
            problems = {name: problems[name] for name in (SHAPE, FINITE) if name in problems}
        self.held.check(problems, step)
        return rewards.float()

    def measure(self, rollout: Rollout, judgement: Judgement, step: int) -> dict[str, float]:
        """What the scheme wants logged."""
        with self.held.named(step):
            found = self.scheme.measure(*self._given(rollout, judgement))
        if not self.held.users:
            return found
        problem = unmeasured(found)
        self.held.check({MEASURED: problem} if problem else {}, step)
        return {name: float(value) for name, value in found.items()}

    def _given(self, rollout: Rollout, judgement: Judgement) -> tuple[Rollout, Judgement]:
        """What the scheme may read."""
        held = self.held
        return held.own_copy(rollout), as_declared(self.scheme, held.own_copy(judgement))


class Reshaper:
    """Turns an algorithm's advantages into those that the policy learns from."""

    def __init__(self, config: Config) -> None:
        """The configured scheme."""
        self.scheme = config.advantage_scheme
        kind = type(self.scheme).__name__
        self.held = Held(self.scheme, kind, config.run.function_seconds)

    def change(
        self, rollout: Rollout, judgement: Judgement, shaped: Shaped, step: int
    ) -> Callable[[Float[torch.Tensor, "B T"]], Float[torch.Tensor, "B T"]]:
        """What it makes of the advantages of a step, float32; it raises `UserError` naming scheme
        and step for a broken promise."""

        def changed(advantages: Float[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T"]:
            held, scheme = self.held, self.scheme
            given = held.own_copy(rollout)
            with held.named(step):
                found = scheme.token_advantages(
                    given,
                    as_declared(scheme, held.own_copy(judgement)),
                    advantages.clone() if held.users else advantages,
                    -shaped.penalty,
                    given.entropy if scheme.reads_entropy else None,
                )
            held.check(flaws(found, rollout.response_mask, "an advantage"), step)
            return found.float()

        return changed


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
