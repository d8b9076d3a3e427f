"""Stages of a step or two learn something, under a key of their own; one that learns nothing fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from built_stages import build, furnish, labelled, preferring, sampling
from dpo_places import corpus_of, pair_records
from preferences import pair_config, with_model
from tokencredit.algorithms.optimizer import Optimizer, Schedule
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.models.loading.model import Dtype
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.settings import DPO, SFT, Oracle
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.oracle import fit, fit_pairs
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.trainer import may_only_warm_up, step_count, warmup_steps
from tokencredit.training_settings import Training


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("short"))


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of every step that is taken, over the peak of 1e-2."""
    from transformers import Trainer

    found: list[float] = []
    step = Trainer.training_step

    def noting(self: Any, *given: Any, **named: Any) -> Any:
        found.append(self.optimizer.param_groups[0]["lr"] / 1e-2)
        return step(self, *given, **named)

    monkeypatch.setattr(Trainer, "training_step", noting)
    return found


def short(config: Config, **numbers: Any) -> Config:
    """Every stage that trains takes one step, unless `numbers` say otherwise."""
    once: dict[str, Any] = {"learning_rate": 1e-2, "batch_size": 128, **numbers}
    return replace(
        config,
        sft=replace(config.sft, **once),
        reward_model=replace(config.reward_model, max_tokens=None, **{"epochs": 1.0, **once}),
        dpo=replace(config.dpo, **once),
    )


KINDS: dict[str, tuple[str, Callable[[Config, Path], Config]]] = {
    "sft": ("sft", labelled),
    "labels": ("reward_model", labelled),
    "pairs": ("reward_model", lambda config, _: config),
    "dpo": ("dpo", preferring),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_has_half_of_the_learning_rate(
    place: Path, tmp_path: Path, rates: list[float], kind: str
) -> None:
    name, change = KINDS[kind]
    config = short(replace(change(pair_config(place), place), store=str(tmp_path)))
    stage = next(s for s in all_stages(Context(config)) if s.name == name)
    figures = build(stage).manifest["figures"]
    assert figures["steps"] == 1  # fails if no weight had moved
    assert figures["curve"] == {"step": [1], "loss": [pytest.approx(figures["loss"], rel=1e-5)]}
    assert rates[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("schedule", "share", "expected"),
    [
        (Schedule.cosine, 0.9, [1 / 4, 2 / 4, 3 / 4]),
        (Schedule.linear, 0.7, [1 / 4, 2 / 4, 3 / 4]),
        (Schedule.linear, 0.4, [0, 1 / 2, 1]),
        (Schedule.linear, 0.03, [0, 1, 1 / 2]),
        (Schedule.cosine, 0.0, [1, 0.75, 0.25]),
        (Schedule.constant, 0.9, [1, 1, 1]),
    ],
)
def test_only_a_warm_up_of_all_steps_is_another(
    place: Path,
    tmp_path: Path,
    rates: list[float],
    schedule: Schedule,
    share: float,
    expected: Sequence[float],
) -> None:
    numbers = {"schedule": schedule, "warmup_fraction": share, "batch_size": 12}
    config = replace(labelled(pair_config(place), place), store=str(tmp_path))
    sft = replace(config.sft, learning_rate=1e-2, **numbers)
    stage = SFTStage(Context(replace(config, sft=sft)))
    figures = build(stage).manifest["figures"]
    assert figures["steps"] == 3
    assert sum(figures["curve"]["loss"]) / 3 == pytest.approx(figures["loss"], rel=1e-5)
    assert figures["held_out_loss"] > 0
    assert rates == pytest.approx(expected)


def test_the_bound_is_a_bound() -> None:
    """More sequences, or shorter ones, never make a stage that only warms up of one that does not."""
    for course in Schedule:
        for share in (0.0, 0.03, 0.4, 0.6, 0.99):
            training = Training(
                schedule=course, warmup_fraction=share, batch_size=4, max_tokens=2000, epochs=1.5
            )
            for sequences in (1, 3, 8, 9, 100):
                if may_only_warm_up(training, sequences, 100.0):
                    continue
                for more, length in ((sequences, 7.0), (sequences + 5, 99.0), (7 * sequences, 1.0)):
                    steps = step_count(training, more, length)
                    assert course is Schedule.constant or warmup_steps(training, steps) < steps


def test_a_short_stage_has_a_key_of_its_own(place: Path) -> None:
    config = labelled(pair_config(place), place)

    def revision(**numbers: Any) -> int:
        return SFTStage(Context(replace(config, sft=SFT(max_length=64, **numbers)))).revision()

    assert len(Context(config).corpus.parts["sft"]) == 38
    assert revision(batch_size=4) == 1
    assert revision(batch_size=32) == 2
    assert revision(batch_size=32, epochs=2.0) == 1
    assert revision(batch_size=4, max_tokens=500) == 2
    assert revision(batch_size=4, max_tokens=512) == 1
    assert revision(batch_size=32, warmup_fraction=0.0) == 1
    assert revision(batch_size=32, schedule=Schedule.constant) == 1
    assert revision(batch_size=8, warmup_fraction=0.8) == 2
    assert revision(batch_size=1, packing=True) == 2  # tokens are not counted without a tokenizer
    assert revision(batch_size=32, train=False) == 1


def test_dpo_counts_the_pairs_that_surely_fit(place: Path) -> None:
    config = preferring(pair_config(place), place)

    def revision(count: int, changed: Config = config, **numbers: Any) -> int:
        settings = DPO(max_length=64, batch_size=8, **numbers)
        context = Context(replace(changed, dpo=settings))
        vars(context)["corpus"] = corpus_of(reward=pair_records(count), eval=pair_records(4))
        return DPOStage(context).revision()

    assert (revision(15), revision(16)) == (2, 1)
    assert revision(16, max_tokens=64) == 2
    sampled = sampling(pair_config(place), place)
    assert DPOStage(Context(sampled)).revision() == 1  # keyed by its reward model


def test_the_defaults_keep_their_keys() -> None:
    """25,000 reviews, or 40,000 pairs: no default stage is short."""
    assert not may_only_warm_up(SFT(), 10_000, 64)
    assert not may_only_warm_up(SFT(max_length=512), 10_000, 512)
    assert not may_only_warm_up(DPO(max_length=512), 100, 1024)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_whose_weights_stay_is_an_error(place: Path, tmp_path: Path, kind: str) -> None:
    name, change = KINDS[kind]
    config = replace(change(pair_config(place), place), store=str(tmp_path))
    config = with_model(short(config), dtype=Dtype.float32)
    settings = replace(getattr(config, name), learning_rate=1e-30)  # lost beside every weight
    stages = all_stages(Context(replace(config, **{name: settings})))
    stage = next(s for s in stages if s.name == name)
    with pytest.raises(UserError, match=rf"{name}: no weight has moved in 1 step.*raise {name}\."):
        build(stage)
    assert stage.context.store.find(stage) is None


def test_weights_that_are_not_finite_after_the_last_step_are_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step

    def spoiling(self: Any, *given: Any, **named: Any) -> Any:
        found = step(self, *given, **named)
        self.param_groups[0]["params"][0].data.view(-1)[0] = torch.inf
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", spoiling)
    config = short(replace(labelled(pair_config(place), place), store=str(tmp_path)))
    with pytest.raises(UserError, match=r"sft: the tensor \S+ is not finite .*sft\.learning_rate"):
        build(SFTStage(Context(config)))


def test_an_oracle_of_texts_without_words_is_an_error() -> None:
    settings = Oracle(buckets=1024, epochs=1)
    with pytest.raises(UserError, match="oracle: no weight has moved"):
        fit([[], []], torch.tensor([0.0, 1.0]), settings, 0)
    with pytest.raises(UserError, match="oracle: no weight has moved"):
        fit_pairs([[3]], [[3]], settings, 0)
    assert fit([[3], []], torch.tensor([0.0, 1.0]), settings, 0).weights.any()


def test_rl_never_begins_at_zero() -> None:
    for optimizer in (
        Optimizer(learning_rate=1.0, warmup_steps=5),
        Optimizer(learning_rate=1.0, warmup_fraction=0.5, schedule_steps=2),
    ):
        assert optimizer.rate_at(0) == pytest.approx(1 / optimizer.warmup())
