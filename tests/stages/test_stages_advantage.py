"""The stage of the advantage model: what it learns from, leaves, measures, and refuses; its judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import handed, make_rollout, speaking, train_tokenizer
from built_stages import build, furnish, stage_of
from dense_advantages import dense_advantages, dense_policy
from tokencredit.data.pairs import Pair, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.models.adapters.lora import using
from tokencredit.models.advantage import open_advantages
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model, load_tokenizer
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.games import Duel, Games, PiContext, Ties
from tokencredit.models.passes.packing import hidden_states
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.tokens.ends import special_ids
from tokencredit.rollout import Judgement
from tokencredit.settings import PairSource
from tokencredit.stages.advantage import AdvantageStage, Row, Table, games_of, measured, rows_of
from tokencredit.stages.context import Context
from tokencredit.stages.results import scored_samples
from tokencredit.statistics.judge_numbers import game_numbers
from tokencredit.store.files import read_json

pytestmark = pytest.mark.xdist_group("advantages")  # one process, which trains the stage once


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("advantage"))


def stage(place: Path, **settings: Any) -> AdvantageStage:
    """The stage, its judge with these settings."""
    config = stage_of("advantage model", place, place / "store").context.config
    assert isinstance(config.judge, AdvantageJudge)
    return AdvantageStage(Context(replace(config, judge=replace(config.judge, **settings))))


def played(
    one: AdvantageStage, records: Sequence[Record], ids: TokenIds, separator: list[int]
) -> tuple[list[Row], dict[str, int]]:
    """The pairs of these records as games."""
    return one.rows(*read_pairs(records, ids, one.longest()), separator)


def training(one: AdvantageStage, **numbers: Any) -> AdvantageStage:
    """The same stage, trained otherwise."""
    judge = replace(one.settings, training=replace(one.settings.training, **numbers))
    return AdvantageStage(Context(replace(one.context.config, judge=judge)))


def test_it_leaves_adapters_a_head_and_numbers_of_held_out_pairs(place: Path) -> None:
    artifact = build(stage(place))
    names = {path.name for path in artifact.path.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "advantage_head.safetensors",
    } < names
    assert {"evaluation.json", "tokenizer.json"} < names and "README.md" not in names
    config = read_json(artifact.path / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (2, 4, True)
    layers = {name.rpartition(".")[2] for name in config["target_modules"]}
    assert {"q_proj", "down_proj"} < layers and "lm_head" not in layers
    assert config["base_model_name_or_path"].startswith("../../sft/")
    numbers = read_json(artifact.path / "evaluation.json")
    figures = artifact.manifest["figures"]
    assert numbers["pairs"] == figures["held_out"] == 8 and figures["pairs"] == 11
    assert numbers["mse"] == figures["mse"] != 1 and numbers["centring_residual"] < 1e-5
    assert figures["loss"] < 1.2 and 0 <= numbers["sign_accuracy"] <= 1


def test_it_learns_who_wins(place: Path) -> None:
    """Good words against bad ones: what the pairs are made of."""
    artifact = build(training(stage(place), epochs=12.0))
    figures = artifact.manifest["figures"]
    assert figures["sign_accuracy"] > 0.9 and figures["mse"] < 0.7
    assert figures["train_mse"] < 0.5 and figures["curve"]["loss"][0] == pytest.approx(1, abs=1e-6)


def test_the_judge_reads_the_first_answers_advantages(place: Path) -> None:
    one = stage(place)
    artifact = build(one)
    tokenizer = train_tokenizer()
    folders = {"advantage": artifact.path, "sft": one.made("sft")}
    given = handed(folder=folders.__getitem__, model=Model(context=96))
    judge = one.settings.open(given, speaking(tokenizer))
    rollout = make_rollout([4, 2, 3], seed=3)
    found = judge(rollout)
    assert found.evidence.abs().max() > 1e-4
    assert (found.evidence[~rollout.response_mask] == 0).all()
    assert torch.allclose(found.scores, found.evidence.sum(dim=1), atol=1e-6)
    model = open_advantages(artifact.path, folders["sft"], tokenizer, Model(context=96), "cpu")
    for row, length in enumerate(rollout.lengths.tolist()):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        said = rollout.response_ids[row, :length].tolist()
        for other in ([5, 6, 0], [9]):
            games = Games.of([Duel(prompt, said, other)], [7], 1, PiContext.independent)
            with torch.no_grad():
                expected = model(games)[0, :length]
            assert torch.allclose(found.evidence[row, :length], expected, atol=1e-5)
    with pytest.raises(UserError, match="vocabulary differs"):
        one.settings.open(given, speaking(train_tokenizer(chat=True, sep_token="<|sep|>")))


def test_the_drift_is_what_the_current_policy_expects_of_the_advantages(place: Path) -> None:
    """Σ_z π(z|s) Â(s, z) from whole tensors; 0 under the SFT model, under which it is centred."""
    one = stage(place)
    folders = {"advantage": build(one).path, "sft": one.made("sft")}
    tokenizer, rollout = load_tokenizer(folders["sft"]), make_rollout([4, 2, 3], seed=3)
    given = handed(folder=folders.__getitem__, model=Model(context=96))
    model = load_causal(folders["sft"], "float32")
    policy = PolicyWithValue(model, special_ids(tokenizer, model), Sampling())
    judge = one.settings.open(given, replace(speaking(tokenizer), policy=policy))
    drift = named(judge(rollout), "centring_drift")
    assert drift.abs().max() < 1e-6
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3)
    drift = named(judge(rollout), "centring_drift")
    advantages = open_advantages(*folders.values(), tokenizer, Model(context=96), "cpu")
    layout = policy.layout(rollout)
    with torch.no_grad():
        states, head = policy.choosing(layout)
        with using(advantages.model, None):
            frozen = hidden_states(advantages.model, layout, Computation())
        own = hidden_states(advantages.model, layout, Computation())
        effects = dense_advantages(
            advantages.head, own, dense_policy(frozen, head_of(advantages.model))
        )
        expected = layout.spread((dense_policy(states, head) * effects).sum(dim=1))
    assert torch.allclose(drift, expected.sum(dim=1) / rollout.lengths, atol=1e-6)
    assert drift.abs().min() > 1e-5


def named(judgement: Judgement, name: str) -> torch.Tensor:
    """A column of its notes."""
    assert judgement.notes is not None
    return judgement.notes.columns[name]


def test_pairs_longer_than_a_game_are_left_out_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompt, both answers, and what stands between them; never an answer cut."""
    one = stage(place)
    ids = TokenIds(train_tokenizer())
    records = one.context.corpus.pairs("reward", "")
    separator = ids.between(one.settings.separator, spoken=False)
    kept, noted = played(one, records, ids, separator)
    assert len(kept) == 11 and noted == {}
    lengths = sorted(len(row["input_ids"]) for row in kept)
    short = training(one, max_length=lengths[7])
    kept, noted = short.to_learn(ids, separator)
    assert len(kept) == sum(length <= lengths[7] for length in lengths) < 11
    assert noted == {"too long": 11 - len(kept)}
    assert "left out" in capsys.readouterr().err
    for row in kept:
        duel = row["duel"]
        assert row["input_ids"] == [*duel.prompt, *duel.one, *separator, *duel.other]
        assert duel.one[-1] == duel.other[-1] == ids.end
    with pytest.raises(UserError, match=r"judge.training.max_length = 8: no pair is left"):
        build(training(one, max_length=8))


def test_ties_are_margins_of_zero_where_pairs_have_margins(place: Path) -> None:
    def pair(margin: float | None) -> Pair:
        return Pair(prompt_ids=[3], chosen_ids=[4, 0], rejected_ids=[5, 0], margin=margin)

    plain = rows_of([pair(None), pair(None)], [7])
    assert [row["outcome"] for row in plain] == [1, 1]
    rows = rows_of([pair(0.5), pair(0.0), pair(None)], [7])
    assert [row["outcome"] for row in rows] == [1, 0, 0]
    batch = Table([7], 1, PiContext.independent).batch(rows)
    assert batch["outcomes"].tolist() == [1, 0, 0, -1, 0, 0]
    assert games_of(batch).ids.tolist()[0] == [3, 4, 0, 7, 5]
    one = stage(place, ties=Ties.drop)
    ids = TokenIds(train_tokenizer())
    records = [
        replace(record, margin=float(n % 3))
        for n, record in enumerate(one.context.corpus.pairs("reward", ""))
    ]
    assert len(played(one, records, ids, [7])[0]) == 7
    assert played(one, records, ids, [7])[1] == {"tie": 4}
    assert len(played(stage(place), records, ids, [7])[0]) == 11


def test_the_numbers_of_games_by_hand() -> None:
    """Sums .5 and −.5, then −.2 and .4, of winners; then .1 and .1 of a tie."""
    found = game_numbers([0.5, -0.2, 0.1], [-0.5, 0.4, 0.1], [1, 1, 0], 1e-7)
    squares = 2 * 0.5**2 + 1.2**2 + 1.4**2 + 2 * 0.1**2
    assert found.mse == pytest.approx(squares / 6) and found.pairs == 3
    assert found.sign_accuracy == 0.5 and found.centring_residual == 1e-7
    assert found.antisymmetry_gap == pytest.approx((0 + 0.2 + 0.2) / 3)
    assert found.sign_accuracy_low == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2
    nothing = game_numbers([0.0], [0.0], [1], 0.0)
    assert nothing.mse == 1 and nothing.sign_accuracy == 0.5
    assert game_numbers([0.0], [0.0], [0], 0.0).sign_accuracy is None


def test_a_fresh_model_has_an_error_of_one(place: Path) -> None:
    one = stage(place)
    build(one)
    sft = one.made("sft")
    tokenizer = load_tokenizer(sft)
    ids = TokenIds(tokenizer)
    rows, _ = played(one, one.context.corpus.pairs("reward", ""), ids, [7])
    found = measured(one.model(sft, tokenizer).eval(), rows, Table([7], 1, PiContext.concat))
    assert found.mse == 1.0 and found.sign_accuracy == 0.5 and found.antisymmetry_gap == 0
    with pytest.raises(UserError, match=r"judge.rank = 33: is above the width .* 32"):
        stage(place, rank=33).model(sft, tokenizer)


def test_what_stands_between_two_answers() -> None:
    plain, chat = TokenIds(train_tokenizer()), TokenIds(train_tokenizer(chat=True))
    assert plain.tokenizer.decode(plain.between("Again.", spoken=False)) == "\n\nAgain.\n\n"
    between = chat.tokenizer.decode(chat.between("Again.", spoken=True))
    assert between == "\n<user>Again.\n<assistant>"


def test_the_end_of_a_turn_is_the_answers_own() -> None:
    """A template that ends turns by a token: the answer has it, and it is not said twice."""
    tokenizer = train_tokenizer(eot_token="<|eot|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|eot|>\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    ids = TokenIds(tokenizer)
    between = ids.between("Again.", spoken=True)
    assert between[0] != ids.turn_end and between.count(ids.turn_end) == 1
    assert tokenizer.decode(between) == "\n<user>Again.<|eot|>\n<assistant>"


def test_a_template_without_such_a_turn_is_refused() -> None:
    tokenizer = train_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% if messages|length > 2 %}{{ raise_exception('two turns at most') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    with pytest.raises(UserError, match=r"judge.separator = 'Again.'.*two turns at most"):
        TokenIds(tokenizer).between("Again.", spoken=True)
    tokenizer.chat_template = "{{ messages[0]['content'] }}:{{ messages[1]['content'] }}"
    with pytest.raises(UserError, match=r"judge.separator.*does not write it"):
        TokenIds(tokenizer).between("Again.", spoken=True)


def test_an_empty_separator_and_a_rank_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match=r"judge.separator = ' '"):
        AdvantageJudge(separator=" ")
    with pytest.raises(UserError, match=r"judge.rank = 0"):
        AdvantageJudge(rank=0)


def test_another_judge_has_no_such_stage(place: Path) -> None:
    config = stage_of("reward model of pairs", place, place / "store").context.config
    with pytest.raises(UserError, match="judge=advantage"):
        _ = AdvantageStage(Context(config)).settings


def test_its_inputs_name_the_format_of_the_pairs(place: Path) -> None:
    assert stage(place).inputs()["format"] == "preference"
    config = stage(place).context.config
    texts = replace(config, dataset=replace(config.dataset, format="prompt_completion"))
    with pytest.raises(UserError, match="pairs of answers to one prompt"):
        AdvantageStage(Context(texts)).inputs()


def test_sampled_pairs_are_those_of_dpo(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have a stage of their own, whose key holds the data; what it has kept is read as said."""
    config = stage(place).context.config
    sampled = replace(config, dpo=replace(config.dpo, pairs=PairSource.sampled))
    one = AdvantageStage(Context(sampled))
    assert set(one.parents()) == {"sft", "sampled_pairs"}
    of_data = {"data", "eval", "format", "effects", "word_classes"}
    assert set(stage(place).inputs()) - set(one.inputs()) == of_data
    assert scored_samples(sampled, 3) == scored_samples(config, 3) + 2 * config.dpo.prompts
    said = {"prompt_ids": [5, 6], "chosen_ids": [7, 8], "rejected_ids": [9, 10, 0]}
    for name, lines in (("train", [said, said]), ("held_out", [said])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(AdvantageStage, "made", lambda *_: tmp_path)
    ids = TokenIds(train_tokenizer())
    assert one.separator(ids) == ids.between(one.settings.separator, spoken=False)
    kept = Pair(prompt_ids=[5, 6], chosen_ids=[7, 8], rejected_ids=[9, 10, 0])
    assert one.pairs("held_out", ids) == ([kept], {})
    (row, _), noted = one.rows(*one.pairs("train", ids), [7])
    assert row["input_ids"] == [5, 6, 7, 8, 7, 9, 10, 0] and noted == {}
