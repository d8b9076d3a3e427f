"""Reward model and oracle are measured on texts cut to the length of responses; ties count half."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import tiny_actors
from observers import furnish, prompts_of
from policies import run_config
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.panel import Panel, SameAsJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.rl.collector import Collector
from tokencredit.rl.evaluate import held_out
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout
from tokencredit.settings import Evaluation
from tokencredit.stages.context import Context
from tokencredit.stages.scorers import Accuracy, accuracies, held_out_answers
from tokencredit.statistics.intervals import wilson

COUNT, LONGEST = 6, 6


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("scorers"))


def config_at(place: Path, name: str = "reviews.jsonl", **dataset: Any) -> Config:
    """A run whose responses have at most `LONGEST` tokens, on one of the files."""
    config = run_config()
    config.dataset = Dataset(
        source=Source.path, path=str(place / name), prompt=PromptSpec(min_characters=60), **dataset
    )
    config.rollout = Sampling(min_new_tokens=2, max_new_tokens=LONGEST)
    config.evaluation = Evaluation(prompts=COUNT)
    return config


def of_pairs(place: Path) -> Config:
    """A run on pairs of answers."""
    return config_at(place, "pairs.jsonl", format="preference", label_column=None)


@dataclass
class Listed:
    """Gives responses the listed scores, each call the next list; remembers what it was shown."""

    scores: list[list[float]]
    shown: list[Rollout] = field(default_factory=list)

    def __call__(self, rollout: Rollout) -> Judgement:
        self.shown.append(rollout)
        scores = torch.tensor(self.scores[len(self.shown) - 1])
        return Judgement(scores=scores, evidence=torch.zeros(rollout.response_mask.shape))

    def rate(self, texts: list[str]) -> Tensor:
        """As an oracle: 1 for a text with a kind word, −1 with an unkind one, else 0."""
        good, bad = ("wonderful", "moving", "bright"), ("awful", "boring", "dull")
        found = [any(w in t for w in good) - any(w in t for w in bad) for t in texts]
        return torch.tensor(found, dtype=torch.float32)


def measured(config: Config, judge: Any, oracle: Any = None) -> dict[str, Accuracy]:
    """The accuracies of a run's scorers."""
    collector = Collector(World(config.hardware), judge, chunk=COUNT)
    return accuracies(Context(config), tiny_actors(), collector, oracle, prompts_of(config, "eval"))


def test_texts_are_cut_where_a_response_would_be(place: Path) -> None:
    """The same prompts as in the evaluation, and behind each what its text says next."""
    config = config_at(place)
    prompts = prompts_of(config, "eval")
    answers = held_out_answers(Context(config), prompts)
    assert answers is not None and len(answers.said) == 1
    (said,), (batch, _) = answers.said, held_out(config.evaluation, prompts)
    assert torch.equal(said.rows, batch.rows)
    assert torch.equal(said.prompt_ids, batch.ids) and torch.equal(said.prompt_mask, batch.mask)
    records = {record.row: record for record in prompts.records}
    assert answers.signs is not None
    for number, row in enumerate(said.rows.tolist()):
        before = said.prompt_ids[number][said.prompt_mask[number]].tolist()
        after = said.response_ids[number][said.response_mask[number]].tolist()
        whole = prompts.token_ids.opened(records[row].text)
        assert whole[: len(before) + len(after)] == before + after
        assert len(after) == int(batch.max_new[number]) < LONGEST + 1
        assert float(answers.signs[number]) == (1.0 if records[row].label else -1.0)
    assert not said.finished.any()


def test_accuracy_of_labelled_texts_counts_a_score_of_zero_half(place: Path) -> None:
    config = config_at(place)
    answers = held_out_answers(Context(config), prompts_of(config, "eval"))
    assert answers is not None and answers.signs is not None
    scores = answers.signs * 2.0
    scores[0] *= -1  # wrong
    scores[1] = 0.0
    found = measured(config, Listed([scores.tolist()]))
    low, high = wilson(0.75, COUNT)
    right = torch.tensor([0.0, 0.5] + [1.0] * 4).double()
    se = float(right.std()) / COUNT**0.5
    expected = {"mean": 0.75, "se": se, "low": low, "high": high, "n": COUNT}
    assert found.keys() == {"reward_model"}
    tokens = float(answers.said[0].lengths.double().mean())
    assert found["reward_model"] == pytest.approx({**expected, "tokens": tokens})


def test_accuracy_of_pairs_counts_equal_scores_half(place: Path) -> None:
    """Better and worse answers are cut alike; the oracle reads the answers alone."""
    config = of_pairs(place)
    better, worse = [1.0] * COUNT, [0.0] * 3 + [1.0] * 2 + [2.0]
    judge = Listed([better, worse])
    found = measured(config, judge, judge)
    assert found["reward_model"]["mean"] == pytest.approx((3 + 2 / 2) / COUNT)
    assert found["oracle"]["n"] == COUNT
    # Of whole answers it orders all; two words that tell are behind the cut, so those pairs tie.
    assert found["oracle"]["mean"] == pytest.approx((4 + 2 / 2) / COUNT)
    first, second = judge.shown
    assert torch.equal(first.prompt_ids, second.prompt_ids)
    assert not torch.equal(first.response_ids, second.response_ids)
    assert int(max(first.lengths.max(), second.lengths.max())) <= LONGEST


def test_of_a_panel_the_scorer_alone_is_asked(place: Path) -> None:
    """A judge may be slow or cost money, and its evidence is not wanted here."""
    config = config_at(place)
    config.judge = FunctionJudge(function="judge.py:length")
    judge, scorer = Listed([]), Listed([[1.0] * COUNT])
    found = measured(config, Panel(judge, scorer))
    assert found["reward_model"]["n"] == COUNT
    assert not judge.shown and len(scorer.shown) == 1


def test_a_scorer_that_is_no_reward_model_has_no_accuracy(place: Path) -> None:
    config = config_at(place)
    config.judge = FunctionJudge(function="judge.py:length")
    for scorer in (SameAsJudge(), FunctionJudge(function="judge.py:nothing")):
        config.scorer = scorer
        judge = Listed([])
        assert measured(config, judge, judge).keys() == {"oracle"}
    config.judge, config.scorer = RewardModelJudge(), SameAsJudge()
    assert measured(config, Listed([[1.0] * COUNT])).keys() == {"reward_model"}


def test_without_labels_there_is_nothing_to_measure(place: Path) -> None:
    config = config_at(place, label_column=None)
    assert measured(config, Listed([])) == {}


def test_scores_that_are_not_finite_are_named(place: Path) -> None:
    scores = [1.0] * (COUNT - 1) + [float("nan")]
    with pytest.raises(UserError, match="reward_model: 1 of 6 scores are not finite"):
        measured(config_at(place), Listed([scores]))
