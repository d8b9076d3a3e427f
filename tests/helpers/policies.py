"""Policies of every kind, and rollouts to show them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import EOS_ID, PAD_ID, make_prompts, tiny_actors, tiny_causal
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import Lora, adapted, add_value_adapter
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Model
from tokencredit.models.loading.trunk import backbone
from tokencredit.models.passes.computation import Computation
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.models.value import ValueKind
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rollout import Rollout
from tokencredit.tracking.tracking import Tracking

VALUED = [kind for kind in ValueKind if kind is not ValueKind.none]
valued_kinds = pytest.mark.parametrize("kind", VALUED, ids=[kind.value for kind in VALUED])
LENGTHS = [2, 7, 4, 5]
LORA = Lora(enabled=True, r=4, alpha=8)


def make_policy(
    kind: ValueKind = ValueKind.shared,
    architecture: str = "llama",
    sampling: Sampling | None = None,
    *,
    lora: bool = False,
    **computation: Any,
) -> PolicyWithValue:
    """A policy whose value head and adapters are not zero; adapters if asked or needed."""
    model, trunk = tiny_causal(architecture), None
    if lora or kind is ValueKind.adapter:
        model = adapted(model, LORA)
    if kind is ValueKind.adapter:
        add_value_adapter(model, LORA)
    if kind is ValueKind.separate:
        trunk = backbone(tiny_causal(architecture, seed=7))
    ids = SpecialIds(eos=EOS_ID, pad=PAD_ID)
    policy = PolicyWithValue(model, ids, sampling or Sampling(), Computation(**computation), trunk)
    stir(policy)
    return policy


def stir(policy: PolicyWithValue, std: float = 0.2) -> None:
    """Make what starts at zero random: the value head, and the adapters' second factors."""
    generator = torch.Generator().manual_seed(100)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name or name.startswith("value_head"):
            drawn = torch.empty(parameter.shape, dtype=parameter.dtype)  # on the CPU anywhere
            parameter.data.copy_(drawn.normal_(std=std, generator=generator))


def rolled(architecture: str = "llama", sampling: Sampling | None = None, seed: int = 0) -> Rollout:
    """Responses of different lengths to prompts of different lengths."""
    prompts = make_prompts(LENGTHS, max_new=[6, 9, 12, 3], min_new=2)
    return tiny_actors(architecture, sampling, seed).roll_out(prompts, ("test", 0))


def alone(rollout: Rollout, row: int) -> Rollout:
    """One row without any padding."""
    return rollout[torch.tensor([row])].trimmed()


def poisoned(rollout: Rollout, fill: float) -> Rollout:
    """Every masked slot filled: ids with ids that no vocabulary has, numbers with `fill`."""
    mask, before = rollout.response_mask, rollout.prompt_mask
    wild = 10**9 if fill else -(10**9)

    def dirty(x: Tensor) -> Tensor:
        return torch.where(mask, x, torch.full_like(x, fill))

    return replace(
        rollout,
        prompt_ids=torch.where(before, rollout.prompt_ids, wild),
        response_ids=torch.where(mask, rollout.response_ids, wild),
        logp=dirty(rollout.logp),
        ref_logp=dirty(rollout.ref_logp),
        values=dirty(rollout.values),
    )


def plain_config(**more: Any) -> Config:
    """A run of defaults, paid by a reward model at the end of a response; `more` are its fields."""
    fields: dict[str, Any] = {
        "model": Model(),
        "dataset": Dataset(),
        "judge": RewardModelJudge(),
        "scorer": RewardModelJudge(),
        "reward_scheme": Sparse(),
        "algorithm": PPO(),
        "hardware": Hardware(),
        "tracking": Tracking(),
    }
    return Config(**{**fields, **more})


def run_config(*, algorithm: Algorithm | None = None, **model: Any) -> Config:
    """A run whose model has these settings."""
    return plain_config(
        model=Model(context=64, **model),
        judge=AttentionJudge(),
        reward_scheme=Redistribute(),
        algorithm=algorithm or PPO(),
    )
