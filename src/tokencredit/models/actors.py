"""The live models of an RL run: policy, reference, and the tokenizer they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tokencredit.models.decoding.generation import Generated, generate
from tokencredit.ops import without_gradient
from tokencredit.rollout import Prompts, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.models.policy import PolicyWithValue, Reference

Stream = tuple[int | str, ...]


@dataclass(slots=True)
class Actors:
    """Policy with value function, frozen reference, and the tokenizer of both."""

    policy: PolicyWithValue
    reference: Reference
    tokenizer: PreTrainedTokenizerBase
    full_kl: bool = False
    """Whether rollouts hold the exact KL of every token, for estimators that ask for it."""
    entropies: bool = False
    """Whether rollouts hold the entropy of every token, for advantage schemes that read it."""
    score_all: bool = False
    """Whether responses of other models than the policy are scored too, for judges that read it."""

    @without_gradient
    def roll_out(self, prompts: Prompts, stream: Stream) -> Rollout:
        """Responses of the policy, with what policy, reference, and value function say of them."""
        return self.score(self.respond(self.policy.model, prompts, stream))

    @without_gradient
    def score(self, said: Rollout) -> Rollout:
        """The responses with log-probabilities, values, and the reference's view of them.

        They are computed by the training forward pass: the decode loop's own log-probabilities
        differ in the last bits, and the first ratio must be 1. Rows of similar length are read
        together, `rollout.score_rows` at a time.
        """
        order = torch.argsort(said.total_lengths, stable=True)
        columns: dict[str, torch.Tensor] = {}
        for rows in order.split(self.policy.sampling.score_rows):
            for name, part in self._score(said[rows]).items():
                if name not in columns:
                    columns[name] = part.new_zeros(said.response_ids.shape)
                columns[name][rows] = part
        fields: dict[str, Any] = dict(columns)
        return replace(said, **fields)

    def _score(self, part: Rollout) -> dict[str, torch.Tensor]:
        layout = self.policy.layout(part)
        output, states = self.policy.read(layout, part)
        known = {"logp": output.logp}
        if output.values is not None:
            known["values"] = output.values
        if self.entropies:
            known["entropy"] = output.entropy
        if not self.full_kl:
            return known | {"ref_logp": self.reference.logp(part)}
        ref_logp, full_kl = self.reference.logp_and_kl(layout, states, part)
        return known | {"ref_logp": ref_logp, "full_kl": full_kl}

    @without_gradient
    def answer(
        self, model: PreTrainedModel, prompts: Prompts, stream: Stream, *, greedy: bool = False
    ) -> Rollout:
        """What `model` responds, with log-probabilities and values only if `score_all`."""
        said = self.respond(model, prompts, stream, greedy=greedy)
        return self.score(said) if self.score_all else said

    def respond(
        self, model: PreTrainedModel, prompts: Prompts, stream: Stream, *, greedy: bool = False
    ) -> Rollout:
        """Responses of `model`, log-probabilities and values still zero.

        `greedy`: the likeliest token each time, without noise.
        """
        policy = self.policy
        with policy.computation.autocast(prompts.ids.device):
            said = generate(
                model,
                prompts,
                policy.sampling,
                policy.ids,
                stream,
                greedy=greedy,
                decode=self.tokenizer.decode,
            )
        return unscored(prompts, said)


def unscored(prompts: Prompts, said: Generated) -> Rollout:
    """What was said to the prompts, log-probabilities and values still zero."""
    return Rollout.blank(
        prompts,
        said.ids,
        said.mask,
        finished=said.finished,
        stopped=said.stopped,
        kept=said.kept,
    )
