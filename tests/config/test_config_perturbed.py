"""No key of the whole configuration is dead: each changes something, or says which test has it.

A change of a stage's key is no effect: it is what a dead key would still have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from edit_observers import discriminated, looking_back, played, preferring, refined
from named_tests import names_of_tests
from observers import (
    Observer,
    built,
    furnish,
    judged,
    learned,
    paid,
    prompted,
    rolled,
)
from stage_observers import (
    fine_tuned,
    met,
    preferred,
    rated,
    reward_trained,
    sampled,
)
from tokencredit import config as configuration
from tokencredit.canonical import flatten
from tokencredit.config import COMPONENTS, Config
from tokencredit.stages.advantage import AdvantageStage
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.figa import FIGAStage
from tokencredit.stages.hindsight import HindsightStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage

from .make_snapshots import composed
from .perturbations import BESIDE, ELSEWHERE, GROUPS, PAIRS, SMALL, TRIES
from .tries import HERE, Try


def keys() -> set[str]:
    """Every key of the default composition, and those of all components that could stand there."""
    config = composed_with({}, ())
    tree = OmegaConf.to_container(OmegaConf.structured(config))
    found = set(flatten(tree))
    for group, components in COMPONENTS.items():
        for component in components:
            if component.__name__ != type(getattr(config, group)).__name__:
                found |= {f"{group}.{name}" for name in leaves(component)}
    return {key for key in found if key not in COMPONENTS}


def leaves(component: type) -> set[str]:
    """The keys of a component, whatever its required ones are."""
    return set(flatten(OmegaConf.to_container(OmegaConf.structured(component))))


def composed_with(values: Mapping[str, Any], choices: tuple[str, ...], place: str = "") -> Config:
    """The default composition with other choices of groups, and values by dotted key."""
    tree, _ = composed(*choices)
    for key, value in {**SMALL, **values}.items():
        OmegaConf.update(tree, key, put(value, place), force_add=False)
    return configuration.load(tree)


def put(value: Any, place: str) -> Any:
    """`value` with the folder in the place that is kept for it."""
    if isinstance(value, list):
        return [put(item, place) for item in value]
    return value.replace(HERE, place) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("perturbed"))


SEEN: dict[tuple[Any, ...], Any] = {}


def base(trial: Try, place: Path) -> Any:
    """What is seen without the value; seen once for all keys that share it."""
    key = (trial.see, repr(dict(trial.given)), trial.choices, place)
    if key not in SEEN:
        SEEN[key] = trial.see(composed_with(trial.given, trial.choices, str(place)), place)
    return SEEN[key]


@pytest.mark.parametrize("key", TRIES)
def test_field_B19_every_key_of_a_run_changes_something(key: str, place: Path) -> None:
    trial = TRIES[key]
    values = {**trial.given, key: trial.value, **trial.also}
    config = composed_with(values, trial.choices, str(place))
    assert trial.see(config, place) != base(trial, place)


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_has_options_that_differ(group: str, place: Path) -> None:
    see, choices, given = GROUPS[group]
    shared, companions = BESIDE.get(group, ({}, ()))
    default = see(composed_with(shared, companions, str(place)), place)
    assert see(composed_with(given, choices, str(place)), place) != default
    assert set(GROUPS) == set(COMPONENTS)


BASES = {(t.see.__name__, repr(dict(t.given)), t.choices): key for key, t in TRIES.items()}


@pytest.mark.parametrize("key", BASES.values())
def test_field_B19_a_key_that_nothing_reads_would_be_noticed(key: str, place: Path) -> None:
    """Seen twice, the same configuration looks the same: without its effect, a key would too."""
    trial = TRIES[key]
    again = trial.see(composed_with(trial.given, trial.choices, str(place)), place)
    assert again == base(trial, place)


def test_field_B19_a_norm_that_is_accepted_and_ignored_would_be_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.utils, "clip_grads_with_norm_", lambda *_: None)
    trial = TRIES["algorithm.optimizer.max_grad_norm"]
    values = [trial.given, {**trial.given, "algorithm.optimizer.max_grad_norm": trial.value}]
    seen = [trial.see(composed_with(each, (), str(place)), place) for each in values]
    assert seen[0] == seen[1]


STAGES: dict[Observer, tuple[type[Stage], dict[str, Any]]] = {
    fine_tuned: (SFTStage, {}),
    reward_trained: (RewardModelStage, {}),
    preferred: (DPOStage, PAIRS),
    discriminated: (DiscriminatorStage, PAIRS),
    preferring: (BradleyTerryStage, PAIRS),
    played: (AdvantageStage, PAIRS),
    looking_back: (HindsightStage, {}),
    refined: (FIGAStage, PAIRS),
    sampled: (SampledPairsStage, {}),
    rated: (OracleStage, {}),
    **dict.fromkeys(
        (built, judged, learned, met, paid, prompted, rolled),
        (RLStage, {"dpo.pairs": "sampled", "reviser.pairs": "sampled"}),
    ),
}
"""Which stage's work an observer sees, and what its inputs need of the data."""
UNKEYED: dict[str, str] = {
    "steps": "a run goes on to more of them",
    "run.save_every": "a cadence",
    "run.sample_every": "a cadence",
    "run.samples": "what is shown",
    "dataset.special_tokens": "in the keys of the models that read the texts, among them SFT's",
    "reward_model.score_at": "in the key of the reward model, whose scores these are",
    "hardware.micro_batch": "rounding",
    "hardware.gradient_checkpointing": "memory",
}
"""Keys whose effect is seen in a stage and which its inputs do not hold, with the reason."""


@pytest.mark.parametrize("key", [key for key, trial in TRIES.items() if trial.see in STAGES])
def test_what_is_seen_to_change_a_stage_is_among_its_inputs(key: str, place: Path) -> None:
    """So an input that a stage forgets is noticed by its effect, whoever adds it."""
    trial = TRIES[key]
    stage, given = STAGES[trial.see]
    if trial.see is met:
        base(trial, place)  # makes the model that it meets
    with_it = {**trial.given, key: trial.value, **trial.also, **given}
    found = [
        stage(Context(composed_with(values, trial.choices, str(place)))).identity["inputs"]
        for values in ({**trial.given, **given}, with_it)
    ]
    assert (found[0] == found[1]) is (key in UNKEYED), (
        f"{key} changes what {stage.name} makes: it must be among its inputs, or have a reason in "
        "UNKEYED"
    )


def test_field_B19_no_key_is_left_out() -> None:
    listed = {*TRIES, *ELSEWHERE}
    missing, unknown = sorted(keys() - listed), sorted(listed - keys())
    assert not missing, (
        f"{missing}: a key that no test covers. Give it an entry in TRIES, with another value and "
        "an observer that sees its effect; or one in ELSEWHERE, with the reason and the name of "
        "the test that has it"
    )
    assert not unknown, f"{unknown}: no such key; delete its entry in TRIES or ELSEWHERE"
    assert not set(TRIES) & set(ELSEWHERE)


def test_field_B19_a_new_key_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TRIES, "rollout.temperature")
    with pytest.raises(AssertionError, match=r"rollout\.temperature.*a key that no test covers"):
        test_field_B19_no_key_is_left_out()


def test_field_B19_the_list_of_exceptions_is_short_and_names_tests() -> None:
    others = ("algorithm.", "reviser.")
    own = {key: entry for key, entry in ELSEWHERE.items() if not key.startswith(others)}
    assert len(own) <= 13
    known = names_of_tests()
    for key, (reason, test) in ELSEWHERE.items():
        assert test in known and reason, key
