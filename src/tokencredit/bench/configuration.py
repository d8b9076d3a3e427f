"""The configuration of a run that does a given work at every step."""

from __future__ import annotations

from typing import Final

from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.bench.workload import Reward, Work
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model
from tokencredit.pipeline.process import stage_environment
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.tracking.tracking import Tracking, WandbMode

LEARNING_RATE: Final = 1e-5


def config_of(work: Work) -> Config:
    """PPO as it is by default, but for the sizes."""
    attention = work.reward is Reward.abc
    prompt = PromptSpec(min_tokens=1, max_tokens=max(work.prompt_lengths) + 1)
    return Config(
        model=Model(context=work.context),
        dataset=Dataset(prompt=prompt),
        judge=AttentionJudge() if attention else RewardModelJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Redistribute() if attention else Sparse(),
        algorithm=PPO(
            batch_size=work.rows,
            epochs=work.epochs,
            minibatches=work.minibatches,
            optimizer=Optimizer(learning_rate=LEARNING_RATE),
        ),
        hardware=Hardware(threads=work.threads, micro_batch=work.micro_batch),
        tracking=Tracking(mode=WandbMode.disabled),
        rollout=Sampling(min_new_tokens=1, max_new_tokens=max(work.response_lengths) + 1),
        seed=work.seed,
    )


def environment_of(work: Work) -> dict[str, str]:
    """The environment of the process of such a run: threads, waiting, allocator."""
    return stage_environment(config_of(work), "rl")
