"""How much memory a process takes to load and to train a policy: alone, or under ZeRO-3.

`python -m tokencredit.bench.memory FOLDER SHARDING` is one of these processes; it prints its peaks.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.bench.build import SPECIAL, architecture_of, causal, prompts_of
from tokencredit.bench.configuration import LEARNING_RATE, config_of
from tokencredit.bench.run import Meter, claim_stdout
from tokencredit.bench.workload import Architecture, Size, Work
from tokencredit.console import aligned
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.machine.child import die_with_parent
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.parts import load_causal_parts
from tokencredit.models.passes.computation import Computation
from tokencredit.models.policy import PolicyWithValue
from tokencredit.pipeline.process import rank_environments, stage_environment
from tokencredit.pipeline.worker import hush
from tokencredit.rl.engine import Engine
from tokencredit.rl.world import World
from tokencredit.rollout import Rollout

SIZE: Final = Size(architecture=Architecture.llama, layers=30, width=576, vocabulary=49_152)
KEY_VALUE_HEADS: Final = 3
"""With these a model of `SIZE` has SmolLM2's shape: 135 M parameters."""
PROCESSES: Final = 2
ROUNDS: Final = 3
"""Where its buffers fall makes a process take a twentieth more or less."""
STEPS: Final = 2
"""The second one has the optimizer's state beside its gradients."""
WORK: Final = Work(prompt_lengths=(16, 16), response_lengths=(16, 16), size=SIZE, threads=1)
"""The steps that are taken: short, so that weights and optimizer are what takes memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """The most memory of a process above what it held before, in MiB."""

    loading: float
    """Until the policy is loaded."""
    training: float
    """Until optimizer steps are taken behind that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The peaks of one process alone, and of each of several, in every round."""

    parameters: int
    alone: Sequence[Peaks]
    each: Sequence[Sequence[Peaks]]
    """By rank."""

    def shares(self) -> Peaks:
        """The largest peaks of one of several processes, in those of one alone; of medians."""
        alone, each = median(self.alone), [median(rounds) for rounds in self.each]
        return Peaks(
            loading=max(peaks.loading for peaks in each) / alone.loading,
            training=max(peaks.training for peaks in each) / alone.training,
        )

    def table(self) -> str:
        """For people."""
        rows = [["MiB above idle", "loading", "training"]]
        named = [("1 process", median(self.alone))]
        named += [
            (f"{len(self.each)}, rank {n}", median(rounds)) for n, rounds in enumerate(self.each)
        ]
        rows += [[name, f"{p.loading:.0f}", f"{p.training:.0f}"] for name, p in named]
        share = self.shares()
        rows.append(["largest share", f"{share.loading:.2f}", f"{share.training:.2f}"])
        size = f"{self.parameters / 1e6:.0f} M parameters, float32, ZeRO-3"
        return "\n".join([f"{size}; medians of {len(self.alone)}", *aligned(rows)])


def median(rounds: Sequence[Peaks]) -> Peaks:
    """Of each peak."""
    return Peaks(
        loading=statistics.median(peaks.loading for peaks in rounds),
        training=statistics.median(peaks.training for peaks in rounds),
    )


def compare(work: Work, rounds: int = ROUNDS) -> Found:
    """One process against `PROCESSES` under ZeRO-3, in turns, on a model that is written to a
    temporary folder; each with the environment of such a run's process."""
    torch.manual_seed(work.seed)
    with TemporaryDirectory() as folder:
        config = architecture_of(work.size, work.context)
        config.num_key_value_heads = KEY_VALUE_HEADS
        model = causal(work.size, work.context, config)
        parameters = int(model.num_parameters())
        model.save_pretrained(folder)
        del model
        alone, each = list[Peaks](), list[list[Peaks]]()
        for _ in range(rounds):
            alone += _started(folder, Sharding.none, work)
            each.append(_started(folder, Sharding.zero3, work))
    return Found(parameters=parameters, alone=alone, each=list(zip(*each, strict=True)))


def _hardware(sharding: Sharding) -> Hardware:
    count = 1 if sharding is Sharding.none else PROCESSES
    return Hardware(processes=count, sharding=sharding, whole_below=0)


def _started(folder: str, sharding: Sharding, work: Work) -> list[Peaks]:
    command = [sys.executable, "-m", "tokencredit.bench.memory", folder, sharding.value]
    hardware = _hardware(sharding)
    known = stage_environment(replace(config_of(work), hardware=hardware), "rl")
    children = [
        subprocess.Popen(command, env=each, stdout=subprocess.PIPE, text=True)
        for each in rank_environments(hardware.processes, known)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise UserError("the process that measures failed; its own words stand above")
    return [Peaks(**json.loads(each)) for each in said]


def measure(folder: Path, sharding: Sharding, work: Work) -> Peaks:
    """The peaks of this process: it loads the policy in `folder`, and takes `STEPS` steps."""
    world = World(_hardware(sharding), 1.0)
    causal(Size(architecture=Architecture.llama, layers=1, width=64), 8)  # imports count as idle
    meter = Meter()
    meter.start()
    model = load_causal_parts(folder, Dtype.float32, work.context, world.shards())
    loading = meter.above_mb()
    computation = Computation(uses_values=False)
    policy = PolicyWithValue(model, SPECIAL, Sampling(), computation).train()
    algorithm = PPO(optimizer=Optimizer(learning_rate=LEARNING_RATE))
    engine = Engine(policy, algorithm, world)
    rollout = _answered(work)[torch.arange(world.rank, work.rows, world.size)]
    for _ in range(STEPS):
        loss = -engine.forward(rollout).logp.sum() / work.rows
        engine.backward(loss)
        engine.step()
    training = meter.above_mb()
    if loading is None or training is None:
        raise UserError("bench memory: this system does not tell how much memory a process takes")
    return Peaks(loading=loading, training=training)


def _answered(work: Work) -> Rollout:
    """Random responses to the prompts of `work`, of full length."""
    prompts = prompts_of(work)
    shape = work.rows, max(work.response_lengths)
    ids = torch.randint(2, work.size.vocabulary, shape)
    done = torch.ones(work.rows, dtype=torch.bool)
    said = torch.ones(shape, dtype=torch.bool)
    return Rollout.blank(prompts, ids, said, finished=done, stopped=~done)


def plain(found: Found) -> dict[str, object]:
    """For JSON."""
    return {**asdict(found), "shares": asdict(found.shares())}


if __name__ == "__main__":
    die_with_parent()
    out = claim_stdout()
    hush()
    torch.set_num_threads(WORK.threads)
    peaks = measure(Path(sys.argv[1]), Sharding(sys.argv[2]), WORK)
    out.write(json.dumps(asdict(peaks)))
    out.close()
