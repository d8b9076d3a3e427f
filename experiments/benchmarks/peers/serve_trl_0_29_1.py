"""TRL 0.29.1's `trl.experimental.ppo.PPOTrainer` as a program of the comparison.

    python serve_trl_0_29_1.py --setting a

Its `train()` owns the loop, so a callback waits for commands between two updates; what is waited is
not counted. The phases are taken from two calls that the loop makes: `batch_generation`, whose end
ends the rollout, and the first `accelerator.accumulate`, which begins the optimisation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import workload
from protocol import Channel, Iteration, conversation
from torch_side import ForceLengths, Watch, facts, lengths_to_end, tokenizer, use_threads
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PrinterCallback,
    TrainerCallback,
)
from trl.experimental.ppo import (  # type: ignore[import-not-found]  # of an older release
    PPOConfig,
    PPOTrainer,
    ppo_trainer,
)
from workload import Setting

UPDATES = 1_000_000
"""More than anybody will ask for."""


class Policy(GPT2LMHeadModel):  # type: ignore[misc]
    """GPT-2 whose `generate` ends each response where the setting says."""

    setting: Setting
    lengths: dict[tuple[int, ...], int]

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> Any:
        """As always, with one logits processor more; rows are known by their prompts."""
        rows = zip(input_ids, attention_mask, strict=True)
        lengths = [self.lengths[tuple(ids[mask.bool()].tolist())] for ids, mask in rows]
        force = ForceLengths(self.setting, lengths, input_ids.shape[1])
        return super().generate(
            input_ids=input_ids, attention_mask=attention_mask, logits_processor=[force], **rest
        )


class Turns(TrainerCallback):  # type: ignore[misc]
    """Waits for a command between two updates, and reports the update that has ended."""

    def __init__(self, channel: Channel, watch: Watch) -> None:
        """Put clocks on the calls that part the phases; `attach` adds the last one."""
        self.channel, self.watch = channel, watch
        self.started = self.known = self.training = 0.0
        self.responses = torch.empty(0, 0)
        self._generation = ppo_trainer.batch_generation
        ppo_trainer.batch_generation = self._generate

    def attach(self, accelerator: Any) -> None:
        """Note when the first minibatch begins."""
        accumulate = accelerator.accumulate

        def noted(*models: Any) -> Any:
            if not self.training:
                self.training = time.perf_counter()
            return accumulate(*models)

        accelerator.accumulate = noted

    def _generate(self, model: Any, queries: torch.Tensor, *rest: Any) -> Any:
        sequences, logits = self._generation(model, queries, *rest)
        self.known = time.perf_counter()
        self.responses = sequences[:, queries.shape[1] :]
        return sequences, logits

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Everything stands."""
        self.channel.ready(program="trl-0.29.1", **facts())
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An update has ended."""
        done = time.perf_counter()
        self.channel.report(
            Iteration(
                whole=done - self.started,
                rollout=self.known - self.started,
                scoring=self.training - self.known,
                optimisation=done - self.training,
                response_tokens=int(lengths_to_end(self.responses).sum()),
                optimizer_steps=self.watch.steps,
                weight_change=self.watch.change(),
            )
        )
        self._wait()

    def _wait(self) -> None:
        if not self.channel.wants_iteration():
            sys.exit(0)
        self.watch.start()
        self.training = 0.0
        self.started = time.perf_counter()


def ppo_config(setting: Setting, folder: Path) -> PPOConfig:
    """The setting in the library's words; what would cost time beside the update is off."""
    return PPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=setting.rows,
        gradient_accumulation_steps=1,
        num_mini_batches=setting.minibatches,
        num_ppo_epochs=workload.EPOCHS,
        total_episodes=UPDATES * setting.rows,
        response_length=setting.max_new,
        stop_token="eos" if setting.ends else None,
        temperature=1.0,
        learning_rate=workload.LEARNING_RATE,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        num_sample_generations=0,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=workload.MODEL_SEED,
    )


def build(setting: Setting, channel: Channel, folder: Path) -> PPOTrainer:
    """The trainer and its four models, random weights from a fixed seed."""
    config = GPT2Config(**workload.gpt2(), num_labels=1)
    torch.manual_seed(workload.MODEL_SEED)
    policy, reference = Policy(config), GPT2LMHeadModel(config)
    reference.load_state_dict(policy.state_dict())
    ids = workload.prompts(setting)
    policy.setting = setting
    policy.lengths = {
        tuple(prompt): length for prompt, length in zip(ids, setting.response_lengths, strict=True)
    }
    words = tokenizer()
    words.padding_side = "left"
    turns = Turns(channel, Watch(policy.transformer.ln_f.weight))
    trainer = PPOTrainer(
        args=ppo_config(setting, folder),
        processing_class=words,
        model=policy,
        ref_model=reference,
        reward_model=GPT2ForSequenceClassification(config),
        value_model=GPT2ForSequenceClassification(config),
        train_dataset=[{"input_ids": prompt} for prompt in ids],
        eval_dataset=[{"input_ids": ids[0]}],
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    turns.attach(trainer.accelerator)
    return trainer


def main() -> None:
    """Build, then train; commands are read between updates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", required=True, choices=sorted(workload.SETTINGS))
    setting = workload.SETTINGS[parser.parse_args().setting]
    with conversation() as channel, tempfile.TemporaryDirectory() as folder:
        use_threads()
        build(setting, channel, Path(folder)).train()


if __name__ == "__main__":
    main()
