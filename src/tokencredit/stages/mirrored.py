"""What W&B is told of a run besides its log: where it belongs, what made it, what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

from tokencredit.canonical import canonical
from tokencredit.store.run_folder import git_commit
from tokencredit.tracking.tracking import LONGEST_NAME, LONGEST_TAG, Tracking

if TYPE_CHECKING:
    from tokencredit.config import Config


KEPT: Final = ("accuracy", "margin", "loss", "held_out_loss", "held_out", "steps", "pairs")
"""Figures of a stage that its summary has."""


def labelled(config: Config, stage: str) -> Tracking:
    """The mirror of a run that ends with `stage`: group, job type, and tags, where not chosen.

    Runs of one experiment or of one sweep are a group; others are grouped by scheme, model, and
    data, so that those of several seeds stand together. A job type that the caller of a run has
    filled in (a pilot's) stands before that of its last stage.
    """
    tracking, run = config.tracking, config.run
    scheme = run.scheme or type(config.reward_scheme).__name__
    first = scheme if stage == "rl" else stage
    names = [first, config.model.name, config.dataset.name]
    own = [*names, type(config.algorithm).__name__, run.experiment, run.scale]
    tags = [*tracking.tags, *(name[:LONGEST_TAG] for name in own if name)]
    return replace(
        tracking,
        group=tracking.group or (run.group or run.experiment or " ".join(names))[:LONGEST_NAME],
        job_type=tracking.job_type or run.job_type or stage,
        tags=list(dict.fromkeys(tags)),
    )


def facts(config: Config, key: str) -> dict[str, Any]:
    """The whole configuration, with the key of the result and the commit of the code."""
    plain = cast(dict[str, Any], canonical(config))
    return {**plain, "key": key, "git_commit": git_commit()}


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of results.json in one level: last/… of the log's end, evaluation/… of held-out
    prompts, each with its standard error, and the policy's gain over the SFT model."""
    found = {}
    for place, part in (("last", "metrics"), ("evaluation", "evaluation")):
        for name, measure in results[part].items():
            found[f"{place}/{name}"] = measure["mean"]
            found[f"{place}/{name}/se"] = measure["se"]
    for name in ("score", "oracle"):
        policy, sft = (found.get(f"evaluation/{who}/{name}") for who in ("policy", "sft"))
        if policy is not None and sft is not None:
            found[f"evaluation/gain/{name}"] = policy - sft
    return found


def stage_numbers(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The headline figures of stages by role, as stage/…."""
    return {
        f"stage/{role}/{name}": value
        for role, numbers in figures.items()
        for name, value in numbers.items()
        if name in KEPT and isinstance(value, int | float)
    }


def rows_left_out(table: Sequence[Sequence[str]]) -> dict[str, float]:
    """The counts of the report's table of rows left out, as left_out/WHERE/REASON."""
    return {f"left_out/{where}/{reason}": float(count) for where, reason, count in table[1:]}
