"""Pairs that the SFT model says itself, in the order of the reward model's scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import EOS_ID, PAD_ID, make_rollout, train_tokenizer
from dpo_places import corpus_of, place, text_records
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.pairs import as_rollout
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.scorer import open_scorer
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.settings import DPO, PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.sampled_pairs import (
    SampledPairsStage,
    load_sampled,
    pairs_of,
    survives,
)
from tokencredit.store.artifacts import Artifact
from tokencredit.store.jsonl import read_jsonl

SETTINGS = DPO(
    learning_rate=1e-3,
    pairs=PairSource.sampled,
    prompts=19,
    held_out=6,
    batch_size=4,
    max_length=48,
)
CORPUS = corpus_of(rl=text_records(9), eval=text_records(7, start=50))


def sampling_place(folder: Path, settings: DPO = SETTINGS) -> Context:
    context = place(folder, settings, corpus=CORPUS)
    context.config.dataset.prompt = PromptSpec(min_tokens=2, max_tokens=6, min_characters=40)
    context.config.rollout = Sampling(min_new_tokens=2, max_new_tokens=9, chunk=8)
    return context


def built(context: Context) -> dict[str, Artifact]:
    return {stage.name: context.store.build(stage) for stage in all_stages(context)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, dict[str, Artifact]]:
    context = sampling_place(tmp_path_factory.mktemp("sampled"))
    return context, built(context)


def test_scores_order_the_pairs(made: tuple[Context, dict[str, Artifact]]) -> None:
    context, artifacts = made
    folder = artifacts["sampled_pairs"].path
    rows = read_jsonl(folder / "train.jsonl")
    figures = artifacts["sampled_pairs"].manifest["figures"]
    assert len(rows) == figures["train/pairs"] > 10
    assert len(rows) + sum(figures["train/dropped"].values()) == 19
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows)
    settings, place = context.config, artifacts["reward_model"].path
    scorer = open_scorer(
        place, train_tokenizer(), settings.model, settings.reward_model.score_at, "cpu"
    )
    for side in ("chosen", "rejected"):
        said = [row[f"{side}_ids"] for row in rows]
        rollout = as_rollout([row["prompt_ids"] for row in rows], said, PAD_ID)
        expected = torch.tensor([row[f"{side}_score"] for row in rows])
        assert torch.allclose(scorer.score(rollout), expected, atol=1e-5)


def test_texts_and_ids_agree_and_lost_ones_are_counted(
    made: tuple[Context, dict[str, Artifact]],
) -> None:
    _, artifacts = made
    artifact, tokenizer = artifacts["sampled_pairs"], train_tokenizer()
    for name in ("train", "held_out"):
        rows = read_jsonl(artifact.path / f"{name}.jsonl")
        for row in rows:
            for side in ("prompt", "chosen", "rejected"):
                text = tokenizer.decode(row[f"{side}_ids"], skip_special_tokens=True)
                assert row[side] == text
        lost = sum(not row["round_trip"] for row in rows)
        assert artifact.manifest["figures"][f"{name}/round_trip_failures"] == lost
        pairs = load_sampled(artifact.path, name)
        assert [p.chosen_ids for p in pairs] == [row["chosen_ids"] for row in rows]


def test_both_responses_have_one_limit_and_prompts_come_from_their_splits(
    made: tuple[Context, dict[str, Artifact]],
) -> None:
    _, artifacts = made
    folder = artifacts["sampled_pairs"].path
    for row in read_jsonl(folder / "train.jsonl"):
        lengths = [len(row["chosen_ids"]), len(row["rejected_ids"])]
        ended = [row[f"{side}_ids"][-1] == EOS_ID for side in ("chosen", "rejected")]
        assert row["row"] < 9 and max(lengths) <= 8
        assert lengths[0] == lengths[1] or any(ended)
    assert all(row["row"] >= 50 for row in read_jsonl(folder / "held_out.jsonl"))


def test_dpo_trains_on_them(made: tuple[Context, dict[str, Artifact]]) -> None:
    _, artifacts = made
    figures = artifacts["dpo"].manifest["figures"]
    assert figures["pairs"] == artifacts["sampled_pairs"].manifest["figures"]["train/pairs"]
    assert figures["steps"] == figures["pairs"] // 4
    assert 0 <= figures["accuracy_low"] <= figures["accuracy"]


def test_chunks_and_number_do_not_change_what_is_said(
    made: tuple[Context, dict[str, Artifact]], tmp_path: Path
) -> None:
    _, artifacts = made
    fewer = built(sampling_place(tmp_path, replace(SETTINGS, prompts=8)))["sampled_pairs"].path
    rows = read_jsonl(artifacts["sampled_pairs"].path / "train.jsonl")
    again = read_jsonl(fewer / "train.jsonl")
    assert again == rows[: len(again)] and len(again) > 3


def test_its_key_follows_sampling_and_numbers(tmp_path: Path) -> None:
    context = sampling_place(tmp_path)
    key = SampledPairsStage(context).key
    context.config.rollout = replace(context.config.rollout, temperature=0.5)
    warmer = SampledPairsStage(context).key
    other = SampledPairsStage(sampling_place(tmp_path, replace(SETTINGS, prompts=20))).key
    beta = SampledPairsStage(sampling_place(tmp_path, replace(SETTINGS, beta=0.5))).key
    assert len({key, warmer, other}) == 3 and beta == key


def test_pairs_without_an_order_are_told_apart_by_hand() -> None:
    rollout = make_rollout([3, 3, 2, 2, 2, 2])
    rollout.response_ids[1] = rollout.response_ids[0]
    found = list(pairs_of(rollout, [1.0, 2.0, 0.5, 0.5, -1.0, 3.0], train_tokenizer()))
    assert found[:2] == ["equal responses", "equal scores"]
    assert isinstance(found[2], dict)
    assert found[2]["chosen_ids"] == rollout.response_ids[5, :2].tolist()
    assert (found[2]["chosen_score"], found[2]["rejected_score"]) == (3.0, -1.0)


def test_a_text_that_is_read_in_other_pieces_does_not_survive() -> None:
    tokenizer = train_tokenizer()
    whole = tokenizer("the movie")["input_ids"]
    letters = [tokenizer(letter)["input_ids"][0] for letter in "the"]
    assert survives(whole, tokenizer) and survives([*whole, EOS_ID], tokenizer)
    assert not survives(letters, tokenizer)
