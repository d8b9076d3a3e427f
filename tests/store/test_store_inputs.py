"""Every input of every stage, by its name: what it stands for changes it, and none is unlisted.

Keys are hashes of the inputs and of the parents' keys. Much of the configuration reaches a stage
through its parents as well, where a whole key changes although the stage forgot an input of its
own; so what is compared here is each entry by itself.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest

from builders import tiny_causal, train_tokenizer
from stage_changes import config, record_of
from stage_inputs import CASES, inputs, stage
from tokencredit import stages
from tokencredit.stages.context import Context
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.stage import Stage

SPLITS = ("sft", "reward", "rl", "oracle", "eval")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a judge, and records that can be read as texts, demonstrations, and pairs.

    Of each split there is a copy of the file in which one record of that split, and nothing else,
    has another label and another rejected answer.
    """
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_causal(seed=seed).save_pretrained(folder / name)
        train_tokenizer().save_pretrained(folder / name)
    for name in ("one", "two"):
        (folder / f"{name}.gguf").write_text(name)
    (folder / "judge.py").write_text("def f(prompts, responses): return [0.0] * len(responses)\n")
    rows = [record(number) for number in range(200)]
    write(folder / "base.jsonl", rows)
    parts = Context(config(folder)).corpus.parts
    for split in SPLITS:
        number = parts[split][0].row
        other = {"label": 1 - rows[number]["label"], "rejected": "No, never."}
        write(
            folder / f"{split}.jsonl", [*rows[:number], rows[number] | other, *rows[number + 1 :]]
        )
    return folder


def record(number: int) -> dict[str, Any]:
    text = f"review {number}: what is there to be said of this film"
    answers = {"completion": "Much.", "chosen": "Much.", "rejected": "Little."}
    return {"text": text, "prompt": text, **answers, "label": number % 2}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "entry"), [(name, entry) for name, case in CASES.items() for entry in case.inputs]
)
def test_an_input_is_in_the_key_under_its_own_name(place: Path, name: str, entry: str) -> None:
    case = CASES[name]
    settings = case.given(config(place))
    before = stage(case, settings)
    for change in case.inputs[entry]:
        after = stage(case, change(settings))
        assert inputs(before).get(entry) != inputs(after).get(entry)
        assert before.key != after.key


@pytest.mark.parametrize("name", CASES)
def test_no_input_of_a_stage_is_without_a_change(place: Path, name: str) -> None:
    case = CASES[name]
    found = set(inputs(stage(case, case.given(config(place)))))
    assert found <= {*case.inputs, *case.elsewhere}, "give the new one a change that it stands for"


@pytest.mark.parametrize("split", SPLITS)
def test_a_record_counts_for_the_stages_that_read_its_split(place: Path, split: str) -> None:
    """And through its fingerprint alone: everything else of the inputs stays."""
    read = {
        "rl": {"rl": "data", "eval": "eval"},
        "sft": {"sft": "data"},
        "reward_model": {"reward": "data", "eval": "eval"},
        "oracle": {"oracle": "data", "eval": "eval"},
        "dpo": {"reward": "data", "eval": "eval"},
        "sampled_pairs": {"rl": "data", "eval": "data"},
        "scratch": {"sft": "data"},
        "gguf": {},
    }
    for name, entries in read.items():
        case = CASES[name]
        settings = case.given(config(place))
        before = inputs(stage(case, settings))
        after = inputs(stage(case, record_of(split)(settings)))
        changed = {entry for entry in before if before[entry] != after[entry]}
        assert changed == ({entries[split]} if split in entries else set()), name


def test_members_of_an_ensemble_differ_by_their_number(place: Path) -> None:
    context = Context(config(place))
    first, second = RewardModelStage(context), RewardModelStage(context, member=1)
    assert "member" not in inputs(first) and inputs(second)["member"] == 1


def test_every_stage_is_listed(place: Path) -> None:
    """One that is added later would else have no test of its inputs."""
    for module in pkgutil.iter_modules(stages.__path__):
        importlib.import_module(f"{stages.__name__}.{module.name}")
    listed = {type(stage(case, case.given(config(place)))) for case in CASES.values()}
    assert {kind for kind in leaves(Stage) if kind.__module__.startswith("tokencredit.")} == listed


def leaves(base: type[Stage]) -> set[type[Stage]]:
    """The classes below that can be made."""
    below = base.__subclasses__()
    own = {kind for kind in below if not inspect.isabstract(kind)}
    return own.union(*(leaves(kind) for kind in below))
