"""Everything a run depends on, typed; every component, listed once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final, TextIO, cast, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.grpo import GRPO
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.ppo_penalty import PPOPenalty
from tokencredit.algorithms.procedure import PROCEDURES, Procedure
from tokencredit.algorithms.reinforce import RLOO, Reinforce
from tokencredit.algorithms.remax import ReMax
from tokencredit.config_keys import path_of, unknown_key
from tokencredit.data.dataset import Dataset, add_format
from tokencredit.errors import UserError, require
from tokencredit.fields import added, check_all_bounds, former_names, number
from tokencredit.hardware import Hardware
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.bradley_terry import BradleyTerryJudge
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.ensemble import Ensemble, EnsembleJudge
from tokencredit.judges.fit import check_advantages, check_evidence, check_fit, check_scorer
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.hindsight import HindsightJudge
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import Judge
from tokencredit.judges.panel import SameAsJudge
from tokencredit.judges.policy_attention import PolicyAttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model
from tokencredit.models.value import ValueKind
from tokencredit.reviser_settings import Reviser
from tokencredit.rewards.advantage_schemes import AdvantageScheme, Hindsight, Keep, Own
from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.controls import CONTROLS
from tokencredit.rewards.effects import DAE
from tokencredit.rewards.implicit import IMPLICIT
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR_SCHEMES
from tokencredit.rewards.uniform import Uniform
from tokencredit.settings import DPO, FIGA, SFT, Evaluation, Oracle, RewardModel, Run, Sweep, Tuning
from tokencredit.store.files import reading
from tokencredit.store.finite import check_settings
from tokencredit.store.versions import bring_up_to_date, load_kept, written_by
from tokencredit.tracking.tracking import Tracking
from tokencredit.training_settings import trainings_of
from tokencredit.user_code.plugins import NAMED, import_plugins, take_name
from tokencredit.user_code.trust import check_named


@dataclass(slots=True, kw_only=True)
class Config:
    """One run. Groups first, then stages, then what belongs to the run itself."""

    model: Model = MISSING
    dataset: Dataset = MISSING
    judge: Judge = MISSING
    scorer: Judge = MISSING
    reward_scheme: RewardScheme = MISSING
    advantage_scheme: AdvantageScheme = MISSING
    algorithm: Procedure = MISSING
    hardware: Hardware = MISSING
    tracking: Tracking = MISSING
    rollout: Sampling = field(default_factory=Sampling)
    sft: SFT = field(default_factory=SFT)
    reward_model: RewardModel = field(default_factory=RewardModel)
    dpo: DPO = field(default_factory=DPO)
    reviser: Reviser = added(field(default_factory=Reviser))
    oracle: Oracle = field(default_factory=Oracle)
    evaluation: Evaluation = field(default_factory=Evaluation)
    run: Run = field(default_factory=Run)
    sweep: Sweep = field(default_factory=Sweep)
    tuning: Tuning = added(field(default_factory=Tuning))
    steps: int = number(100, at_least=1)
    """RL steps."""
    seed: int = 0
    """Seed of the RL run."""
    stage_seed: int = 0
    """Seed of every stage before it, kept apart so that a sweep over `seed` shares them."""
    run_dir: str | None = None
    """Folder of this run; null: runs_dir/<experiment or scheme>/<key>."""
    runs_dir: str = "runs"
    """Where run folders are made."""
    store: str = "store"
    """Where artifacts are kept; $TOKENCREDIT_STORE overrides the default."""
    experiments_dir: str | None = "auto"
    """Where finished cells of an experiment are also kept, to be committed; auto: experiments/ of
    the clone that is worked in, elsewhere nowhere; null: nowhere."""
    plugins: list[str] = field(default_factory=list)
    """Filled in from --plugin: files or modules with components of your own."""

    def __post_init__(self) -> None:
        """Check what no single component can."""
        if self.advantage_scheme == MISSING:  # a default of this type would be the only one allowed
            self.advantage_scheme = Keep()
        check_all_bounds(self)
        self._fill_rates()
        check_fit(self.reward_scheme, self.judge, COMPONENTS["judge"])
        check_evidence(self.advantage_scheme, self.judge, COMPONENTS["judge"])
        check_scorer(self.judge, self.scorer)
        self.algorithm.fit_to(self.steps)
        if self.algorithm.rolls_out:
            self._check_rollouts()

    def _check_rollouts(self) -> None:
        """Raise for what responses cannot be learnt from or with: advantages, prompts, adapters."""
        check_advantages(self.advantage_scheme, self.policy_algorithm, self.model.value.kind)
        self.check_room()
        require(
            not self.model.lora.enabled or self.model.lora.dropout == 0,
            "model.lora.dropout",
            self.model.lora.dropout,
            "must be 0: with dropout the first ratio of a step is not 1",
        )

    @property
    def longest_whole(self) -> int:
        """The most tokens of a prompt that is the beginning of a text, and its response."""
        return self.dataset.prompt.max_tokens - 1 + self.rollout.longest

    def check_room(self, otherwise: str = "") -> None:
        """Raise where a prompt and its response may be longer than the context."""
        longest = self.longest_whole
        require(
            longest <= self.model.context,
            "dataset.prompt.max_tokens",
            self.dataset.prompt.max_tokens,
            f"prompt and response may have {longest} tokens, but model.context is "
            f"{self.model.context}{otherwise}",
        )

    @property
    def policy_algorithm(self) -> Algorithm:
        """The algorithm of a run with rollouts."""
        assert isinstance(self.algorithm, Algorithm)
        return self.algorithm

    @property
    def uses_values(self) -> bool:
        """Whether there is a value function to train."""
        return self.algorithm.uses_values and self.model.value.kind is not ValueKind.none

    def reads_reference(self) -> bool:
        """Whether judge or scorer read the reference's log-probabilities of a response."""
        return self.judge.reads_reference() or self.scorer.reads_reference()

    def named_code(self) -> list[str]:
        """The files and modules of the user's that it names: plug-ins and reward functions."""
        functions = [getattr(part, "function", None) for part in (self.judge, self.scorer)]
        places = [str(name).rpartition(":")[0] for name in functions if name]
        return list(dict.fromkeys([*self.plugins, *places]))

    def _fill_rates(self) -> None:
        """Set learning rates that are null to the model's, so that `config.yaml` shows numbers."""
        rates = self.model.rates
        scored = (self.reward_model, *trainings_of(self.judge), *trainings_of(self.scorer))
        kinds = [(self.sft, rates.sft), (self.dpo, rates.dpo), *((x, rates.reward) for x in scored)]
        kinds += [(x, rates.sft) for x in trainings_of(self.algorithm)]
        for training, rate in kinds:
            if training.learning_rate is None:
                training.learning_rate = rate
        self.algorithm.fill_rate(rates.rl)


COMPONENTS: Final[dict[str, list[type]]] = {
    "model": [Model],
    "dataset": [Dataset],
    "judge": [
        *(RewardModelJudge, AttentionJudge, PolicyAttentionJudge, AttributionJudge),
        *(EnsembleJudge, ImplicitJudge, FunctionJudge, DiscriminatorJudge, BradleyTerryJudge),
        *(AdvantageJudge, HindsightJudge),
    ],
    "scorer": [RewardModelJudge, Ensemble, ImplicitJudge, FunctionJudge, SameAsJudge],
    "reward_scheme": [
        *(Sparse, Uniform, *CONTROLS, Redistribute, Attribution, *IMPLICIT, *TLCR_SCHEMES, DAE),
    ],
    "advantage_scheme": [Keep, Own, Hindsight],
    "algorithm": [PPO, PPOPenalty, Reinforce, RLOO, GRPO, ReMax, *PROCEDURES, FIGA],
    "hardware": [Hardware],
    "tracking": [Tracking],
}

LATER: Final[dict[str, type]] = {"advantage_scheme": Keep}
"""Groups that files of earlier times do not have, and the component that means "as before"."""


def register() -> None:
    """Make every component known to Hydra under the name of its class."""
    _store(None, Config)
    for group, components in COMPONENTS.items():
        for component in components:
            register_component(group, component)


def register_component(group: str, component: type) -> None:
    """Make one component, a user's own for instance, available as `group=<name of a YAML file>`.

    The YAML file names the class in its defaults list. Without one, `group=<ClassName>` works too.
    A "format" has neither: `dataset.format` names it.
    """
    if group == "format":
        add_format(component)
        return
    require(group in COMPONENTS, "group", group, f"must be one of {', '.join(COMPONENTS)}, format")
    if "__slots__" not in vars(component):
        raise UserError(
            f"{component.__name__}: declare it with @dataclass(slots=True, kw_only=True); "
            "without slots a misspelt key would pass unnoticed"
        )
    take_name(group, COMPONENTS[group], component)
    if component not in COMPONENTS[group]:
        COMPONENTS[group].append(component)
    _store(group, component)


def _store(group: str | None, component: type) -> None:
    """Put a class into Hydra's store, once: nodes of all take a fifth of a composition's time."""
    store = ConfigStore.instance()
    place = store.repo if group is None else store.repo.get(group, {})
    there = place.get(f"{component.__name__}.yaml")
    if there is None or OmegaConf.get_type(there.node) is not component:
        store.store(group=group, name=component.__name__, node=component)


def load_plugins(plugins: list[str]) -> None:
    """Import every plug-in named on the command line, then those that installed packages offer."""
    import_plugins(plugins, register_component)


def load(composed: DictConfig) -> Config:
    """The typed configuration, or an error that names the key."""
    check_settings(OmegaConf.to_container(composed))
    try:
        return cast(Config, OmegaConf.to_object(composed))
    except AttributeError as error:  # a key added with '+': slots refuse it
        found = re.match(r"'(\w+)' object has no attribute '(\w+)'", str(error))
        schema = found and _schemas().get(found[1])
        if not found or not schema:
            raise
        path = path_of(composed, found[1], found[2]) or found[2]
        raise UserError(unknown_key(path, schema)) from error


def _schemas() -> dict[str, type]:
    """Every dataclass that the configuration may contain, by class name."""
    found: dict[str, type] = {}
    pending: list[type] = [Config, *(kind for kinds in COMPONENTS.values() for kind in kinds)]
    while pending:
        schema = pending.pop()
        found[schema.__name__] = schema
        for hint in get_type_hints(schema).values():
            parts = [hint, *get_args(hint)]
            classes = [part for part in parts if isinstance(part, type) and is_dataclass(part)]
            pending += [part for part in classes if part.__name__ not in found]
    return found


def dump(config: Config) -> str:
    """The whole configuration as YAML with every component's class: all another process needs."""
    plain = OmegaConf.structured(config)
    classes = {group: type(getattr(config, group)).__name__ for group in COMPONENTS}
    tree = {
        "components": classes,
        **cast(dict[str, Any], OmegaConf.to_container(plain, enum_to_str=True)),
    }
    return OmegaConf.to_yaml(OmegaConf.create(tree))


def read(path: Path | TextIO) -> Config:
    """The configuration that `dump` wrote, of the process that has composed it: its plug-ins are
    imported first.

    Of a file: an error unless the command line names its plug-ins, too (`trust`); `Damaged` where
    it holds none; a key that only another version has, or that this one misses, is an error that
    names it and the version that wrote the file.
    """
    if not isinstance(path, Path):  # from the process that has just composed it
        tree = cast(DictConfig, OmegaConf.load(path))
        load_plugins(list(tree.get("plugins", [])))
        return load(_typed(tree))
    kept = load_kept(path)
    check_named(kept.get("plugins"), path)
    load_plugins(list(NAMED))
    try:
        with reading(path):
            return load(_typed(kept))
    except (UserError, OmegaConfBaseException) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{path}: {said}; {written_by(path)}") from error


def _typed(tree: DictConfig) -> DictConfig:
    """`tree`, as `dump` wrote it, with the classes that it names."""
    schema, classes = OmegaConf.structured(Config), tree.pop("components")
    for group, kind in LATER.items():
        classes.setdefault(group, kind.__name__)
        tree.setdefault(group, {})
    for group, name in classes.items():
        schema[group] = OmegaConf.structured(component_named(group, present_name(group, name)))
    bring_up_to_date(schema, tree)
    return cast(DictConfig, OmegaConf.merge(schema, tree))


def present_name(group: str, name: str) -> str:
    """Today's name of a component that a file of an earlier time calls `name`."""
    known = {old: kind.__name__ for kind in COMPONENTS.get(group, []) for old in former_names(kind)}
    return known.get(name, name)


def component_named(group: str, name: str) -> type:
    """The registered class of that name."""
    for component in COMPONENTS[group]:
        if component.__name__ == name:
            return component
    known = ", ".join(component.__name__ for component in COMPONENTS[group])
    raise UserError(
        f"{group}: no component {name!r} is registered (known: {known}); is a --plugin missing?"
    )
