"""Reward models of pairs: their loss, what they are trained on, and what is measured of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from builders import EOS, EOS_ID, tiny_classifier, train_tokenizer
from policies import run_config
from preferences import BAD, GOOD, furnish_pairs, pair_config, pair_row, with_model
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.pairs import Pair, as_rollout, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.sources import Source
from tokencredit.data.splits import Objective
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.loading.model import Dtype, ModelSource, Pretrained, load_tokenizer
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.scorer import Scorer
from tokencredit.ops import pair_loss
from tokencredit.settings import RewardModel
from tokencredit.stages import sft, trainer
from tokencredit.stages.context import Context
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.preference_model import reward_trainer, score_pairs, within
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.trainer import trainer_settings

ROLES: dict[str, dict[str, Any]] = {
    "pad is eos": {"pad_token": EOS},
    "distinct": {},
    "none": {"pad_token": None},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_pairs(tmp_path_factory.mktemp("pairs"))


def built(config: Config, out: Path) -> dict[str, Any]:
    """The figures of a reward model that is trained into `out`."""
    out.mkdir(exist_ok=True)
    torch.manual_seed(0)
    return dict(RewardModelStage(Context(config)).run(out))


def some_pairs(tokenizer: Any, count: int = 5) -> list[Pair]:
    records = []
    for n in range(count):
        row = pair_row(n)
        records.append(
            Record(
                row=n,
                text=row["prompt"] + row["chosen"],
                prompt=row["prompt"],
                completion=row["chosen"],
                rejected=row["rejected"],
            )
        )
    return read_pairs(records, tokenizer, 90)[0]


# The loss ---------------------------------------------------------------------------------------


def test_papers_B4_loss_of_a_pair_by_hand() -> None:
    equal = torch.tensor([1.5, -2.0])
    assert pair_loss(equal, equal).item() == pytest.approx(math.log(2))
    assert pair_loss(torch.tensor([1.0]), torch.tensor([0.7])).item() == pytest.approx(0.554355)


@given(st.lists(st.tuples(*[st.floats(-20, 20)] * 3), min_size=1, max_size=9))
def test_papers_B5_what_depends_on_the_prompt_alone_changes_nothing(
    scores: list[tuple[float, float, float]],
) -> None:
    chosen, rejected, shift = torch.tensor(scores, dtype=torch.float64).unbind(dim=1)
    plain, shifted = pair_loss(chosen, rejected), pair_loss(chosen + shift, rejected + shift)
    assert shifted.item() == pytest.approx(plain.item(), abs=1e-9)


def trls(logits: Tensor, centre: float | None, folder: Path) -> float:
    """TRL's loss of a model that gives these scores: chosen first, then rejected."""
    settings = trainer_settings(RewardModel(learning_rate=1e-3), folder, 0, True, 1)
    tokenizer = train_tokenizer()
    pairs = some_pairs(tokenizer, len(logits) // 2)
    trainer = reward_trainer(tiny_classifier(num_labels=1), tokenizer, pairs, settings, centre)

    def says(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=logits[:, None])

    inputs = {"input_ids": logits, "attention_mask": torch.ones(len(logits))}
    return float(trainer.compute_loss(says, inputs))


def test_papers_B4_the_trainer_has_the_same_loss(tmp_path: Path) -> None:
    assert trls(torch.tensor([1.0, 1.0]), None, tmp_path) == pytest.approx(math.log(2))
    assert trls(torch.tensor([1.0, 0.7]), None, tmp_path) == pytest.approx(0.554355, abs=1e-6)
    torch.manual_seed(0)
    scores = torch.randn(6)
    ours = float(pair_loss(scores[:3], scores[3:]))
    assert trls(scores, None, tmp_path) == pytest.approx(ours, abs=1e-6)
    # Centring adds its weight times the mean of (chosen + rejected)²: here 0.01 · 1.7².
    added = trls(torch.tensor([1.0, 0.7]), 0.01, tmp_path) - 0.554355
    assert added == pytest.approx(0.01 * 1.7**2, abs=1e-6)


# What is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", ROLES.values(), ids=ROLES.keys())
def test_field_B14_trainer_judge_and_end_token_have_one_score(
    roles: dict[str, Any], tmp_path: Path
) -> None:
    """A text has one score: in RewardTrainer, in its evaluation, in a judge, and read at its end."""
    built(pair_config(furnish_pairs(tmp_path, **roles)), tmp_path / "reward")
    model = load_classifier(tmp_path / "reward", Dtype.float32).eval()
    tokenizer = load_tokenizer(tmp_path / "reward")
    pad = tokenizer.pad_token_id
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == pad != tokenizer.eos_token_id == EOS_ID
    pairs = some_pairs(tokenizer)
    settings = trainer_settings(RewardModel(learning_rate=1e-3), tmp_path, 0, True, 1)
    trainer = reward_trainer(model, tokenizer, pairs, settings, None)
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(pairs))])
    with torch.no_grad():
        trainers = trainer.compute_loss(model.eval(), dict(batch), return_outputs=True)[1].logits
    evaluations = torch.cat(score_pairs(model, tokenizer, pairs))
    answers = [p.chosen_ids for p in pairs] + [p.rejected_ids for p in pairs]
    assert len({len(answer) for answer in answers}) > 1
    rollout = as_rollout([p.prompt_ids for p in pairs] * 2, answers, pad)
    judges = Scorer(model, pad).score(rollout)
    ends = []
    for pair, answer in zip([*pairs, *pairs], answers, strict=True):
        assert answer[-1] == EOS_ID and EOS_ID not in answer[:-1]
        with torch.no_grad():
            hidden = model.model(torch.tensor([[*pair.prompt_ids, *answer]])).last_hidden_state
            ends.append(float(model.score(hidden[0, -1])))
    for scores in (trainers.flatten(), evaluations, judges):
        assert scores.tolist() == pytest.approx(ends, abs=1e-5)
    model.config.pad_token_id = EOS_ID  # as it was delivered: the score is read elsewhere
    wrong = torch.cat(score_pairs(model, tokenizer, pairs))
    assert (wrong - evaluations).abs().max() > 1e-3


def test_pairs_are_read_as_a_policy_says_them() -> None:
    tokenizer = train_tokenizer()
    (pair, *_) = some_pairs(tokenizer)
    row = pair_row(0)
    assert pair.prompt_ids == tokenizer(row["prompt"])["input_ids"]
    for ids, text in ((pair.chosen_ids, row["chosen"]), (pair.rejected_ids, row["rejected"])):
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == text


def test_a_budget_of_tokens_ends_with_the_pair_that_spends_it() -> None:
    pair = Pair(prompt_ids=[1, 2], chosen_ids=[3, 4, 5], rejected_ids=[6])  # 8 tokens in all
    pairs = [pair] * 5
    assert [len(within(pairs, budget)) for budget in (1, 8, 9, 16, 17, None)] == [1, 1, 2, 2, 3, 5]


def test_pairs_that_are_too_long_are_left_out_and_counted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pair_config(place, max_length=20)
    figures = built(config, tmp_path / "reward")
    records = Context(config).corpus.pairs("reward")
    kept, noted = read_pairs(records, train_tokenizer(), 20)
    assert 0 < len(kept) < len(records)
    assert figures["pairs"] == len(kept)
    assert figures["pairs_noted"] == {"too long": len(records) - len(kept)} == dict(noted)
    assert "longer than reward_model.max_length = 20 tokens" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"reward_model\.max_length = 8: each of \d+ pairs"):
        built(pair_config(place, max_length=8), tmp_path / "none")


# What it learns, and what is said of it ---------------------------------------------------------


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_learns_which_words_win(place: Path, tmp_path: Path, lora: bool) -> None:
    config = pair_config(place, epochs=8.0, centre=0.01)
    if lora:
        config = with_model(config, lora=Lora(enabled=True, r=4))
    figures = built(config, tmp_path / "reward")
    assert figures["accuracy"] == 1.0 and figures["held_out_loss"] < 0.3
    assert figures["accuracy_low"] < 1 <= figures["accuracy_high"] + 1e-9
    assert figures["loss"] < math.log(2)
    weights = load_file(tmp_path / "reward" / "model.safetensors")
    assert weights["score.weight"].shape == (1, 32)
    assert not any("lora" in name for name in weights)
    written = json.loads((tmp_path / "reward" / "evaluation.json").read_text("utf-8"))
    assert written["pairs"] == figures["held_out"] == sum(written["margin_counts"])
    assert (
        written["accuracy"] == 1.0 and written["calibration_error"] == figures["calibration_error"]
    )
    assert (tmp_path / "reward" / "evaluation.png").stat().st_size > 10_000


def test_centring_holds_scores_around_zero(place: Path, tmp_path: Path) -> None:
    free = built(pair_config(place, epochs=8.0), tmp_path / "free")
    held = built(pair_config(place, epochs=8.0, centre=1.0), tmp_path / "held")
    assert abs(held["score_mean"]) < abs(free["score_mean"])
    assert abs(held["score_mean"]) < 0.2


def test_a_finished_model_is_only_measured(place: Path, tmp_path: Path) -> None:
    tiny_classifier(num_labels=1).save_pretrained(tmp_path / "finished")
    train_tokenizer().save_pretrained(tmp_path / "finished")
    config = pair_config(place, train=False)
    config.model.policy.path = str(tmp_path / "finished")
    figures = built(config, tmp_path / "reward")
    assert "loss" not in figures and figures["held_out"] == len(
        Context(config).corpus.parts["eval"]
    )
    before = load_file(tmp_path / "finished" / "model.safetensors")
    after = load_file(tmp_path / "reward" / "model.safetensors")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_finished_model_needs_no_records_that_say_what_is_better(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"Q{n}", "completion": " yes"}) for n in range(60)]
    (tmp_path / "plain.jsonl").write_text("\n".join(lines))
    tiny_classifier(num_labels=1).save_pretrained(tmp_path / "finished")
    train_tokenizer().save_pretrained(tmp_path / "finished")
    config = replace(
        run_config(),
        dataset=Dataset(
            source=Source.path,
            path=str(tmp_path / "plain.jsonl"),
            format="prompt_completion",
            label_column=None,
        ),
        reward_model=RewardModel(train=False, max_length=64),
    )
    config.model.policy = Pretrained(source=ModelSource.path, path=str(tmp_path / "finished"))
    assert "accuracy" not in built(config, tmp_path / "reward")
    config.reward_model.train = True
    with pytest.raises(UserError, match="has no labels"):
        RewardModelStage(Context(config)).inputs()


def test_the_oracle_learns_from_pairs_too(place: Path, tmp_path: Path) -> None:
    figures = OracleStage(Context(pair_config(place))).run(tmp_path)
    assert figures["accuracy"] == 1.0
    from tokencredit.stages.oracle import load_oracle

    good, bad = (load_oracle(tmp_path).rate(words) for words in (GOOD, BAD))
    assert good.min() > bad.max()


def test_an_objective_that_the_data_cannot_have(place: Path) -> None:
    stage = RewardModelStage(Context(pair_config(place, objective=Objective.labels)))
    with pytest.raises(UserError, match=r"the reward split .* has no labels"):
        stage.inputs()
    with pytest.raises(UserError, match=r"reward_model\.centre = 0: must be null or > 0"):
        RewardModel(centre=0)


def test_the_objective_is_part_of_the_key_only_where_it_is_not_labels(place: Path) -> None:
    inputs = RewardModelStage(Context(pair_config(place))).inputs()
    assert inputs["objective"] is Objective.pairs
    oracle = OracleStage(Context(pair_config(place))).inputs()
    assert oracle["objective"] is Objective.pairs


# SFT on what was preferred ----------------------------------------------------------------------


def test_sft_learns_the_chosen_answer_and_its_end_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []

    def look(trainer: Any, *_: object) -> dict[str, object]:
        rows = [trainer.train_dataset[n] for n in range(len(trainer.train_dataset))]
        seen.append(trainer.data_collator(rows))
        return {"loss": 0.0}

    monkeypatch.setattr(trainer, "train", look)
    context = Context(pair_config(place))
    sft.SFTStage(context).run(tmp_path)
    tokenizer = train_tokenizer()
    (batch,) = seen
    wanted = {record.prompt: record.answer for record in context.corpus.parts["sft"]}
    assert len(batch["input_ids"]) > 5
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = labels != -100
        first, last = int(learned.nonzero()[0]), int(learned.nonzero()[-1])
        assert learned[first : last + 1].all() and int(ids[last]) == EOS_ID
        assert torch.equal(ids[learned], labels[learned])
        prompt, answer = tokenizer.decode(ids[:first]), tokenizer.decode(ids[first:last])
        assert wanted[prompt] == answer
