"""What a run's judge gives to each tenth of a response, measured on responses of the SFT model.

The weights are for `reward_scheme=position`, a control that knows the place of a token alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from jaxtyping import Bool, Float

from tokencredit import config as configuration
from tokencredit.commands.options import Plugins
from tokencredit.config import load_plugins
from tokencredit.console import say, show
from tokencredit.errors import UserError, require
from tokencredit.judges.panel import open_panel
from tokencredit.rewards.controls import TENTHS, tenths
from tokencredit.rewards.redistribute import shares
from tokencredit.rewards.scheme import Evidence
from tokencredit.rl.collector import Collector
from tokencredit.rl.load import load_actors
from tokencredit.rl.world import World
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage
from tokencredit.store.files import write_text
from tokencredit.store.run_folder import CONFIG

DIGITS: Final = 4
BAR: Final = 20
"""Characters of a bar for an equal share."""
GLOBAL: Final = "# @package _global_"
NEW: Final = "defaults: [Position, _self_]\n"


@dataclass(frozen=True, slots=True)
class Profile:
    """Ten weights, and what they were measured on."""

    weights: list[float]
    """Mean 1: the share of a token in each tenth, in units of an equal share."""
    about: str

    def text(self) -> str:
        """The weights as bars, and as an override."""
        rows = [
            f"  {10 * k:>3}–{10 * k + 10:<3} %  {weight:7.{DIGITS}f}  {'█' * round(BAR * weight)}"
            for k, weight in enumerate(self.weights)
        ]
        head = f"Weight of a token by its place in the response (1: an equal share); {self.about}"
        return "\n".join([head, *rows, f"reward_scheme.profile={self.list()}"])

    def list(self) -> str:
        """The weights as YAML and Hydra read them, without spaces."""
        return "[" + ",".join(f"{weight:.{DIGITS}f}" for weight in self.weights) + "]"


def mean_by_tenth(
    evidence: Float[torch.Tensor, "B T"], mask: Bool[torch.Tensor, "B T"]
) -> list[float]:
    """The mean weight of a token in each tenth, scaled to a mean of 1.

    A response gives to a tenth the mean of n α_t over its tokens there, α being its weights that
    sum to 1; every response that has tokens there counts once. Raises `UserError` for a tenth
    without a token.
    """
    density = shares(evidence.double(), mask) * mask.sum(dim=1, keepdim=True)
    place = torch.where(mask, tenths(mask), TENTHS)
    found = []
    for tenth in range(TENTHS):
        there = place == tenth
        count = there.sum(dim=1)
        if not count.any():
            raise UserError(
                f"no response has a token in tenth {tenth + 1} of {TENTHS}: they are too short; "
                "raise rollout.max_new_tokens"
            )
        own = torch.where(there, density, 0.0).sum(dim=1)[count > 0] / count[count > 0]
        found.append(float(own.mean()))
    total = sum(found)
    return [round(TENTHS * weight / total, DIGITS) for weight in found]


def measure(run: Path, rollouts: int, seed: int) -> Profile:
    """The profile of the judge of the run in that folder, on that many responses of its SFT model.

    Raises `UserError` where the judge gives no weights, or an artifact of the run is not there.
    """
    path = run / CONFIG
    if not path.is_file():
        raise UserError(f"{run}: is no run folder (it has no config.yaml)")
    config = configuration.read(path)
    require(config.algorithm.rolls_out, "RUN", str(run), "is no RL run: has no judge")
    require(
        config.judge.gives() is Evidence.nonnegative,
        "judge",
        type(config.judge).__name__,
        f"gives {config.judge.gives().value} evidence; a profile needs weights: take a run of "
        "reward_scheme=abc or the like",
    )
    context = Context(config)
    stage = RLStage(context)
    for parent in stage.parents().values():
        if context.store.find(parent) is None:
            raise UserError(
                f"{run}: its {parent.name} {parent.key} is not in the store ({config.store}); run "
                "its `tokencredit train` again, in the folder where it was run"
            )
    torch.set_num_threads(config.hardware.threads)
    folders = {role: context.store.get(each).path for role, each in stage.parents().items()}
    actors = load_actors(config, folders["sft"], folders.get("reward_model"))
    judge = open_panel(config.judge, config.scorer, given_of(context), actors)
    collector = Collector(World(config.hardware), judge, config.rollout.chunk)
    prompts = stage.prompts("rl", actors).batch(seed, 0, rollouts, "profile")
    with actors.reference.model() as model:
        speak = partial(actors.answer, model, stream=(seed, "profile"))
        said, judgement = collector.collect(prompts, speak)
    weights = mean_by_tenth(judgement.evidence, said.response_mask)
    keys = ", ".join(f"{role} {each.key}" for role, each in stage.parents().items())
    return Profile(weights, f"{rollouts} responses, {type(config.judge).__name__}, {keys}")


def save(profile: Profile, path: Path) -> None:
    """Put the weights into a YAML file: an option of reward_scheme, or a whole experiment.

    A file of `@package _global_` gets them as `reward_scheme: {profile: …}`, another as
    `profile: …`; the line that has them is replaced, all other lines stay. A new file is an option
    of reward_scheme. Raises `UserError` where the file sets the scheme's keys in another way.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else NEW
    key = "reward_scheme" if GLOBAL in text else "profile"
    value = profile.list().replace(",", ", ")
    line = f"reward_scheme: {{profile: {value}}}" if key == "reward_scheme" else f"profile: {value}"
    line += f"    # {profile.about}"
    ours = re.compile(rf"^{key}: (\{{profile: )?\[[^\]]*\].*$", re.MULTILINE)
    if ours.search(text):
        text = ours.sub(line, text)
    elif re.search(rf"^{key}\s*:", text, re.MULTILINE):
        raise UserError(
            f"{path}: sets {key} in a form that is not replaced; write it by hand: {line}"
        )
    else:
        text = f"{text.rstrip()}\n{line}\n"
    write_text(path, text)


def profile(
    run: Annotated[Path, typer.Argument(help="A run folder whose judge gives weights to tokens.")],
    rollouts: Annotated[int, typer.Option(min=1, help="Responses of its SFT model.")] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same responses.")] = 0,
    write: Annotated[
        Path | None, typer.Option(help="A YAML file that is to have the ten weights.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Measure what a run's judge gives to each tenth of a response: reward_scheme=position."""
    load_plugins(plugin or [])
    found = measure(run, rollouts, seed)
    show(found.text())
    if write is not None:
        save(found, write)
        say(f"wrote {write}")
