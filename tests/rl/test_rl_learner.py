"""What surrounds a step of the RL loop: evaluations, checkpoints, coefficients, baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import tiny_actors
from observers import EvenJudge, Log, furnish, prompts_of
from policies import run_config
from tokencredit.algorithms.asking import Asking
from tokencredit.algorithms.kl import KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.algorithms.remax import ReMax
from tokencredit.algorithms.shaping import Shaped, State
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.hardware import Hardware
from tokencredit.judges.judge import OpenJudge
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.ops import masked_sum
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.checkpoints import Checkpoints
from tokencredit.rl.collector import Collector
from tokencredit.rl.evaluate import evaluate
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout
from tokencredit.settings import Evaluation, Run

HELD_OUT, BATCH = 3, 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("learner"))


def config_at(place: Path, algorithm: Any = None, **changes: Any) -> Config:
    """A run of small steps on the reviews in `place`, evaluated before each of them."""
    chosen = algorithm or PPO(batch_size=BATCH, epochs=1, minibatches=1)
    config = run_config(algorithm=chosen)
    prompt = PromptSpec(min_characters=100)
    path = str(place / "reviews.jsonl")
    config.dataset = Dataset(source=Source.path, path=path, prompt=prompt)
    config.rollout = Sampling(min_new_tokens=2, max_new_tokens=6)
    config.evaluation = Evaluation(prompts=HELD_OUT, every=1)
    return replace(config, **changes)


def learner_of(config: Config, place: Path, out: Path, judge: OpenJudge) -> Learner:
    actors = load_actors(config, place / "model", place / "reward")
    around = RunInputs(prompts_of(config, "rl"), prompts_of(config, "eval"), out)
    return Learner(config, actors, judge, around, World(config.hardware))


@dataclass
class Scripted(EvenJudge):
    """Scores all held-out responses alike, by a list; and all others by their ids."""

    scores: Iterator[float] = field(default_factory=lambda: iter(()))

    def __call__(self, rollout: Rollout) -> Judgement:
        found = EvenJudge.__call__(self, rollout)
        if len(rollout) != HELD_OUT:
            return found
        return replace(found, scores=torch.full((HELD_OUT,), next(self.scores)))


def trained(
    place: Path, out: Path, steps: int, scores: Sequence[float], checkpoint: Path | None = None
) -> tuple[Learner, Log]:
    """A run of that many steps, or the rest of it from a checkpoint; its checkpoints lie in `out`."""
    out.mkdir(exist_ok=True)
    config = config_at(place, steps=steps)
    learner = learner_of(config, place, out, Scripted(scores=iter(scores)))
    if checkpoint is not None:
        learner.resume(checkpoint, Checkpoints.progress(checkpoint))
    log = Log()
    learner.train(log, Checkpoints(out))  # type: ignore[arg-type]
    return learner, log


def test_a_resumed_run_knows_its_best_evaluation_and_its_coefficient(
    place: Path, tmp_path: Path
) -> None:
    """After two of four steps: the same rows as without a break, and the better policy stays."""
    scores = [1.0, 3.0, 2.0, 0.5, 0.0]
    straight, whole = trained(place, tmp_path / "straight", 4, scores)
    begun, _ = trained(place, tmp_path / "cut", 2, scores[:3])
    newest = Checkpoints(tmp_path / "cut").newest()
    assert newest is not None
    kept = Checkpoints.progress(newest)
    assert kept.best == {"step": 1, "score": 3.0}
    assert kept.state == begun.state != begun.algorithm.initial_state()
    best = (tmp_path / "cut" / "policy_best" / "model.safetensors").read_bytes()
    resumed, rest = trained(place, tmp_path / "cut", 4, scores[2:], newest)
    assert rest.rows == whole.rows[2:] and resumed.state == straight.state
    assert [row["eval/best_step"] for row in rest.rows] == [1.0, 1.0]
    assert (tmp_path / "cut" / "policy_best" / "model.safetensors").read_bytes() == best


def test_of_equal_evaluations_the_earlier_is_the_best(place: Path, tmp_path: Path) -> None:
    """It moved less for the same score."""
    learner, log = trained(place, tmp_path, 3, [1.0, 2.0, 2.0, 2.0])
    assert [row["eval/best_step"] for row in log.rows] == [0.0, 1.0, 1.0]
    assert learner.best is not None and (learner.best.step, learner.best.score) == (1, 2.0)


def test_the_controller_counts_the_responses_of_a_step(place: Path, tmp_path: Path) -> None:
    """Before any update the KL is 0, an error of −1 that is clipped to −0.2: c (1 − 0.2 · 4 / 8)."""
    kl = KLPenalty(coef=0.5, horizon=8.0)
    config = config_at(place, PPO(batch_size=BATCH, epochs=1, minibatches=1, kl=kl))
    learner = learner_of(config, place, tmp_path, EvenJudge())
    learner.step(0, learner.log(None))
    assert learner.state["kl/coef"] == pytest.approx(0.5 * (1 - 0.2 * BATCH / 8))


def layers_read(place: Path, out: Path, *, checkpointing: bool) -> int:
    """How often the first layer is computed in a step of a run that starts from models as they load."""
    hardware = Hardware(gradient_checkpointing=checkpointing)
    run, settings = Run(save_every=9), Evaluation(prompts=HELD_OUT)
    config = config_at(place, hardware=hardware, run=run, evaluation=settings, steps=1)
    learner = learner_of(config, place, out, EvenJudge())
    learner.actors.policy.eval()
    calls: list[int] = []
    layers: Any = learner.actors.policy.model.get_decoder().layers
    layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    log = Log()
    learner.train(log, log)  # type: ignore[arg-type]
    assert learner.actors.policy.training
    return len(calls)


def test_a_run_puts_its_policy_into_training_mode(place: Path, tmp_path: Path) -> None:
    """In evaluation mode layers ignore that their activations are to be computed again."""
    kept = layers_read(place, tmp_path, checkpointing=False)
    assert layers_read(place, tmp_path, checkpointing=True) == kept + 1


@dataclass
class ByRow:
    """The score of a response is the number of its record; remembers how it was asked."""

    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, rollout: Rollout) -> Judgement:
        self.asked.append(rollout.rows.tolist())
        evidence = torch.zeros(rollout.response_mask.shape)
        return Judgement(scores=rollout.rows.float(), evidence=evidence)


@dataclass(slots=True, kw_only=True)
class Remembering(ReMax):
    """ReMax that remembers the records and the baselines it is given."""

    given: list[tuple[list[int], list[float]]] = field(default_factory=list)

    def shape(
        self, rewards: Tensor, rollout: Rollout, state: State, baseline: Tensor | None = None
    ) -> Shaped:
        assert baseline is not None
        self.given.append((rollout.rows.tolist(), baseline.tolist()))
        return ReMax.shape(self, rewards, rollout, state, baseline)


def test_each_greedy_response_is_the_baseline_of_its_own_prompt(
    place: Path, tmp_path: Path
) -> None:
    """Four prompts, two responses each: one greedy response a prompt, given to both."""
    algorithm = Remembering(batch_size=8, samples_per_prompt=2, epochs=1, minibatches=1)
    config = config_at(
        place, algorithm, reward_scheme=Sparse(), evaluation=Evaluation(prompts=HELD_OUT)
    )
    judge = ByRow()
    learner = learner_of(config, place, tmp_path, judge)
    learner.step(0, learner.log(None))
    sampled, greedy = judge.asked
    assert len(set(sampled)) == 4 and greedy == sampled[::2] == sampled[1::2]
    ((rows, baseline),) = algorithm.given
    assert rows == sampled and baseline == [float(row) for row in sampled]


@dataclass(slots=True, kw_only=True)
class AskingAgain(Remembering):
    """Its baseline is another sampled response to each row's prompt."""

    def observe(self, rollout: Rollout, ask: Asking) -> Tensor:
        said, judgement = ask.policy(ask.prompts, "again")
        return masked_sum(ask.token_rewards(said, judgement), said.response_mask)


def test_an_algorithm_may_ask_for_other_responses_without_the_loop_knowing(
    place: Path, tmp_path: Path
) -> None:
    algorithm = AskingAgain(batch_size=4, epochs=1, minibatches=1, score_clip=2.0)
    config = config_at(
        place, algorithm, reward_scheme=Sparse(), evaluation=Evaluation(prompts=HELD_OUT)
    )
    judge = ByRow()
    learner = learner_of(config, place, tmp_path, judge)
    learner.step(0, learner.log(None))
    assert judge.asked[0] == judge.asked[1] and len(judge.asked) == 2
    ((rows, baseline),) = algorithm.given
    assert baseline == [min(float(row), 2.0) for row in rows], "scaled as the rollout's own"


def evaluated(place: Path, actors: Actors) -> list[dict[str, Any]]:
    config = config_at(place, evaluation=Evaluation(prompts=6))
    collector = Collector(World(config.hardware), EvenJudge(), chunk=4)
    return evaluate(config, actors, collector, None, prompts_of(config, "eval"))


def test_policy_and_sft_model_answer_with_the_same_random_numbers(place: Path) -> None:
    """Two models of the same weights then say the same, so what differs is the training alone."""
    rows = evaluated(place, tiny_actors())
    assert len({row["policy/response"] for row in rows}) > 1
    for row in rows:
        assert row["sft/response"] == row["policy/response"]
        assert (row["sft/score"], row["policy/kl"]) == (row["policy/score"], 0.0)


@pytest.mark.parametrize("lora", [Lora(), Lora(enabled=True, r=4)], ids=["whole", "adapters"])
def test_the_sft_models_answers_are_not_the_policys(place: Path, lora: Lora) -> None:
    """Training moves the policy's answers and leaves those it is compared with."""
    actors = load_actors(run_config(lora=lora), place / "model")
    before = evaluated(place, actors)
    with torch.no_grad():
        for parameter in actors.policy.model.parameters():
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    after = evaluated(place, actors)
    for name in ("sft/response", "sft/score"):
        assert [row[name] for row in after] == [row[name] for row in before]
    assert [row["policy/response"] for row in after] != [row["sft/response"] for row in after]
