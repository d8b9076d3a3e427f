"""A process of a run whose responses are written down, and may be given: the worker of a stage with
another mouth, in the environment of a rank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from tokencredit import config as configuration
from tokencredit.models.actors import Actors, Stream, unscored
from tokencredit.models.decoding.generation import Generated
from tokencredit.pipeline import worker
from tokencredit.rollout import Prompts, Rollout

Said = dict[str, torch.Tensor]
"""By stream and row of the prompt: whether the response is finished, and its ids, (1 + T,)."""
ROLLOUT: Final = "rollout"
"""In the streams of what is trained on."""


def names(prompts: Prompts, stream: Stream) -> list[str]:
    """Of the responses to these prompts."""
    return ["|".join(map(str, (*stream, row))) for row in prompts.rows.tolist()]


def spoken(prompts: Prompts, known: list[torch.Tensor]) -> Rollout:
    """The known responses as if the policy had just said them."""
    lengths = torch.tensor([len(each) - 1 for each in known])
    ids = torch.zeros(len(known), int(lengths.max()), dtype=torch.long)
    for row, each in enumerate(known):
        ids[row, : len(each) - 1] = each[1:]
    finished = torch.stack([each[0].bool() for each in known])
    stopped = torch.zeros_like(finished)
    return unscored(
        prompts, Generated(ids=ids, lengths=lengths, finished=finished, stopped=stopped)
    )


def main(out: Path, given: Path | None, stage: str, key: str) -> None:
    """Run the stage: where `given` has a response to a prompt, the policy says that. What the
    process said in rollouts is in OUT/said-<rank>.safetensors then."""
    own = Actors.respond
    known: Said = {} if given is None else load_file(given)
    said: Said = {}

    def respond(
        actors: Actors,
        model: PreTrainedModel,
        prompts: Prompts,
        stream: Stream,
        *,
        greedy: bool = False,
    ) -> Rollout:
        labels = names(prompts, stream) if ROLLOUT in stream else []
        if labels and all(label in known for label in labels):
            rollout = spoken(prompts, [known[label] for label in labels])
        else:
            rollout = own(actors, model, prompts, stream, greedy=greedy)
        for row, label in enumerate(labels):
            ids = rollout.response_ids[row][rollout.response_mask[row]]
            said[label] = torch.cat([rollout.finished[row, None].long(), ids])
        return rollout

    Actors.respond = respond  # type: ignore[method-assign,assignment]
    configuration.register()
    worker.hush()
    worker.run(stage, key)
    save_file(said, out / f"said-{os.environ.get('RANK', '0')}.safetensors")
