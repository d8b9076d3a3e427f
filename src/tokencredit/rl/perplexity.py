"""Perplexities on held-out prompts: how well the policy predicts the answers of the data, and how
well the SFT model predicts what is said.

All are under a model's own distribution, whatever responses are sampled from (no id is impossible,
the temperature is 1), and of tokens: exp(Σ nats / Σ tokens) over the whole set, the end token
counted where there is one. Yoon et al. 2024 plot the first; their code stops after one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from jaxtyping import Float

from tokencredit.data.pairs import as_rollout
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.models.decoding.generation import evaluating
from tokencredit.ops import masked_sum, without_gradient
from tokencredit.statistics.intervals import ratio_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tokencredit.config import Config
    from tokencredit.models.actors import Actors
    from tokencredit.rl.world import World
    from tokencredit.rollout import Rollout

ANSWER: Final = "answer/length"
"""Column with the tokens of the data set's answer behind each prompt; 0 where there is none."""
PARTS: Final = {
    "policy/perplexity": ("policy/answer_nats", ANSWER),
    "sft/perplexity": ("sft/answer_nats", ANSWER),
    "policy/perplexity_sft": ("policy/nats_sft", "policy/length"),
    "sft/perplexity_sft": ("sft/nats_sft", "sft/length"),
}
"""Each perplexity of a finished run, and the columns of evaluation.jsonl with nats and tokens."""
MOST: Final = 700.0
"""Nats a token whose exponential is still a number; a policy that fell apart may have more."""
Row = Mapping[str, Any]
OWN: Final = {ANSWER, *(nats for nats, _ in PARTS.values())}
"""Columns of which nothing else is reported."""


@dataclass(frozen=True, slots=True)
class Perplexities:
    """Measures them for one run."""

    actors: Actors
    world: World
    answers: Rollout | None
    """The answers of the data behind the prompts of the evaluation; None where it has none."""

    @classmethod
    def of(cls, config: Config, actors: Actors, world: World, prompts: PromptStream) -> Self | None:
        """What measures a run; None unless `evaluation.perplexity`."""
        if not config.evaluation.perplexity:
            return None
        return cls(actors, world, answers(config, prompts))

    def on_the_way(self, said: Rollout) -> dict[str, float]:
        """What is logged of the policy and its responses to the held-out prompts."""
        found = {
            "eval/length": float(said.lengths.double().mean()),
            "policy/perplexity_sft": perplexity(self._under_sft(said), said.lengths),
        }
        if self.answers is None:
            return found
        nats = self._nats(self.actors.policy.model, self.answers)
        return {"eval/perplexity": perplexity(nats, self.answers.lengths), **found}

    def columns(self, said: Mapping[str, Rollout]) -> dict[str, list[float]]:
        """A number for each held-out prompt, by the names in `PARTS`; `said` by model."""
        found = {
            f"{name}/nats_sft": self._under_sft(said[name]).tolist() for name in ("policy", "sft")
        }
        if self.answers is not None:
            with self.actors.reference.model() as model:
                first = self._nats(model, self.answers)
            own = self._nats(self.actors.policy.model, self.answers)
            found["policy/answer_nats"], found["sft/answer_nats"] = own.tolist(), first.tolist()
            found[ANSWER] = self.answers.lengths.tolist()
        return found

    def _under_sft(self, said: Rollout) -> Float[torch.Tensor, "B"]:
        with self.actors.reference.model() as model:
            return self._nats(model, said)

    @without_gradient
    def _nats(self, model: PreTrainedModel, said: Rollout) -> Float[torch.Tensor, "B"]:
        """−Σ_t log π(y_t) of each response, float64; rows are dealt to the processes."""
        policy, own = self.actors.policy, []
        order = torch.argsort(said.total_lengths, stable=True)
        with evaluating(model):
            for number, rows in enumerate(order.split(policy.sampling.score_rows)):
                if number % self.world.size == self.world.rank:
                    part = said[rows].trimmed().to(self.world.device)
                    logp = masked_sum(policy.own_logp(model, part), part.response_mask)
                    own.append((number, rows, -logp.double().cpu()))
        found = torch.zeros(len(said), dtype=torch.float64)
        for _, rows, nats in self.world.gather(own):
            found[rows] = nats
        return found


def perplexity(nats: Float[torch.Tensor, "B"], tokens: torch.Tensor) -> float:
    """exp(Σ nats / Σ tokens); what would be too large to be written is e^700."""
    return math.exp(min(float(nats.double().sum() / tokens.sum()), MOST))


def measures(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Each perplexity of which `rows` hold the parts: its value, standard error, and count.

    The error is that of a ratio over rows, by the delta method; a row without an answer is no row.
    """
    found = {}
    for name, columns in PARTS.items():
        if not all(column in rows[0] for column in columns):
            continue
        both = torch.tensor([[float(row[c]) for c in columns] for row in rows]).double()
        nats, tokens = both[both[:, 1] > 0].T
        value, n = perplexity(nats, tokens), len(tokens)
        spread = ratio_error(nats.tolist(), tokens.tolist())
        found[name] = {"mean": value, "se": value * spread, "n": n}
    return found


def answers(config: Config, prompts: PromptStream) -> Rollout | None:
    """The data's answers behind the held-out prompts, None where there is not one.

    Of a text it is what follows its prompt, of a pair the chosen answer; with the end token, unless
    it is cut before: at the longest response that there can be, beyond which no policy is trained
    (and where most of the time would go: reviews are ten times as long as the responses here), or
    at `model.context`.
    """
    settings = config.evaluation
    count = min(settings.prompts, len(prompts.records))
    drawn = prompts.drawn(settings.stream, "evaluation", range(count))
    longest = config.rollout.longest
    texts = [
        following(record, ids, prompts.token_ids)[: min(longest, config.model.context - len(ids))]
        for record, ids in drawn
    ]
    if not any(texts):
        return None
    pad = int(prompts.token_ids.tokenizer.pad_token_id)
    found = as_rollout([ids for _, ids in drawn], texts, pad)
    return replace(found, rows=torch.tensor([record.row for record, _ in drawn]))


def following(record: Record, ids: list[int], maker: TokenIds) -> list[int]:
    """What a record says behind its prompt `ids`, up to and with the end token, in ids."""
    if not record.answered:
        return []
    said = maker.answer(maker.begin(record), record.answer).ids
    return said[len(ids) :] if record.is_text else said
