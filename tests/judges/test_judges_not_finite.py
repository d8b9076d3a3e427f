"""A judge's number that is none stops the run before anything is trained on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders import make_judgement, make_rollout
from observers import EvenJudge, Log, furnish, prompts_of
from policies import run_config
from tokencredit.algorithms.ppo import PPO
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.errors import UserError
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.rl.failed_step import NAME, require_finite
from tokencredit.rl.load import load_actors
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World
from tokencredit.rollout import Judgement, Rollout


class Failing(EvenJudge):
    """Says NaN of one token of the third response, in the second step."""

    def __call__(self, rollout: Rollout) -> Judgement:
        judgement = EvenJudge.__call__(self, rollout)
        if self.calls == 2:
            judgement.evidence[2, 0] = float("nan")
        return judgement


def test_the_step_is_dumped_and_the_weights_stay(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    config = run_config(algorithm=PPO(batch_size=4, epochs=1, minibatches=1))
    config.dataset = Dataset(
        source=Source.path,
        path=str(place / "reviews.jsonl"),
        prompt=PromptSpec(min_characters=100),
    )
    config.rollout, config.steps = Sampling(min_new_tokens=2, max_new_tokens=6), 4
    actors = load_actors(config, place / "model", place / "reward")
    around = RunInputs(prompts_of(config, "rl"), prompts_of(config, "eval"), place)
    judge, log = Failing(), Log()
    learner = Learner(config, actors, judge, around, World(config.hardware))
    learner.step(0, learner.log(log))  # type: ignore[arg-type]
    learner.next_step = 1
    before = {name: p.clone() for name, p in actors.policy.named_parameters()}
    with pytest.raises(
        UserError, match=r"step 1: the judge's numbers for 1 of 4 .*first 2"
    ) as found:
        learner.step(1, learner.log(log))  # type: ignore[arg-type]
    assert str(place / NAME) in str(found.value) and judge.calls == 2
    dumped = load_file(place / NAME)
    assert dumped["evidence"].isnan().nonzero().tolist() == [[2, 0]]
    assert {"response_ids", "response_mask", "scores", "ref_logp"} <= set(dumped)
    after = dict(actors.policy.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_only_numbers_that_count_must_be_finite(bad: float, tmp_path: Path) -> None:
    rollout = make_rollout([3, 2], width=5)
    judgement = make_judgement(rollout)
    padded = torch.where(rollout.response_mask, judgement.evidence, bad)
    require_finite(rollout, replace(judgement, evidence=padded), tmp_path, 0)
    assert not (tmp_path / NAME).exists()
    wrong = judgement.evidence.clone()
    wrong[1, 1] = bad
    with pytest.raises(UserError, match=r"step 3: the judge's numbers for 1 of 2 responses"):
        require_finite(rollout, replace(judgement, evidence=wrong), None, 3)
    assert not (tmp_path / NAME).exists()
    scores = torch.tensor([bad, 1.0])
    with pytest.raises(UserError, match=r"scorer's score for 1 of 2 responses \(first 0\)"):
        require_finite(rollout, replace(judgement, scores=scores), tmp_path, 3)
    assert (tmp_path / NAME).exists()
