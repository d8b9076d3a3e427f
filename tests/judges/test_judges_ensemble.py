"""Several reward models as one: numbers by hand, one member alone, and their artifacts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders import PAD_ID, handed, make_rollout, speaking, tiny_classifier, train_tokenizer
from observers import furnish
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import COMPONENTS, Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.ensemble import (
    Combine,
    Ensemble,
    EnsembleJudge,
    combined,
    disagreement,
    member_name,
)
from tokencredit.judges.fit import check_fit
from tokencredit.judges.judge import Judge
from tokencredit.judges.panel import open_panel, shares_pass
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.loading.model import Model, ModelSource, Pretrained
from tokencredit.models.scorer import Scorer
from tokencredit.pipeline import pipeline
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.pipeline.worker import run as work
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence
from tokencredit.rewards.sparse import Sparse
from tokencredit.settings import RewardModel
from tokencredit.stages.catalogue import given_of, stages_of
from tokencredit.stages.context import Context
from tokencredit.stages.label_model import examples
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.stage import Stage
from tokencredit.tracking.tracking import Tracking

LENGTHS = [4, 1, 9, 3]
SCORES = torch.tensor([[1.0, -2.0], [2.0, -2.0], [6.0, -2.0]])
"""Means 3 and −2; variances (4 + 1 + 9) / 3 and 0."""
every_combination = pytest.mark.parametrize("combine", Combine)


def scorers(count: int) -> list[Scorer]:
    return [Scorer(tiny_classifier(seed=1 + n), PAD_ID) for n in range(count)]


@pytest.mark.parametrize(
    ("combine", "c", "expected"),
    [
        (Combine.mean, 1.0, [3.0, -2.0]),
        (Combine.minimum, 1.0, [1.0, -2.0]),
        (Combine.mean_minus_sd, 0.5, [3 - 0.5 * (14 / 3) ** 0.5, -2.0]),
        (Combine.mean_minus_sd, 0.0, [3.0, -2.0]),
    ],
)
def test_scores_by_hand(combine: Combine, c: float, expected: list[float]) -> None:
    assert combined(SCORES, combine, c).tolist() == pytest.approx(expected)
    assert disagreement(SCORES).tolist() == pytest.approx([(14 / 3) ** 0.5, 0.0])


@every_combination
def test_one_member_is_the_reward_model_bit_for_bit(combine: Combine) -> None:
    (scorer,), rollout = scorers(1), make_rollout(LENGTHS)
    alone = RewardModelJudge().judging(scorer)(rollout)
    said = Ensemble(members=1, combine=combine).judging([scorer])(rollout)
    assert torch.equal(said.scores, alone.scores) and torch.equal(said.evidence, alone.evidence)
    reading = AttentionJudge().judging(scorer)(rollout)
    said = EnsembleJudge(members=1, combine=combine).judging([scorer])(rollout)
    assert torch.equal(said.scores, reading.scores)
    assert torch.equal(said.evidence, reading.evidence)
    assert said.notes is not None and torch.equal(said.notes.columns["score_sd"], torch.zeros(4))


def test_scores_evidence_and_disagreement_of_three() -> None:
    models, rollout = scorers(3), make_rollout(LENGTHS)
    each = [AttentionJudge(layer=0).judging(model)(rollout) for model in models]
    ensemble = EnsembleJudge(combine=Combine.minimum, attention=AttentionJudge(layer=0))
    said = ensemble.judging(models)(rollout)
    least = torch.minimum(torch.minimum(each[0].scores, each[1].scores), each[2].scores)
    assert torch.equal(said.scores, least)
    mean = (each[0].evidence + each[1].evidence + each[2].evidence) / 3
    assert torch.allclose(said.evidence, mean, atol=1e-7)
    assert said.notes is not None
    spread = torch.stack([one.scores for one in each]).double().std(dim=0, correction=0)
    assert torch.allclose(said.notes.columns["score_sd"].double(), spread, atol=1e-5)
    assert (spread > 0.1).all()


def test_it_fits_schemes_with_and_without_evidence() -> None:
    assert Ensemble().gives() is Evidence.none
    assert EnsembleJudge().gives() is Evidence.nonnegative
    for scheme in (Sparse(), Redistribute()):
        check_fit(scheme, EnsembleJudge(), COMPONENTS["judge"])
    check_fit(Sparse(), Ensemble(), COMPONENTS["judge"])


@pytest.mark.parametrize(
    ("judge", "scorer", "shared"),
    [
        (EnsembleJudge(), Ensemble(), True),
        (EnsembleJudge(), Ensemble(members=2), False),
        (EnsembleJudge(), Ensemble(combine=Combine.minimum), False),
        (EnsembleJudge(), RewardModelJudge(), False),
        (AttentionJudge(), Ensemble(), False),
        (AttentionJudge(), RewardModelJudge(), True),
    ],
)
def test_passes_are_shared_where_scores_are(judge: Judge, scorer: Judge, shared: bool) -> None:
    assert shares_pass(judge, scorer) is shared


def test_the_disagreement_of_a_scorer_is_logged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scorers(3)
    roles = {Path(member_name(member)): own for member, own in enumerate(made)}
    monkeypatch.setattr(
        "tokencredit.judges.retokenised.open_reader", lambda folder, *_: roles[folder]
    )
    nowhere = handed()
    actors, rollout = speaking(train_tokenizer()), make_rollout(LENGTHS)
    said = open_panel(AttentionJudge(), Ensemble(), nowhere, actors)(rollout)
    alone = Ensemble().judging(made)(rollout)
    assert torch.equal(said.scores, alone.scores)
    assert said.notes is not None and alone.notes is not None
    assert torch.equal(said.notes.columns["score_sd"], alone.notes.columns["score_sd"])
    reading = AttentionJudge().judging(made[0])(rollout)
    assert torch.equal(said.evidence, reading.evidence)
    plain = open_panel(AttentionJudge(), RewardModelJudge(), nowhere, actors)(rollout)
    assert plain.notes is None


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"members": 0}, r"judge\.members \(or scorer\.members\) = 0: must be >= 1"),
        ({"c": -0.5}, r"judge\.c \(or scorer\.c\) = -0\.5: must be >= 0"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Ensemble(**numbers)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        EnsembleJudge(**numbers)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("ensemble"))


def config(place: Path, judge: Judge, scorer: Judge) -> Config:
    source = Pretrained(source=ModelSource.path, path=str(place / "model"), name=None)
    settings = RewardModel(
        max_length=32, batch_size=4, max_tokens=600, held_out=8, learning_rate=1e-3
    )
    found = Config(
        model=Model(policy=source, context=64),
        dataset=Dataset(source=Source.path, path=str(place / "reviews.jsonl")),
        judge=judge,
        scorer=scorer,
        reward_scheme=Sparse(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
        store=str(place / "store"),
    )
    return replace(found, reward_model=settings)


def reward_models(settings: Config) -> list[Stage]:
    return [stage for stage in all_stages(Context(settings)) if stage.name == "reward_model"]


def test_a_plan_shows_each_member_once(place: Path) -> None:
    alone = config(place, RewardModelJudge(), RewardModelJudge())
    for judge, scorer, count in (
        (RewardModelJudge(), RewardModelJudge(), 1),
        (RewardModelJudge(), Ensemble(members=3), 3),
        (EnsembleJudge(members=2), Ensemble(members=4), 4),
        (EnsembleJudge(members=1), RewardModelJudge(), 1),
    ):
        plans = pipeline.plan(config(place, judge, scorer))
        keys = [plan.key for plan in plans if plan.name == "reward_model"]
        assert len(keys) == len(set(keys)) == count
        assert keys[0] == reward_models(alone)[0].key


def test_members_differ_by_their_seed_and_the_first_is_the_reward_model(place: Path) -> None:
    settings = config(place, RewardModelJudge(), Ensemble())
    context, other = Context(settings), Context(replace(settings, stage_seed=1))
    stages = stages_of(Ensemble(members=3), context)
    assert list(stages) == ["reward_model", "reward_model_1", "reward_model_2"]
    assert stages["reward_model"].key == RewardModelStage(context).key
    assert "member" not in RewardModelStage(context).inputs()
    seeds = {RewardModelStage(c, m).seed for c in (context, other) for m in range(3)}
    assert len(seeds) == 6 and {0, 1} < seeds
    assert len({RewardModelStage(c, m).key for c in (context, other) for m in range(3)}) == 6
    records, tokenizer = context.corpus.labelled("reward"), train_tokenizer()
    read = [examples(records, tokenizer, settings.reward_model, seed) for seed in sorted(seeds)]
    assert all(one != read[0] for one in read[1:])


def test_copies_of_one_finished_model_are_refused(place: Path) -> None:
    settings = config(place, RewardModelJudge(), Ensemble(members=2))
    settings.reward_model.train = False
    with pytest.raises(UserError, match=r"members\) = 2: all members would be the same model"):
        all_stages(Context(settings))


def test_each_member_is_built_under_its_own_key(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a stage finds it by name and key: several have the same name."""
    settings = config(place, RewardModelJudge(), Ensemble(members=2))
    context = Context(settings)
    stages = reward_models(settings)
    monkeypatch.setattr("tokencredit.config.read", lambda _: settings)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # this process goes on
    for stage in stages:
        assert context.store.find(stage) is None
        work("reward_model", stage.key)
        assert context.store.find(stage) is not None
    first, second = (context.store.get(stage).path for stage in stages)
    one, two = (load_file(path / "model.safetensors") for path in (first, second))
    assert not torch.equal(one["score.weight"], two["score.weight"])
    assert not torch.equal(one["model.embed_tokens.weight"], two["model.embed_tokens.weight"])
    with pytest.raises(UserError, match="reward_model: the data or a model changed"):
        work("reward_model", "0" * 16)
    found = Ensemble(members=2).open(given_of(context), speaking(train_tokenizer()))(
        make_rollout(LENGTHS)
    )
    assert found.notes is not None and (found.notes.columns["score_sd"] > 0).all()
