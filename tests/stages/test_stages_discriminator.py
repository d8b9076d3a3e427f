"""The stage that trains a discriminator: what it learns from, what it leaves, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import train_tokenizer
from built_stages import build, furnish, stage_of
from tokencredit.config import Config
from tokencredit.data.edits import check_lengths
from tokencredit.data.pairs import Pair, read_pairs
from tokencredit.data.revisions import record_of
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.settings import PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.discriminator import DiscriminatorStage, edited
from tokencredit.stages.results import scored_samples
from tokencredit.store.files import read_json
from tokencredit.training_settings import Start


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("discriminator"))


def config_of(place: Path, **settings: Any) -> Config:
    """A run that has a discriminator, its judge with these settings."""
    config: Config = stage_of("discriminator", place, place / "store").context.config
    assert isinstance(config.judge, DiscriminatorJudge)
    return replace(config, judge=replace(config.judge, **settings))


def test_its_figures_are_those_of_held_out_revisions(place: Path) -> None:
    stage = stage_of("discriminator", place, place / "store")
    artifact, before = build(stage), stage.figures_before()
    figures = artifact.manifest["figures"]
    numbers = read_json(artifact.path / "evaluation.json")
    assert figures["held_out"] == numbers["pairs"] == 4  # reviser.held_out
    assert figures["pairs"] == before["revisions"]["revisions/kept"] > 4
    for name in ("accuracy", "accuracy_low", "accuracy_high", "f1", "calibration_error", "edited"):
        assert figures[name] == numbers[name]
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
    assert len(figures["curve"]["loss"]) == figures["steps"] == figures["pairs"] // 4
    assert (artifact.path / "evaluation.png").is_file()
    config = json.loads((artifact.path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert len(config.get("id2label", {0: "", 1: ""})) == 2


def test_what_it_starts_from_is_its_parent_and_in_its_key(place: Path) -> None:
    sft, base = (
        DiscriminatorStage(Context(config_of(place, init=start)))
        for start in (Start.sft, Start.base)
    )
    assert set(sft.parents()) == {"sft", "revisions"}
    assert set(base.parents()) == {"revisions"}
    assert sft.key != base.key


def test_labels_are_those_of_the_ids_that_are_read() -> None:
    ids = TokenIds(train_tokenizer())
    row = {"row": 0, "prompt": "the film", "rejected": " was bad and long", "chosen": ""}
    record = record_of({**row, "revised": " was good and long"})
    (pair,), _ = read_pairs([record], ids, 90)
    found = edited(pair, ids)
    assert pair.rejected_ids[-1] == pair.chosen_ids[-1] == ids.end
    assert len(found.rejected) == len(pair.rejected_ids) - 1
    assert len(found.revised) == len(pair.chosen_ids) - 1
    out = [i for i, x in zip(pair.rejected_ids, found.rejected, strict=False) if x == 0]
    put = [i for i, x in zip(pair.chosen_ids, found.revised, strict=False) if x == 1]
    assert out and put and ids.tokenizer.decode(out).strip() in "bad"
    assert ids.tokenizer.decode(put).strip() in "good"


def test_labels_of_other_ids_are_an_error_with_both_texts() -> None:
    with pytest.raises(UserError, match=r"2 and 1 labels for 2 and 2 tokens .* 'bad'.* 'good'"):
        check_lengths(((0.0, 0.5), (1.0,)), ([5, 6], [7, 6]), ("bad", "good"))


def test_too_short_a_length_leaves_nothing_to_learn_from(place: Path) -> None:
    config = config_of(place)
    assert isinstance(config.judge, DiscriminatorJudge)
    short = replace(config.judge.training, max_length=8)
    stage = DiscriminatorStage(
        Context(replace(config, judge=replace(config.judge, training=short)))
    )
    with pytest.raises(UserError, match=r"judge\.training\.max_length = 8: no revision is left"):
        build(stage)


def test_without_held_out_revisions_there_is_no_accuracy(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(place)
    config = replace(config, reviser=replace(config.reviser, held_out=0))
    figures = build(DiscriminatorStage(Context(config))).manifest["figures"]
    assert figures["held_out"] == 0 and "accuracy" not in figures
    assert "no revision is held out" in capsys.readouterr().err


def test_another_judge_has_no_such_stage(place: Path) -> None:
    config = stage_of("reward model of pairs", place, place / "store").context.config
    with pytest.raises(UserError, match="must be judge=discriminator"):
        DiscriminatorStage(Context(config)).parents()


def test_pairs_that_the_reward_model_has_ordered_count_as_scored(place: Path) -> None:
    config = config_of(place)
    alone = scored_samples(config, 3)
    sampled = replace(config, reviser=replace(config.reviser, pairs=PairSource.sampled))
    assert scored_samples(sampled, 3) == alone + 2 * config.dpo.prompts


def test_a_pair_of_one_token_is_labelled() -> None:
    ids = TokenIds(train_tokenizer())
    found = edited(Pair(prompt_ids=[5], rejected_ids=[7, 0], chosen_ids=[8, 0]), ids)
    assert (found.rejected, found.revised) == ((0.0,), (1.0,))
