"""Prints, for every cell of every experiment, the stages with what their keys are hashes of.

Runs in a tree of any age: what it needs is found by name, wherever it lies. What only the hub has
or a file of the user's has is replaced: a model's commit by zeros, rows by the few below.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

import tokencredit.train  # noqa: F401 - loads what is looked up by name
from tokencredit import config as configuration

with suppress(ModuleNotFoundError):  # a later room, which `train` reads when it begins to work
    import_module("tokencredit.sweeps.cell")

POST = {"title": "t", "subreddit": "s", "post": "It was long, and I said so."}


def rows(*_: Any, **__: Any) -> Any:
    """Pairs in the forms of the data sets that experiments name."""
    for number in range(200):
        start = f"\n\nHuman: What of film {number}?\n\nAssistant: It was "
        yield {
            "chosen": f"{start}good.",
            "rejected": f"{start}bad.",
            "prompt": start,
            "info": {**POST, "post": f"{POST['post']} {number}", "id": str(number)},
            "summaries": [{"text": f"It was good, {number}."}, {"text": f"It was bad, {number}."}],
            "choice": number % 2,
        }


STANDING_IN = {
    "hub_rows": rows,
    "file_rows": rows,
    "paths_of": lambda *_: [Path("rows")],
    "stamp": lambda *_: (),
    "hub_commit": lambda *_, **__: "0" * 40,
    "find_adapter": lambda *_, **__: None,
}


def modules() -> list[Any]:
    """The modules of the package that are loaded."""
    return [module for name, module in list(sys.modules.items()) if name.startswith("tokencredit")]


def named(name: str) -> Any:
    """What the package calls so, in whichever module it lies."""
    return next(vars(module)[name] for module in modules() if name in vars(module))


def replace() -> None:
    """Put the stand-ins everywhere their names are used."""
    for module in modules():
        for name, stand_in in STANDING_IN.items():
            if callable(getattr(module, name, None)):
                setattr(module, name, stand_in)


@cache
def composed(arguments: tuple[str, ...]) -> Any:
    """What Hydra makes of overrides, its own part included."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(named("conf_dir")()), version_base="1.3"):
        return compose("train", list(arguments), return_hydra_config=True)


def cells(arguments: list[str]) -> list[list[str]]:
    """The overrides of every cell of an experiment's own sweep."""
    params = composed(tuple(arguments)).hydra.sweeper.params or {}
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    values = [
        list(item.sweep_string_iterator()) if item.is_sweep_override() else [item.value()]
        for item in parsed
    ]
    keys = [item.key_or_group for item in parsed]
    combined = itertools.product(*values)
    return [[f"{k}={v}" for k, v in zip(keys, cell, strict=True)] for cell in combined]


def stages(arguments: list[str], experiments: str) -> dict[str, Any]:
    """Every stage of a cell, and whether the cell is kept among the committed ones."""
    seeds = [text.partition("=")[2] for text in arguments if text.startswith("seed=")]
    whole = composed(tuple(text for text in arguments if not text.startswith("seed=")))
    choices = whole.hydra.runtime.choices
    tree = copy.deepcopy(whole)
    with open_dict(tree):
        del tree["hydra"]
        tree.seed = int(seeds[-1]) if seeds else tree.seed  # composing takes long, seeds are many
    config = configuration.load(tree)
    config.run.experiment, config.run.scale = choices["experiment"], choices["scale"]
    config.run.scheme = choices.get("method") or choices["reward_scheme"]
    config.model.name = named("shown_name")(config.model)
    config.experiments_dir = experiments
    found = named("all_stages")(named("Context")(config))
    return {
        "stages": [[stage.name, stage.key, stage.identity] for stage in found],
        "done": named("committed_cell")(config) is not None,
    }


def main(experiments: str) -> None:
    """One line of JSON for each cell."""
    configuration.register()
    root = Path(named("conf_dir")()) / "experiment"
    names = sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )
    for name, scale in itertools.product(names, ("cpu", "paper")):
        sized = [f"experiment={name}", f"scale={scale}"]
        for cell in cells(sized):
            replace()  # modules load when they are first used
            try:
                said = stages([*sized, *cell], experiments)
            except Exception as error:  # noqa: BLE001 - both sides must say the same
                said = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps({"cell": " ".join([*sized, *cell]), **said}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
