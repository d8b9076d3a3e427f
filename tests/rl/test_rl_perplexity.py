"""Perplexities on held-out prompts: of the data's answers, and of responses under the SFT model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import EOS_ID, PAD_ID, VOCABULARY, make_rollout, tiny_actors, train_tokenizer
from observers import EvenJudge, Log, furnish, prompts_of
from operations import Operations
from policies import alone, poisoned, run_config
from tokencredit.algorithms.ppo import PPO
from tokencredit.canonical import canonical
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.pairs import as_rollout
from tokencredit.data.records import Record
from tokencredit.data.sources import Source
from tokencredit.data.token_ids import TokenIds
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.passes.computation import Computation
from tokencredit.rl.collector import Collector
from tokencredit.rl.evaluate import evaluate, names, report
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.perplexity import OWN, PARTS, Perplexities, answers, following, perplexity
from tokencredit.rl.world import World
from tokencredit.rollout import Rollout
from tokencredit.settings import Evaluation
from tokencredit.sweeps import objective

LIKELY = 5
NOTHING = Sampling(temperature=0.5, top_k=3, top_p=0.5)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("perplexity"))


def fixed(model: Any) -> None:
    """Make one id a hundred times as likely as any other of the vocabulary, whatever was read."""
    head = torch.nn.Linear(model.lm_head.in_features, VOCABULARY)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.bias[LIKELY] = math.log(100)
    model.lm_head = head


def measured(actors: Actors, said: Rollout | None = None) -> Perplexities:
    return Perplexities(actors, World(run_config().hardware), said)


TWO = as_rollout([[9], [9, 9, 9]], [[LIKELY, 7, EOS_ID], [LIKELY, EOS_ID]], PAD_ID)
BY_HAND = math.exp((2 * math.log(399 / 100) + 3 * math.log(399)) / 5)
"""Two answers: of five tokens two have probability 100/399, three, end tokens among them, 1/399."""


@pytest.mark.parametrize("sampling", [Sampling(), NOTHING], ids=["all ids", "three ids"])
def test_the_perplexity_of_two_answers_by_hand(sampling: Sampling) -> None:
    """Of tokens, not of answers, in the model's own distribution: (399/100)^(2/5) · 399^(3/5)."""
    actors = tiny_actors(sampling=sampling)
    fixed(actors.policy.model)
    found = measured(actors, TWO).on_the_way(TWO)
    assert pytest.approx(63.2372, rel=1e-5) == BY_HAND
    assert found["eval/perplexity"] == pytest.approx(BY_HAND, rel=1e-5)
    assert found["policy/perplexity_sft"] != pytest.approx(BY_HAND, rel=0.1), "another model"
    assert found["eval/length"] == 2.5
    fixed(actors.reference.frozen)
    found = measured(actors, TWO).on_the_way(TWO)
    assert found["policy/perplexity_sft"] == pytest.approx(BY_HAND, rel=1e-5)


def nats(actors: Actors, said: Rollout) -> list[float]:
    own = measured(actors, said).columns({"policy": said, "sft": said})
    assert own["answer/length"] == said.lengths.tolist()
    return own["policy/answer_nats"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_neither_padding_nor_micro_batches_nor_neighbours_matter(
    architecture: str, rows: int
) -> None:
    said = make_rollout([3, 9, 1, 5, 7], width=12)
    actors = tiny_actors(architecture, Sampling(score_rows=rows))
    whole = nats(actors, said)
    apart = [nats(actors, alone(said, row))[0] for row in range(len(said))]
    assert whole == pytest.approx(apart, rel=1e-5)
    assert nats(actors, poisoned(said, math.nan)) == pytest.approx(apart, rel=1e-5)
    assert len({round(x / n, 3) for x, n in zip(apart, said.lengths.tolist(), strict=True)}) == 5


def test_logits_are_of_one_chunk_of_tokens() -> None:
    """40 tokens; 8 of them have logits within the memory that is given."""
    said = make_rollout([10, 10, 10, 10])
    actors = tiny_actors()
    actors.policy.computation = Computation(logits_memory=8 * VOCABULARY * 4)
    with Operations() as run:
        nats(actors, said)
    assert 0 < max(run.sizes) <= max(8 * VOCABULARY, 4 * 12 * 48)


def test_models_are_evaluated_and_go_back(place: Path) -> None:
    actors = tiny_actors()
    actors.policy.train()
    modes: list[bool] = []
    layers: Any = actors.policy.model.get_decoder().layers
    layers[0].register_forward_pre_hook(lambda module, _: modes.append(module.training))
    nats(actors, TWO)
    assert modes == [False] and actors.policy.training and layers[0].training


def test_nothing_infinite_stops_a_run() -> None:
    """A policy may find an answer as good as impossible; what is logged must be a number."""
    assert perplexity(torch.tensor([1e5]), torch.tensor([2])) == math.exp(700)
    assert perplexity(torch.tensor([3.0, 1.0]), torch.tensor([2, 2])) == pytest.approx(math.e)


def test_keys_are_as_before_without_them() -> None:
    said = canonical(Evaluation())
    assert isinstance(said, dict) and "perplexity" not in said
    assert canonical(Evaluation(perplexity=True)) != said


def config_at(place: Path, **evaluation: Any) -> Config:
    config = run_config(algorithm=PPO(batch_size=4, epochs=1, minibatches=1))
    spec = PromptSpec(min_characters=100)
    path = str(place / "reviews.jsonl")
    config.dataset = Dataset(source=Source.path, path=path, prompt=spec)
    config.rollout = Sampling(min_new_tokens=2, max_new_tokens=6)
    config.evaluation = Evaluation(prompts=5, every=1, **evaluation)
    return replace(config, steps=2)


def rows_of(config: Config, place: Path, out: Path) -> list[dict[str, float]]:
    out.mkdir()
    actors, world = load_actors(config, place / "model", place / "reward"), World(config.hardware)
    around = RunInputs(prompts_of(config, "rl"), prompts_of(config, "eval"), out)
    log = Log()
    Learner(config, actors, EvenJudge(), around, world).train(log, log)  # type: ignore[arg-type]
    return log.rows


def test_a_run_has_them_every_so_often_and_all_its_other_numbers_as_without(
    place: Path, tmp_path: Path
) -> None:
    plain = rows_of(config_at(place), place, tmp_path / "plain")
    more = rows_of(config_at(place, perplexity=True), place, tmp_path / "more")
    own = {"eval/perplexity", "policy/perplexity_sft", "eval/length"}
    assert len(more) == 2 and not own & plain[0].keys()
    assert [{k: v for k, v in row.items() if k not in own} for row in more] == plain
    assert own <= more[0].keys()
    assert more[0]["eval/perplexity"] != more[1]["eval/perplexity"], "the policy has moved"


def test_the_end_of_a_run_has_them_with_their_errors(place: Path) -> None:
    """Before training the policy is the SFT model. Every second answer counts in the error."""
    config, actors = config_at(place, perplexity=True), tiny_actors()
    collector = Collector(World(config.hardware), EvenJudge(), chunk=4)
    rows = evaluate(config, actors, collector, None, prompts_of(config, "eval"))
    found = report(rows)
    for name in PARTS:
        assert found[name]["n"] == 5 and found[name]["se"] > 0
        other = name.replace("policy/", "sft/")
        assert found[name] == found[other]
    total = sum(row["policy/answer_nats"] for row in rows)
    tokens = sum(row["answer/length"] for row in rows)
    assert found["policy/perplexity"]["mean"] == pytest.approx(math.exp(total / tokens))
    assert not OWN & found.keys()
    assert set(found) == set(names(oracle=False, dpo=False, perplexity=True))
    assert set(PARTS) <= set(objective.names(config))
    assert not set(PARTS) & set(objective.names(config_at(place)))


def test_the_error_of_a_ratio_by_hand() -> None:
    """Nats 2, 4 of 1, 3 tokens, a third row without an answer: r = 1.5, residuals ½ and −½,
    √(2 · ½) / 4 = ¼."""
    parts = {"policy/response": "a", "sft/response": "a"}
    rows = [
        {**parts, "policy/answer_nats": x, "answer/length": n}
        for x, n in ((2.0, 1), (4.0, 3), (0.0, 0))
    ]
    found = report(rows)["policy/perplexity"]
    assert found == {
        "mean": pytest.approx(math.exp(1.5)), "se": pytest.approx(math.exp(1.5) / 4), "n": 2,
    }  # fmt: skip
    assert "sft/perplexity" not in report(rows)


def test_answers_are_those_of_the_data_behind_the_prompts(place: Path) -> None:
    """Of a text the rest, of a pair the chosen answer; with one end token, or cut: by the context,
    or where the longest response ends."""
    config = config_at(place)
    stream = prompts_of(config, "eval")
    drawn = stream.drawn(0, "evaluation", range(5))
    tokenizer = train_tokenizer()
    for limit in (3, 10_000):
        config.rollout = replace(config.rollout, max_new_tokens=limit + 1)
        found = answers(config, stream)
        assert found is not None
        for number, (record, ids) in enumerate(drawn):
            text = found.response_ids[number][found.response_mask[number]].tolist()
            whole = [*tokenizer(record.text)["input_ids"], EOS_ID]
            assert [*ids, *text] == whole[: min(len(ids) + limit, config.model.context)]
    pair = Record(row=3, text="ab", prompt="how was it?", completion=" good", rejected=" bad")
    maker = TokenIds(tokenizer)
    said = following(pair, maker.begin(pair).ids, maker)
    assert said == [*tokenizer(" good")["input_ids"], EOS_ID]
    asked = Record(row=3, text="how?", prompt="how?")
    assert following(asked, maker.begin(asked).ids, maker) == []


def test_a_data_set_of_prompts_alone_has_no_answers(place: Path) -> None:
    found = measured(tiny_actors(), None).on_the_way(TWO)
    assert set(found) == {"policy/perplexity_sft", "eval/length"}
    assert set(measured(tiny_actors(), None).columns({"policy": TWO, "sft": TWO})) == {
        "policy/nats_sft",
        "sft/nats_sft",
    }
