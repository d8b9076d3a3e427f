"""The DPO stage: what it reads, trains, leaves, and refuses; and the judge that reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders import EOS_ID, tiny_causal, train_tokenizer
from dpo_places import LORA, corpus_of, pair_records, place, saved
from policies import rolled
from tokencredit.algorithms.procedure import SupervisedOnly
from tokencredit.data.pairs import Pair, read_pairs
from tokencredit.data.records import Record
from tokencredit.errors import UserError
from tokencredit.models.loading.weights import load_causal
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.rl.load import load_actors
from tokencredit.settings import DPO, PairLoss, PairSource
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.sft import SFTStage
from tokencredit.store.artifacts import Artifact

QUICK = DPO(learning_rate=3e-3, epochs=6, batch_size=8, max_length=48, beta=0.2)


def built(context: Context) -> Artifact:
    """The artifact of the last stage; those before it are built too."""
    stages = all_stages(context)
    return [context.store.build(stage) for stage in stages][-1]


def judged(context: Context) -> Any:
    """What the run's judge says, over the live policy."""
    config = context.config
    actors = load_actors(config, context.store.get(SFTStage(context)).path)
    judge = config.judge.open(given_of(context), actors)
    return judge(rolled()), actors


@pytest.mark.parametrize("lora", [False, True])
def test_it_learns_the_pairs_and_the_judge_reads_it(tmp_path: Path, lora: bool) -> None:
    settings = replace(QUICK, learning_rate=3e-2) if lora else QUICK
    context = place(tmp_path, settings, lora=LORA if lora else None)
    artifact = built(context)
    figures = artifact.manifest["figures"]
    assert figures["accuracy"] == 1 and figures["margin_low"] > 0.2
    assert figures["loss"] < 0.69 and figures["held_out_loss"] < 0.6
    assert figures["pairs"] == 24 and figures["held_out"] == 12 and figures["steps"] == 18
    names = {path.name for path in artifact.path.iterdir()}
    assert ("adapter_model.safetensors" in names) is lora
    assert ("model.safetensors" in names) is not lora
    assert "tokenizer.json" in names and "README.md" not in names
    judgement, actors = judged(context)
    assert judgement.evidence.abs().max() > 0.05
    assert judgement.scores.shape == (4,)
    assert judgement.notes is not None
    sums = judgement.evidence.sum(dim=1)
    assert torch.allclose(judgement.scores, 0.2 * sums, atol=1e-5)
    copies = {id(actors.policy.model), *map(id, [actors.reference.frozen])}
    assert len(copies) == 2  # a policy and None with adapters, a policy and its copy without


def test_training_leaves_the_reference_and_repeats_itself(tmp_path: Path) -> None:
    first = built(place(tmp_path / "a", QUICK))
    second = built(place(tmp_path / "b", QUICK))
    weights = [load_file(a.path / "model.safetensors") for a in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert first.manifest["figures"] == second.manifest["figures"]
    sft = tmp_path / "a" / "store" / "sft"
    (before,) = sft.glob("*/model.safetensors")
    start = dict(tiny_causal().named_parameters())
    assert all(torch.equal(t, start[n]) for n, t in load_file(before).items() if n in start)
    assert any(not torch.equal(t, start[n]) for n, t in weights[0].items() if n in start)


def test_the_stage_is_the_last_one_where_it_is_asked_for(tmp_path: Path) -> None:
    context = place(tmp_path, QUICK)
    assert [stage.name for stage in all_stages(context)] == ["sft", "dpo"]
    sampled = place(tmp_path, replace(QUICK, pairs=PairSource.sampled))
    names = [stage.name for stage in all_stages(sampled)]
    assert names == ["sft", "reward_model", "sampled_pairs", "dpo"]
    only = place(tmp_path, QUICK, algorithm=SupervisedOnly())
    assert [stage.name for stage in all_stages(only)] == ["sft"]


def test_its_key_follows_what_changes_the_result(tmp_path: Path) -> None:
    key = DPOStage(place(tmp_path, QUICK)).key
    others = [
        place(tmp_path, replace(QUICK, beta=0.3)),
        place(tmp_path, QUICK, lora=LORA),
        place(tmp_path, QUICK, corpus=corpus_of(reward=pair_records(23), eval=pair_records(12))),
        place(tmp_path, replace(QUICK, pairs=PairSource.sampled)),
    ]
    keys = [DPOStage(context).key for context in others]
    assert len({key, *keys}) == 5
    same = place(tmp_path, QUICK)
    same.config.seed = 7
    same.config.steps = 3
    assert DPOStage(same).key == key


def test_a_finished_models_beta_counts_since_the_judge_multiplies_by_it(tmp_path: Path) -> None:
    finished = saved(tiny_causal(seed=9), tmp_path / "finished")
    keys = [
        DPOStage(place(tmp_path, DPO(train=False, beta=beta), dpo=finished)).key
        for beta in (0.1, 0.5)
    ]
    assert keys[0] != keys[1]


def test_a_finished_model_is_taken_over(tmp_path: Path) -> None:
    finished = saved(tiny_causal(seed=9), tmp_path / "finished")
    context = place(tmp_path, DPO(train=False), dpo=finished)
    artifact = built(context)
    mine, given = (
        load_causal(folder, context.config.model.dtype).state_dict()
        for folder in (artifact.path, tmp_path / "finished")
    )
    assert all(torch.equal(mine[name], given[name]) for name in given)
    judgement, _ = judged(context)
    assert judgement.evidence.abs().max() > 0.1


def test_a_finished_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = saved(tiny_causal("gpt2"), tmp_path / "other")
    with pytest.raises(UserError, match=r"model\.dpo: the DPO model is of another architecture"):
        built(place(tmp_path, DPO(train=False), dpo=other))


def test_records_without_rejected_answers_are_refused_before_any_work(tmp_path: Path) -> None:
    context = place(tmp_path, QUICK, corpus=corpus_of())
    with pytest.raises(UserError, match="have no rejected answer"):
        DPOStage(context).key  # noqa: B018 - the key is where inputs are read


def test_no_pair_left_is_an_error(tmp_path: Path) -> None:
    context = place(tmp_path, replace(QUICK, max_length=8))
    with pytest.raises(UserError, match=r"dpo\.max_length = 8: no pair is left .*too long"):
        built(context)


def record(completion: str, rejected: str, prompt: str = "the movie", row: int = 0) -> Record:
    return Record(row=row, text="", prompt=prompt, completion=completion, rejected=rejected)


def test_pairs_that_teach_nothing_are_dropped_and_counted() -> None:
    tokenizer = train_tokenizer()
    records = [
        record(" was good", " was bad"),
        record(" was good", " was good"),
        record("  ", " was bad"),
        record(" was good" * 40, " was bad"),
        record("vie", " was bad", prompt="the mo"),
    ]
    pairs, counts = read_pairs(records, tokenizer, 40)
    assert counts == {
        "chosen equals rejected": 1,
        "empty": 1,
        "too long": 1,
        "split at the prompt": 1,
    }
    assert len(pairs) == 2


def test_ids_are_those_of_rollouts() -> None:
    """The prompt's own ids, then the answer's, then the end token, and their text is the record's."""
    tokenizer = train_tokenizer()
    (pair,), counts = read_pairs([record(" was good", " was bad")], tokenizer, 64)
    assert counts == Counter()
    assert pair.prompt_ids == tokenizer("the movie")["input_ids"]
    for ids, text in ((pair.chosen_ids, " was good"), (pair.rejected_ids, " was bad")):
        assert ids[-1] == EOS_ID and EOS_ID not in ids[:-1]
        assert tokenizer.decode([*pair.prompt_ids, *ids[:-1]]) == f"the movie{text}"


def test_conversations_are_read_as_a_policy_says_them() -> None:
    tokenizer = train_tokenizer(chat=True)
    turns = ({"role": "user", "content": "the plot?"}, {"role": "assistant", "content": "good"})
    said = Record(row=0, text="", messages=turns, rejected="bad")
    (pair,), _ = read_pairs([said], tokenizer, 64)
    text = tokenizer.decode(pair.prompt_ids)
    assert text == "<user>the plot?\n<assistant>"
    assert tokenizer.decode(pair.chosen_ids) == "good<|endoftext|>"
    assert tokenizer.decode(pair.rejected_ids) == "bad<|endoftext|>"


def test_the_longest_side_counts() -> None:
    pair = Pair(prompt_ids=[1, 2], chosen_ids=[3], rejected_ids=[4, 5, 6])
    assert pair.longest == 5 and pair.flaw(5) is None and pair.flaw(4) == "too long"


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"beta": 0.0}, r"dpo\.beta = 0"),
        ({"prompts": 0}, r"dpo\.prompts = 0"),
        ({"held_out": 0}, r"dpo\.held_out = 0"),
        ({"label_smoothing": 0.1}, r"dpo\.label_smoothing = 0\.1: .*loss=robust"),
        ({"label_smoothing": 0.5, "loss": PairLoss.robust}, r"dpo\.label_smoothing = 0\.5"),
        ({"max_length": 4}, r"dpo\.max_length = 4"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], rule: str) -> None:
    with pytest.raises(UserError, match=rule):
        DPO(**wrong)
