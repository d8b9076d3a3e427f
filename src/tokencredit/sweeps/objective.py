"""What a sweep is for: `sweep.objective`, one number of a run, or several, by name in results.json.

It is what the function that Hydra calls returns, so that a sweeper such as Optuna can choose by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.store.files import read_json, reading
from tokencredit.store.run_folder import RESULTS

KEY: Final = "sweep.objective"
WHOLE: Final = ("wall_seconds", "steps")
"""Numbers of results.json that are of the run as a whole."""
VALUE_LOSS: Final = "value/loss"
Measures = dict[str, dict[str, float]]
"""Mean, standard error, and count, by name."""
Value = float | list[float] | None


class Unknown(UserError):
    """A sweep's objective that its runs will not have; no cell of it need be tried."""


class Failed(float):
    """The NaN of a failed cell, for a sweeper that can only be told so by an exception.

    Optuna's takes what cannot be made a number for a failed trial, and breaks off at a plain NaN.
    """

    def __new__(cls) -> Self:
        """There is one such number."""
        return super().__new__(cls, math.nan)

    def __float__(self) -> float:
        """Raise ValueError."""
        raise ValueError("the cell failed, so it has no value")

    def __reduce__(self) -> tuple[type[Failed], tuple[()]]:
        """Workers of launchers hand it back."""
        return Failed, ()


def listed(objective: Any) -> list[str]:
    """The names in a value of `sweep.objective`."""
    if objective is None:
        return []
    return [objective] if isinstance(objective, str) else [str(name) for name in objective]


def names(config: Config) -> list[str]:
    """The numbers that results.json of this configuration's run will hold."""
    from tokencredit.rl import evaluate  # it needs torch, and few runs are asked for a number

    rated, perplexity = config.oracle.enabled, config.evaluation.perplexity
    if not config.algorithm.rolls_out:
        alone = evaluate.names(oracle=True, dpo=False, perplexity=perplexity, paid=False)
        return [*alone, *WHOLE] if rated else []
    valued = config.uses_values
    last = [name for name in evaluate.HEADLINE if valued or name != VALUE_LOSS]
    dpo = any(isinstance(each, ImplicitJudge) for each in (config.judge, config.scorer))
    own = evaluate.names(oracle=rated, dpo=dpo, perplexity=perplexity)
    return [*own, *last, *WHOLE]


def check(config: Config) -> None:
    """Raise `Unknown` for an objective that the configuration's run will not have."""
    wanted = listed(config.sweep.objective)
    known = names(config) if wanted else []
    unknown = [name for name in wanted if name not in known]
    if unknown and not known:
        raise Unknown(
            f"{KEY} = {unknown[0]!r}: this algorithm stops before RL and leaves no results.json "
            "without an oracle; leave the objective out, or set oracle.enabled=true"
        )
    if unknown:
        raise Unknown(
            f"{KEY} = {unknown[0]!r}: results.json will have no such number; choose one of "
            f"{', '.join(known)}"
        )


def measures(place: Path) -> Measures:
    """Every number of a finished run by name: of its folder, or of its committed cell (.csv)."""
    path = place / RESULTS if place.is_dir() else place.with_suffix(".json")
    if not path.is_file():
        return {}
    results = read_json(path)
    with reading(path):
        whole = {name: results[name] for name in WHOLE if name in results}
        return {
            **{name: {"mean": float(x), "se": 0.0, "n": 1} for name, x in whole.items()},
            **results.get("metrics", {}),
            **results.get("evaluation", {}),
        }


def value(wanted: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> Value:
    """What the sweeper is told of a finished cell: a number for one name, a list for several."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(
            f"{KEY} = {missing[0]!r}: the run has no such number; it has {', '.join(found)}"
        )
    means = [float(found[name]["mean"]) for name in wanted]
    return _one_or_all(means)


def of_failed(wanted: Sequence[str], sweeper: str) -> Value:
    """What the sweeper is told of a failed cell: NaN for each name."""
    return _one_or_all([Failed() if sweeper == "optuna" else math.nan for _ in wanted])


def of_planned(wanted: Sequence[str]) -> Value:
    """What the sweeper is told of a cell that is only planned: 0 for each name."""
    return _one_or_all([0.0 for _ in wanted])


def _one_or_all(numbers: list[float]) -> Value:
    if not numbers:
        return None
    return numbers[0] if len(numbers) == 1 else numbers
