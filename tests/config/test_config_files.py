"""Every file of conf/ composes, is loaded, says something new, and is documented by its schema."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import MISSING, OmegaConf

from tokencredit import config as configuration
from tokencredit.canonical import flatten
from tokencredit.config import COMPONENTS, Config
from tokencredit.rewards.scheme import Evidence
from tokencredit.train import conf_dir

from .make_snapshots import ONE_SIZE, composed, load, loaded_files, sized

pytestmark = pytest.mark.xdist_group("composed")  # one process, which composes each once

CONF = conf_dir()
FILES = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
# What else must be chosen for an option to make a whole configuration.
COMPANIONS = {
    "advantage_scheme/hindsight": ["reward_scheme=rto"],
    "advantage_scheme/own": ["reward_scheme=rto"],
    "dataset/file": ["dataset.path=reviews.jsonl"],
    "dataset/pairs": ["dataset.path=pairs.jsonl"],
    "judge/advantage": ["reward_scheme=rto"],
    "judge/attribution": ["reward_scheme=attribution"],
    "judge/bradley_terry": ["reward_scheme=sparse"],
    "judge/bradley_terry_dae": ["reward_scheme=sparse"],
    "judge/discriminator": ["reward_scheme=tlcr"],
    "judge/function": ["judge.function=f.py:g", "reward_scheme=sparse"],
    "judge/hindsight": ["reward_scheme=sparse"],
    "judge/reward_model": ["reward_scheme=sparse"],
    "judge/implicit": ["reward_scheme=rto"],
    "judge/implicit_sentences": ["reward_scheme=semi_rto"],
    "scorer/function": ["scorer.function=f.py:g"],
}
EVERY_EXPERIMENT = sized()
WHOLE = {"experiment", "scaled", "tuned"}
"""Groups of whole experiments."""
MOST_LEAVES = 265
"""A third of them are the numbers of the algorithm and of its optimizers."""


def overrides_for(file: Path) -> list[str]:
    """A command line that makes Hydra read this file."""
    group, _, option = file.as_posix().partition("/")
    if group == "method":
        return [f"method={option}"]
    if group == "tuned":
        place, _, method = option.rpartition("/")
        experiment, _, scale = place.rpartition("_")
        return [f"experiment={experiment}", f"scale={scale}", f"method={method}"]
    if group == "scaled":
        experiment, _, scale = option.rpartition("_")
        return [f"experiment={experiment}", f"scale={scale}"]
    return [f"{group}={option}", *COMPANIONS.get(file.as_posix(), [])]


CHOICES = [file for file in FILES if file.as_posix() != "train" and file.parts[0] != "hydra"]


@pytest.mark.parametrize("file", CHOICES, ids=lambda file: file.as_posix())
def test_every_file_composes_and_loads(file: Path) -> None:
    overrides = overrides_for(file)
    assert file.as_posix() in loaded_files(*overrides)
    load(*overrides)


def test_every_group_of_the_design_is_there() -> None:
    wanted = "model dataset judge scorer reward_scheme algorithm hardware tracking experiment scale"
    assert set(wanted.split()) <= set(GROUPS)


@pytest.mark.parametrize(
    ("experiment", "scale"), [pair for pair in EVERY_EXPERIMENT if pair[0] not in ONE_SIZE]
)
def test_numbers_of_an_experiment_are_really_loaded(experiment: str, scale: str) -> None:
    overrides = [f"experiment={experiment}", f"scale={scale}"]
    assert (CONF / "scaled" / f"{experiment}_{scale}.yaml").is_file()
    files = loaded_files(*overrides)
    assert files.index(f"scaled/{experiment}_{scale}") > files.index(f"scale/{scale}")
    assert files.index(f"scale/{scale}") > files.index(f"experiment/{experiment}")
    values = flatten(yaml(Path("scaled") / f"{experiment}_{scale}"))
    tree, _ = composed(*overrides)
    for key, value in values.items():
        other = re.fullmatch(r"\$\{([\w.]+)\}", str(value))  # the value of another key
        wanted = OmegaConf.select(tree, other[1]) if other else value
        assert OmegaConf.select(tree, key) == wanted, key


@pytest.mark.parametrize(("experiment", "scale"), EVERY_EXPERIMENT)
def test_command_line_beats_experiment_beats_defaults(experiment: str, scale: str) -> None:
    config = load(f"experiment={experiment}", f"scale={scale}", "steps=7", "seed=9")
    assert (config.steps, config.seed) == (7, 9)
    assert (config.run.experiment, config.run.scale) == (experiment, scale)


def test_self_stands_before_the_groups() -> None:
    defaults = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))["defaults"]  # type: ignore[index, call-overload]
    assert defaults[:2] == ["Config", "_self_"]


def test_an_experiment_beats_train_yaml(tmp_path: Path) -> None:
    """What `_self_` in another place would break without a sound."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\nseed: 7\nsteps: 11\n")
    configuration.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("train", ["experiment=own", f"hydra.searchpath=[file://{tmp_path}]"])
    assert (tree.seed, tree.steps) == (7, 11)


@pytest.mark.parametrize(
    "file",
    [file for file in CHOICES if file.parts[0] != "tuned"],  # a default may be what is chosen
    ids=lambda file: file.as_posix(),
)
def test_no_file_repeats_a_default_of_its_schema(file: Path) -> None:
    package = "" if is_global(file) else file.parts[0]
    config = load(*overrides_for(file))
    defaults = flatten(schema_defaults(config))
    others = set_by_options_of(file)
    for key, value in flatten(yaml(file)).items():
        path = f"{package}.{key}".strip(".")
        back = any(path.endswith(other) for other in others)  # what an option has changed
        assert back or value == "???" or defaults.get(path, MISSING) != value, (
            f"{path}: {value} is the default"
        )


@pytest.mark.parametrize("schema", configuration._schemas().values(), ids=lambda s: s.__name__)
def test_every_field_of_every_schema_is_explained(schema: type) -> None:
    assert (schema.__doc__ or "").strip()
    assert not schema.__doc__.startswith(f"{schema.__name__}(")  # type: ignore[union-attr]
    hints = get_type_hints(schema)
    for name, explained in own_fields(schema):
        section = is_dataclass(hints[name])  # explained by its own class
        assert explained or section, f"{schema.__name__}.{name} has no docstring beneath it"


@pytest.mark.parametrize("schema", configuration._schemas().values(), ids=lambda s: s.__name__)
def test_every_schema_refuses_unknown_attributes(schema: type) -> None:
    for item in schema.__mro__[:-1]:
        assert "__slots__" in vars(item), item


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        *([f"experiment={name}", f"scale={scale}"] for name, scale in EVERY_EXPERIMENT),
        *(overrides_for(file) for file in CHOICES if file.parts[0] not in WHOLE),
        ["model.lora.enabled=true", "model.reward.source=hub", "model.reward.name=a/b"],
        ["algorithm.optimizer.schedule=linear", "algorithm.optimizer.schedule_steps=100"],
        ["dataset.positive=[good,'1']", "tracking.tags=[a b,'c: d','#e']", "run_dir='a b: c'"],
        [
            "judge=function",
            "judge.function='C:\\x y.py:f'",
            "reward_scheme=uniform",
            "scorer=judge",
        ],
    ],
    ids=lambda overrides: " ".join(overrides) or "default",
)
def test_a_configuration_written_and_read_is_the_same(overrides: list[str], tmp_path: Path) -> None:
    config = load(*overrides)
    (tmp_path / "config.yaml").write_text(configuration.dump(config), encoding="utf-8")
    again = configuration.read(tmp_path / "config.yaml")
    assert again == config
    assert configuration.dump(again) == configuration.dump(config)


def test_every_scheme_with_every_judge_fits_or_is_refused() -> None:
    from tokencredit.errors import UserError

    made: dict[str, list[Any]] = {"reward_scheme": [], "judge": []}
    for group, found in made.items():
        for option in (file.name for file in CHOICES if file.parts[0] == group):
            extra = ["judge.function=f.py:g"] if option == "function" else []
            tree, _ = composed(f"{group}={option}", *extra)
            found.append(OmegaConf.to_object(tree[group]))
    base, seen = load(), set()
    for paid, read in product(*made.values()):
        ends = read.gives_ends() or not paid.reads_ends
        fits = ends and paid.evidence in {Evidence.none, read.gives()}
        seen.add(fits)
        if fits:
            assert replace(base, reward_scheme=paid, judge=read).judge.evidence is not None
        else:
            with pytest.raises(UserError, match="judge"):
                replace(base, reward_scheme=paid, judge=read)
    assert seen == {True, False}


def test_the_composed_configuration_stays_small() -> None:
    tree, _ = composed()
    assert len(flatten(OmegaConf.to_container(tree))) <= MOST_LEAVES


def test_every_component_is_offered_by_a_file() -> None:
    for group, components in COMPONENTS.items():
        named = {
            str(item)
            for path in (CONF / group).rglob("*.yaml")
            for item in (OmegaConf.to_container(OmegaConf.load(path)) or {}).get("defaults", [])  # type: ignore[union-attr]
        }
        for component in components:
            assert (
                component.__module__.startswith("tokencredit_file_") or component.__name__ in named
            )


def yaml(file: Path) -> dict[str, Any]:
    """What a file sets, without its defaults list and Hydra's own part."""
    content = OmegaConf.to_container(OmegaConf.load(CONF / file.with_suffix(".yaml")))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key not in {"defaults", "hydra"}}


def set_by_options_of(file: Path) -> set[str]:
    """The keys that the options in a file's defaults list set, and those in theirs."""
    known, pending = {file}, [file]
    while pending:
        path = CONF / pending.pop().with_suffix(".yaml")
        content = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(content, dict)
        chosen = {
            str(name).replace("${scale}", scale)
            for entry in content.get("defaults", [])
            for name in (entry.values() if isinstance(entry, dict) else [entry])
            for scale in ("cpu", "paper")
        }
        more = [other for other in FILES if other.name in chosen and other not in known]
        known |= set(more)
        pending += more
    return {str(key) for other in known - {file} for key in flatten(yaml(other))}


def is_global(file: Path) -> bool:
    """Whether a file speaks of the whole configuration."""
    return (CONF / file.with_suffix(".yaml")).read_text().startswith("# @package _global_")


def schema_defaults(config: Config) -> Mapping[str, Any]:
    """The default of every key that has one, for the components that were chosen."""
    tree = OmegaConf.structured(Config)
    for group in COMPONENTS:
        tree[group] = OmegaConf.structured(type(getattr(config, group)))
    plain = OmegaConf.to_container(tree, enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def own_fields(schema: type) -> Iterator[tuple[str, bool]]:
    """The fields a class declares itself, and whether a docstring follows each."""
    names = {item.name for item in fields(schema)}
    (body,) = ast.parse(inspect.cleandoc(inspect.getsource(schema))).body
    assert isinstance(body, ast.ClassDef)
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if statement.target.id in names:
            text = following.value if isinstance(following, ast.Expr) else None
            yield statement.target.id, isinstance(text, ast.Constant) and bool(text.value)
