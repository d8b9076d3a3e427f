"""TRL 0.11.4's `PPOTrainer` as a program of the comparison; run it with its own environment.

    python serve_trl_0_11_4.py --setting a

One model with a value head, `generate` for all rows in one batch, a reward model of the same size,
and `step`. Its tokenizer pads right, which its forward passes need: they give GPT-2 no position
ids. (`generate` pads left by itself, where transformers derives the positions from the mask.)
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import torch
import workload
from protocol import Iteration, conversation, serve
from torch_side import ForceLengths, Watch, facts, tokenizer, use_threads
from workload import EOS, PAD, Setting

BEFORE_TRAINING = tuple(
    f"time/ppo/{part}" for part in ("forward_pass", "compute_rewards", "compute_advantages")
)
"""What `step` itself says it spent before the first minibatch."""


class Peer:
    """The trainer, its reward model, and the prompts of a setting."""

    def __init__(self, setting: Setting) -> None:
        """Random weights from a fixed seed."""
        from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel
        from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

        self.setting = setting
        config = GPT2Config(**workload.gpt2(), num_labels=1)
        torch.manual_seed(workload.MODEL_SEED)
        policy, reference = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
        reference.load_state_dict(policy.state_dict())
        self.reward_model = GPT2ForSequenceClassification(config).eval()
        with_value = AutoModelForCausalLMWithValueHead.from_pretrained
        self.trainer = PPOTrainer(
            PPOConfig(
                batch_size=setting.rows,
                mini_batch_size=workload.MINIBATCH,
                ppo_epochs=workload.EPOCHS,
                learning_rate=workload.LEARNING_RATE,
                accelerator_kwargs={"cpu": True},
            ),
            with_value(policy, summary_dropout_prob=0.0),
            with_value(reference, summary_dropout_prob=0.0),
            tokenizer(),
        )
        self.trainer.tokenizer.padding_side = "right"
        self.watch = Watch(policy.transformer.ln_f.weight)
        self.queries = [torch.tensor(ids) for ids in workload.prompts(setting)]

    def iterate(self) -> Iteration:
        """One rollout, one call of the reward model, one `step`."""
        self.watch.start()
        started = time.perf_counter()
        responses = self._responses()
        known = time.perf_counter()
        scores = self._scores(responses)
        scored = time.perf_counter()
        stats = self.trainer.step(self.queries, responses, scores)
        done = time.perf_counter()
        before_training = sum(float(stats[name]) for name in BEFORE_TRAINING)
        return Iteration(
            whole=done - started,
            rollout=known - started,
            scoring=scored - known + before_training,
            optimisation=done - scored - before_training,
            response_tokens=sum(len(response) for response in responses),
            optimizer_steps=self.watch.steps,
            weight_change=self.watch.change(),
        )

    def _responses(self) -> list[torch.Tensor]:
        setting = self.setting
        lengths = list(setting.response_lengths)
        force = ForceLengths(setting, lengths, max(setting.prompt_lengths))
        responses: list[torch.Tensor] = self.trainer.generate(
            self.queries,
            batch_size=setting.rows,
            return_prompt=False,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=setting.max_new,
            eos_token_id=EOS,
            pad_token_id=PAD,
            logits_processor=[force],
        )
        return responses

    @torch.no_grad()
    def _scores(self, responses: list[torch.Tensor]) -> list[torch.Tensor]:
        rows = [torch.cat(pair) for pair in zip(self.queries, responses, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        logits = self.reward_model(input_ids=ids, attention_mask=(ids != PAD).long()).logits
        return list(logits[:, 0])


def main() -> None:
    """Build, then answer commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", required=True, choices=sorted(workload.SETTINGS))
    setting = workload.SETTINGS[parser.parse_args().setting]
    with conversation() as channel:
        warnings.simplefilter("ignore", FutureWarning)  # it says that it is going to be removed
        use_threads()
        peer: Any = Peer(setting)
        channel.ready(program="trl-0.11.4", **facts())
        serve(channel, peer.iterate)


if __name__ == "__main__":
    main()
