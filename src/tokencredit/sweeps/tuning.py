"""`tokencredit tune`: which methods an experiment compares, on which terms, and what it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokencredit.composing.chosen import Chosen, chosen
from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.papers.grids import Point
from tokencredit.papers.pilot_files import choice_file, choice_text, rows_file
from tokencredit.papers.pilots import Choice, Terms, Trial, check_terms, chosen_points
from tokencredit.settings import Tuning
from tokencredit.store.artifacts import check_writable
from tokencredit.store.files import read_text, write_text
from tokencredit.store.pilots import PILOT
from tokencredit.user_code.plugins import shipped

OWN: Final = ("method", "reward_scheme", "advantage_scheme", "seed", "stage_seed", "run_dir")
"""Keys that a tuning sets itself."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """An experiment whose methods are tuned."""

    experiment: str
    scale: str
    typed: Sequence[str]
    """The overrides of the command."""
    folders: Sequence[Path]
    """Of --config-dir."""
    plugins: Sequence[str]
    terms: Terms
    cells: Path
    """The folder of the experiment's committed cells."""
    untuned: Sequence[str] = ()
    """Methods without a grid that follow none."""
    keeps: bool = True
    """Whether there is a folder for rows; without one a tuning can only be planned."""

    @property
    def rows(self) -> Path:
        """The file of the pilot runs."""
        return rows_file(self.cells, self.scale)

    def config(self, trial: Trial) -> Config:
        """The configuration of a pilot run: that of a whole run with fewer steps, so that what
        follows from the number of steps (a schedule's horizon) is the same. No cell is kept of it.
        """
        point = trial.point.overrides()
        overrides = [*self.typed, f"method={trial.method}", f"seed={trial.seed}", *point]
        config = chosen(overrides, self.folders).config
        config.plugins = list(self.plugins)
        config.steps = trial.steps
        config.experiments_dir = None
        config.run.figures = False
        config.run.job_type = PILOT
        return config


def read_comparison(
    typed: Sequence[str], folders: Sequence[Path] = (), plugins: Sequence[str] = ()
) -> Comparison:
    """The comparison that an experiment's sweep of methods makes.

    Raises `UserError` where it has no methods, or they cannot be tuned on equal terms.
    """
    for text in typed:
        key = text.lstrip("+~").partition("=")[0]
        require(key not in OWN, key, text.partition("=")[2], "is set by `tokencredit tune` itself")
    base = chosen(typed, folders)
    name = base.config.run.experiment
    require(bool(name), "experiment", name, "name the experiment whose methods are to be tuned")
    methods = [part.strip() for part in base.swept.get("method", "").split(",") if part.strip()]
    if not methods:
        raise UserError(
            f"experiment = {name!r}: sweeps no methods at scale={base.options['scale']}; list them "
            "in hydra.sweeper.params.method, each a file of conf/method"
        )
    folder = base.config.experiments_dir
    each = {method: chosen([*typed, f"method={method}"], folders) for method in methods}
    terms = _terms(each)
    check_terms(terms)
    _check_typed(typed, terms)
    tuned = terms.grids.keys() | terms.follows.keys()
    return Comparison(
        experiment=str(name),
        scale=base.options["scale"],
        typed=tuple(typed),
        folders=tuple(folders),
        plugins=tuple(plugins),
        terms=terms,
        cells=Path(folder or "experiments").expanduser() / str(name),
        keeps=folder is not None,
        untuned=tuple(method for method in methods if method not in tuned),
    )


def _terms(each: dict[str, Chosen]) -> Terms:
    """The terms that the methods' files declare, which must agree."""
    tunings: dict[str, Tuning] = {method: made.config.tuning for method, made in each.items()}
    tuned = {method: made.config for method, made in each.items() if made.config.tuning.grid}
    for method, config in tuned.items():
        for key, value, fits in (
            ("algorithm", type(config.algorithm).__name__, config.algorithm.rolls_out),
            ("oracle.enabled", config.oracle.enabled, config.oracle.enabled),
        ):
            rule = f"method {method} cannot be tuned: its runs have no rating by the oracle"
            require(fits, key, value, rule)
    for key, values in (
        ("steps", {config.steps for config in tuned.values()}),
        ("tuning.kl", {config.tuning.kl for config in tuned.values()}),
    ):
        rule = "must be the same for all methods that are compared"
        require(len(values) < 2, key, sorted(values), rule)
    first = next(iter(tuned.values()), None)
    return Terms(
        grids={method: config.tuning.grid for method, config in tuned.items()},
        follows={m: tuning.follows for m, tuning in tunings.items() if tuning.follows},
        steps=first.steps if first else 1,
        kl=first.tuning.kl if first else Tuning().kl,
    )


def _check_typed(typed: Sequence[str], terms: Terms) -> None:
    """Raise for a key that is typed for all runs although a grid varies it."""
    for text in typed:
        key, _, value = text.lstrip("+~").partition("=")
        for method, grid in terms.grids.items():
            rule = f"is in the grid of method {method}, which tries values of its own; leave it out"
            require(key not in grid, key, value, rule)


def check_places(comparison: Comparison) -> None:
    """Raise where rows or choices cannot be written; before anything is computed."""
    if not comparison.keeps:
        raise UserError(
            "experiments_dir = None: pilot runs are kept beside the experiment's cells; work in a "
            "clone, or name a folder (experiments_dir=experiments)"
        )
    conf = conf_of(comparison)
    for method in [*comparison.terms.grids, *comparison.terms.follows]:
        place = choice_file(conf, comparison.experiment, comparison.scale, method)
        known = shipped(conf, place)
        if comparison.folders and known is not None:
            raise UserError(
                f"--config-dir {conf}: {known} has chosen already, and no file "
                "of yours may have its name; tune an experiment of your own, or work in a clone"
            )
    check_writable(comparison.rows.parent, "experiments_dir")
    check_writable(conf, "--config-dir")


def conf_of(comparison: Comparison) -> Path:
    """Where the choices are written: the first folder of --config-dir, else conf/ of the clone."""
    if comparison.folders:
        return comparison.folders[0]
    clone = Path("conf")
    if not (clone / "train.yaml").is_file():
        raise UserError(
            "--config-dir: the choice is a file that the experiment reads; work in a clone, or "
            "name a folder of your own for it"
        )
    return clone


def write_choices(comparison: Comparison, choices: dict[str, Choice]) -> list[Path]:
    """Write the chosen point of every method; the files that changed."""
    conf, changed = conf_of(comparison), []
    for method, point in chosen_points(choices, comparison.terms).items():
        path = choice_file(conf, comparison.experiment, comparison.scale, method)
        text = choice_text(point, _source(comparison, method))
        if not path.is_file() or read_text(path) != text:
            write_text(path, text)
            changed.append(path)
    return changed


def _source(comparison: Comparison, method: str) -> str:
    leader = comparison.terms.follows.get(method)
    return comparison.rows.as_posix() + (f", as method {leader}" if leader else "")


def say_point(method: str, point: Point) -> str:
    """A method and a point, as lines of progress name them."""
    short = " ".join(f"{key.rpartition('.')[2]}={value:g}" for key, value in point.values)
    return f"{method} {short}"


def say_written(paths: Sequence[Path]) -> None:
    """Say which choices were written."""
    for path in paths:
        say(f"tune: wrote {path}")
