"""Writes the golden run again: `python tests/golden/make_golden.py`, after a change of the numbers
that is meant. The weights stay as they are; `--weights` draws new ones.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "helpers")]

from builders import (  # noqa: E402
    EOS_ID,
    PAD_ID,
    make_prompts,
    tiny_causal,
    tiny_classifier,
    train_tokenizer,
)  # fmt: skip
from tokencredit.algorithms.kl import KLPenalty  # noqa: E402
from tokencredit.algorithms.optimizer import Optimizer  # noqa: E402
from tokencredit.algorithms.ppo import PPO  # noqa: E402
from tokencredit.hardware import Hardware  # noqa: E402
from tokencredit.models.actors import Actors  # noqa: E402
from tokencredit.models.decoding.sampling import Sampling  # noqa: E402
from tokencredit.models.policy import PolicyWithValue, Reference  # noqa: E402
from tokencredit.models.scorer import Scorer  # noqa: E402
from tokencredit.models.tokens.ends import SpecialIds  # noqa: E402
from tokencredit.rewards.redistribute import Redistribute  # noqa: E402
from tokencredit.rl.engine import Engine  # noqa: E402
from tokencredit.rl.metrics import describe  # noqa: E402
from tokencredit.rl.update import Updater  # noqa: E402
from tokencredit.rl.world import World  # noqa: E402
from tokencredit.rollout import Judgement  # noqa: E402

WEIGHTS, NUMBERS = FOLDER / "weights.safetensors", FOLDER / "numbers.json"
STEPS = 5
ALGORITHM = PPO(
    batch_size=8,
    epochs=2,
    minibatches=2,
    optimizer=Optimizer(learning_rate=1e-3, weight_decay=0.01, max_grad_norm=1.0),
    kl=KLPenalty(coef=0.3, horizon=40.0),
)
LENGTHS, LIMITS = [2, 5, 3, 4, 2, 6, 3, 4], [4, 9, 6, 3, 8, 5, 7, 6]
Numbers = list[dict[str, object]]


def draw_weights() -> None:
    """New random weights, rounded to half precision so that the file is small and exact."""
    parts = {"policy": tiny_causal("llama", 3), "judge": tiny_classifier("llama", 4)}
    found = {
        f"{role}.{name}": tensor.half().contiguous()
        for role, model in parts.items()
        for name, tensor in model.state_dict().items()
    }
    save_file(found, WEIGHTS)


def load(role: str, model: torch.nn.Module) -> torch.nn.Module:
    """The model with the stored weights."""
    stored = load_file(WEIGHTS)
    own = {n.removeprefix(f"{role}."): t.float() for n, t in stored.items() if n.startswith(role)}
    model.load_state_dict(own)
    return model


def golden_run() -> Numbers:
    """Five steps of ABC with a reward model's attention; every metric, and the tokens."""
    model = load("policy", tiny_causal("llama"))
    sampling = Sampling(min_new_tokens=3, max_new_tokens=10)
    policy = PolicyWithValue(model, SpecialIds(eos=EOS_ID, pad=PAD_ID), sampling)
    actors = Actors(
        policy=policy,
        reference=Reference(policy, copy.deepcopy(model)),
        tokenizer=train_tokenizer(),
    )
    scorer, scheme = Scorer(load("judge", tiny_classifier("llama")), PAD_ID), Redistribute(beta=0.8)
    updater = Updater(Engine(policy, ALGORITHM, World(Hardware())), ALGORITHM, seed=5)
    state, log = ALGORITHM.initial_state(), []
    policy.train()
    for step in range(STEPS):
        prompts = make_prompts(LENGTHS, max_new=LIMITS, seed=step)
        rollout = actors.roll_out(prompts, ("golden", step))
        scores, evidence = scorer.score_and_attention(rollout, -1)
        judgement = Judgement(scores=scores, evidence=evidence)
        rewards = scheme.token_rewards(rollout, judgement)
        targets = ALGORITHM.targets(rollout, ALGORITHM.shape(rewards, rollout, state))
        metrics = describe(rollout, judgement, rewards, targets)
        metrics |= updater.update(rollout, targets, state, step)
        pairs = zip(rollout.response_ids, rollout.response_mask, strict=True)
        log.append({"tokens": [ids[mask].tolist() for ids, mask in pairs], **state, **metrics})
        state = ALGORITHM.next_state(state, metrics, len(rollout))
    return log


if __name__ == "__main__":
    if "--weights" in sys.argv or not WEIGHTS.is_file():
        draw_weights()
    NUMBERS.write_text(json.dumps(golden_run(), indent=1) + "\n")
