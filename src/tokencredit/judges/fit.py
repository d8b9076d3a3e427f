"""Whether the parts of a run's credit fit one another: schemes, judge, scorer, value function."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.scores import Normalise
from tokencredit.errors import require
from tokencredit.judges.judge import Judge
from tokencredit.judges.panel import SameAsJudge, shares_pass
from tokencredit.models.value import ValueKind
from tokencredit.rewards.advantage_schemes import AdvantageScheme, Keep
from tokencredit.rewards.scheme import Evidence, RewardScheme


def check_fit(scheme: RewardScheme, judge: Judge, judges: Sequence[type]) -> None:
    """Raise unless the judge gives the evidence that the reward scheme reads."""
    check_evidence(scheme, judge, judges)
    require(
        judge.gives_ends() or not scheme.reads_ends,
        "judge",
        type(judge).__name__,
        f"does not say where sentences end, but {type(scheme).__name__} pays there; use "
        "judge=implicit_sentences, or set judge.sentence_end",
    )


def check_evidence(
    scheme: RewardScheme | AdvantageScheme, judge: Judge, judges: Sequence[type]
) -> None:
    """Raise unless the judge gives the evidence that the scheme reads; `judges` are all there are,
    of which the message names those that fit."""
    wanted = scheme.evidence
    able = [k for k in judges if issubclass(k, Judge) and k.evidence is wanted]
    names = [re.sub(r"\B([A-Z])", r"_\1", k.__name__.removesuffix("Judge")).lower() for k in able]
    fitting = ", ".join(names) or "(none)"
    require(
        wanted is Evidence.none or judge.gives() is wanted,
        "judge",
        type(judge).__name__,
        f"gives {judge.gives().value} evidence, but {type(scheme).__name__} needs {wanted.value} "
        f"evidence of each token; choose another {scheme.section}, or a judge that gives it: "
        f"{fitting}",
    )


def check_scorer(judge: Judge, scorer: Judge) -> None:
    """Raise unless there are scores, and they are those that the judge's evidence is of."""
    name = type(judge).__name__
    require(
        judge.gives_scores or not isinstance(scorer, SameAsJudge),
        "scorer",
        "judge",
        f"{name} gives no scores; use scorer=reward_model or function",
    )
    require(
        not judge.reads_score or shares_pass(judge, scorer),
        "scorer",
        type(scorer).__name__,
        f"{name} says what tokens have to do with its own score, so no other can be paid; use "
        "scorer=judge, or what it is scored by (of judge=hindsight scorer=reward_model)",
    )


def check_advantages(scheme: AdvantageScheme, algorithm: Algorithm, kind: ValueKind) -> None:
    """Raise where advantages would be estimated of values that are not there, or where what is set
    for token rewards would change nothing, since the scheme replaces what is made of them."""
    require(
        kind is not ValueKind.none or scheme.replaces or not algorithm.uses_values,
        "model.value.kind",
        kind.value,
        f"{type(algorithm).__name__} estimates advantages from values; use an advantage_scheme "
        "that needs no estimate (own), an algorithm without values (reinforce, rloo, grpo), or "
        "model.value.kind=shared",
    )
    if kind is ValueKind.none:
        require(
            algorithm.warmup_rollouts() == 0,
            "algorithm.value_warmup",
            algorithm.warmup_rollouts(),
            "must be 0 with model.value.kind=none: there is no value function to train",
        )
    if not scheme.replaces:
        return
    name = type(scheme).__name__
    unused = {
        "reward_clip": algorithm.reward_clip is not None,
        "missing_eos_penalty": algorithm.missing_eos_penalty is not None,
        "normalise": algorithm.normalise is Normalise.return_std,
    }
    for key, changed in unused.items():
        require(
            not changed,
            f"algorithm.{key}",
            getattr(algorithm, key),
            f"changes token rewards, which advantage_scheme={name} replaces; leave it out",
        )


def advantage_inputs(scheme: AdvantageScheme) -> dict[str, object]:
    """What of it is part of a run's key: nothing of `keep`, with which runs began."""
    return {} if isinstance(scheme, Keep) else {"advantage_scheme": scheme}
