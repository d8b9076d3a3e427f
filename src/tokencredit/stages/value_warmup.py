"""The value function alone, trained on responses of the SFT model before the first step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tokencredit.algorithms.actor_critic import ActorCritic
from tokencredit.console import say
from tokencredit.describe import explained_variance
from tokencredit.update import Updater

if TYPE_CHECKING:
    from tokencredit.stages.learner import Learner

STREAM: Final = "value warm-up"


def warm_up(learner: Learner) -> None:
    """Train the value function on `algorithm.value_warmup` rollouts; the policy does not move.

    Prompts and noise have a stream of their own, so the steps that follow see the same ones as
    without a warm-up. Nothing is kept: a run that is resumed at step 0 begins with it again.
    """
    algorithm, seed = learner.algorithm, learner.config.seed
    if not isinstance(algorithm, ActorCritic) or learner.next_step > 0:
        return
    updater = Updater(learner.engine, algorithm, seed, only="value")
    for number in range(algorithm.value_warmup):
        prompts = learner.prompts.batch(seed, number, algorithm.batch_size, STREAM)
        speak = partial(learner.actors.roll_out, stream=(seed, STREAM, number))
        rollout, judgement = learner.collector.collect(prompts, speak)
        shaped = algorithm.shape(learner.pay(rollout, judgement), rollout, learner.state)
        targets = algorithm.targets(rollout, shaped)
        explained = explained_variance(rollout.values, targets.returns, rollout.response_mask)
        # Negative steps: shuffled by names of their own, at the peak learning rate.
        updater.update(rollout, targets, learner.state, number - algorithm.value_warmup)
        if learner.world.is_main:
            say(
                f"value warm-up: rollout {number + 1}/{algorithm.value_warmup}, explained "
                f"variance {float(explained):.2f}"
            )
