"""The hindsight model: a language model that is told, before the prompt, how its response ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from tokencredit.canonical import file_sha256
from tokencredit.errors import require
from tokencredit.models.adapters.adapter import own_adapter, save_on
from tokencredit.models.adapters.lora import check_reference, using
from tokencredit.models.loading.model import Model, check_vocabulary
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.loading.weights import context_of, load_causal
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.passes.logprob import chunks, exactly, factors_of, product, row
from tokencredit.models.passes.packing import Layout, hidden_states
from tokencredit.models.passes.sequences import parts
from tokencredit.models.tokens.ends import SpecialIds, special_ids
from tokencredit.ops import keep, without_gradient
from tokencredit.rollout import Rollout, padded
from tokencredit.store.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTINGS: Final = "hindsight.json"
NEVER: Final = 0.01
"""h is said to be 0 where it is below this share of π."""
MUCH: Final = 0.1
"""The share of π's probability on tokens whose h is 0 from which it is said that credit is lost."""
States: TypeAlias = "tuple[Float[torch.Tensor, 'N d'], Float[torch.Tensor, 'N d']]"
Heads: TypeAlias = "tuple[torch.nn.Linear, torch.nn.Linear]"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Which outcome a score is: a bin between quantiles of scores; and how a model is told it."""

    edges: tuple[float, ...]
    """The highest score of each outcome but the last, rising."""
    prefixes: tuple[tuple[int, ...], ...]
    """By outcome, the ids that stand before the prompt."""

    @classmethod
    def of(cls, scores: Sequence[float], prefixes: Sequence[Sequence[int]]) -> Self:
        """As many outcomes as there are prefixes, each of equally many of these scores.

        Raises `UserError` where there are fewer scores, or too many are equal.
        """
        count, found = len(prefixes), np.asarray(scores, dtype=np.float32)
        require(
            len(found) >= count,
            "judge.outcomes",
            count,
            f"there are only {len(found)} responses to tell outcomes from; sample more "
            "(dpo.prompts), raise judge.training.max_length, or lower it",
        )
        shares = np.arange(1, count) / count
        edges = np.quantile(found, shares, method="inverted_cdf").tolist()
        rising = [*edges, float(found.max())]
        require(
            all(low < high for low, high in pairwise(rising)),
            "judge.outcomes",
            count,
            f"the {len(found)} scores have no so many quantiles that differ ({_listed(rising)}); "
            "lower it, or use a reward model that tells responses apart",
        )
        return cls(tuple(edges), tuple(tuple(prefix) for prefix in prefixes))

    def __call__(self, scores: Float[torch.Tensor, "B"]) -> Int[torch.Tensor, "B"]:
        """The outcome of each score: how many edges are below it, 0 the worst."""
        return torch.bucketize(scores, torch.tensor(self.edges, device=scores.device))

    def told(self, rollout: Rollout, outcomes: Int[torch.Tensor, "B"], pad: int) -> Rollout:
        """The rollout with the prefix of each response's outcome before its prompt.

        Ids of prompt and response stay as they are. Padding holds the id `pad`.
        """
        rows = zip(outcomes.tolist(), rollout.prompt_ids, rollout.prompt_mask, strict=True)
        begun = [[*self.prefixes[n], *ids[mask].tolist()] for n, ids, mask in rows]
        device = rollout.prompt_ids.device
        ids, mask = (each.to(device) for each in padded(begun, pad, left=True))
        return replace(rollout, prompt_ids=ids, prompt_mask=mask)

    @property
    def longest(self) -> int:
        """Tokens of the longest prefix."""
        return max(map(len, self.prefixes))


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What h and π say of response tokens, each (B, T) and zero where masked."""

    log_h: Float[torch.Tensor, "B T"]
    """log h(y_t | y_<t, x, outcome)."""
    log_pi: Float[torch.Tensor, "B T"]
    """log π(y_t | y_<t, x)."""
    lost: Float[torch.Tensor, "B T"]
    """Σ_v π(v) over tokens v whose h(v) is below `NEVER` × π(v): there the condition of hindsight
    credit, h > 0 wherever π > 0, does not hold, whatever was said."""

    @property
    def evidence(self) -> Float[torch.Tensor, "B T"]:
        """c_t = log h − log π."""
        return self.log_h - self.log_pi


@dataclass(frozen=True, slots=True)
class HindsightModel:
    """h and π in one: a frozen model with adapters, which are off where it is π.

    Both are of the distribution that responses are sampled from at temperature 1: ids without a
    token, and end tokens that come too early, are impossible.
    """

    model: PreTrainedModel
    ids: SpecialIds
    outcomes: Outcomes
    computation: Computation

    def __post_init__(self) -> None:
        """Check that adapters are all that distinguishes h from π."""
        check_reference(self.model)

    @without_gradient
    def __call__(self, rollout: Rollout, outcomes: Int[torch.Tensor, "B"]) -> Hindsight:
        """What both say of the response tokens, if these were the outcomes; a few rows at a time.

        Raises `UserError` for responses that are longer, with a prefix, than the model can read.
        """
        self.check_room(int(rollout.total_lengths.max()))
        shape, device = rollout.response_mask.shape, rollout.response_ids.device
        found = [torch.zeros(shape, device=device) for _ in range(3)]
        for rows, _ in parts(rollout.total_lengths):
            part = rollout[rows].trimmed()
            for whole, said in zip(found, self._read(part, outcomes[rows]), strict=True):
                whole[rows, : said.shape[1]] = said
        return Hindsight(*found)

    def _read(
        self, part: Rollout, outcomes: Int[torch.Tensor, "B"]
    ) -> tuple[Float[torch.Tensor, "B T"], ...]:
        layout = Layout.of(part, self.ids.eos)
        told = Layout.of(self.outcomes.told(part, outcomes, self.ids.eos), self.ids.eos)
        head = head_of(self.model)
        with using(self.model, None):
            before = hidden_states(self.model, layout, self.computation)
        after = hidden_states(self.model, told, self.computation)
        narrow, choices = self.computation.narrow, self._choices(part)
        said = compared(
            (narrow(after), narrow(before)), (head, head), choices, self.computation.logits_memory
        )
        return tuple(keep(layout.spread(each).float(), layout.mask) for each in said)

    def _choices(self, part: Rollout) -> Choices:
        """What each response token was chosen from."""
        mask = part.response_mask
        places = torch.arange(mask.shape[1], device=mask.device)
        return Choices(
            ids=part.response_ids[mask],
            pad=self.ids.pad if self.ids.pad >= 0 else None,
            spare=self.ids.spare_on(mask.device),
            eos=self.ids.eos,
            other_ends=self.ids.others,
            banned=(places < part.min_new[:, None])[mask],
        )

    def check_room(self, tokens: int) -> None:
        """Raise `UserError` unless prompts and responses of so many tokens together fit, with a
        prefix, into what the model reads."""
        longest, told = context_of(self.model.config), self.outcomes.longest
        require(
            longest is None or tokens + told <= longest,
            "judge.phrase",
            f"{told} tokens",
            f"with prompts and responses of up to {tokens} tokens that is more than the {longest} "
            "that the model reads; shorten it, or lower model.context or rollout.max_new_tokens",
        )


@without_gradient
def compared(
    states: States, heads: Heads, choices: Choices, budget: int
) -> tuple[Float[torch.Tensor, "N"], Float[torch.Tensor, "N"], Float[torch.Tensor, "N"]]:
    """log h and log π of the chosen ids, and Σ_v π(v) over the ids whose h is below `NEVER` × π.

    `states` and `heads` are those of h and of π. Logits are formed for some tokens at a time, so
    that they fit in `budget` bytes.
    """
    log_h, log_pi, lost = (row(states[0]) for _ in range(3))
    with exactly(states[0]):
        factors = [factors_of(s, head.weight) for s, head in zip(states, heads, strict=True)]
        for rows in chunks(states[0], heads[0].weight, budget):
            both = []
            for factor, head in zip(factors, heads, strict=True):
                logits = product(factor, head.bias, rows)
                choices[rows].impose_(logits)
                both.append(logits.log_softmax(dim=1))
                del logits
            chosen = choices.ids[rows, None]
            log_h[rows], log_pi[rows] = (each.gather(1, chosen)[:, 0] for each in both)
            never = both[0] - both[1] < math.log(NEVER)
            lost[rows] = torch.where(never, both[1].exp(), 0.0).sum(dim=1)
    return log_h, log_pi, lost


def save_hindsight(
    model: PreTrainedModel, outcomes: Outcomes, folder: Path, sft: Path, about: Mapping[str, object]
) -> None:
    """Write adapters and outcomes to `folder`, which lies in the store beside that of `sft`, the
    model beneath. `about` are the settings that `open_hindsight` is to be given again."""
    save_on(model, folder, sft)
    known = {"edges": outcomes.edges, "prefixes": outcomes.prefixes, "base": weights_of(sft)}
    write_json(folder / SETTINGS, {"schema_version": 1, **about, **known})


def open_hindsight(
    folder: Path,
    sft: Path,
    tokenizer: PreTrainedTokenizerBase,
    model: Model,
    device: str,
    about: Mapping[str, object],
) -> HindsightModel:
    """The hindsight model in `folder`, on the SFT model in `sft`, frozen.

    Raises `UserError` where the policy, whose `tokenizer` is given, writes in another vocabulary,
    where the model was trained on another base, or by other settings than `about`.
    """
    check_vocabulary(folder, tokenizer, "hindsight model")
    adapter = own_adapter(folder, "hindsight model")
    kept = read_json(folder / SETTINGS, edges=list, prefixes=list, base=dict)
    for name, value in about.items():
        require(
            kept.get(name) == value,
            f"judge.{name}",
            value,
            f"the model in {folder} was trained with {kept.get(name)!r}; set that, or train one "
            "with this",
        )
    require(
        kept["base"] == weights_of(sft),
        "sft",
        str(sft),
        f"is not the model that the hindsight model in {folder} was trained on, so their "
        "difference says nothing of outcomes; use that one, or train hindsight again",
    )
    plain = load_causal(sft, model.dtype)
    disable_dropout(plain)
    found = adapter.filled(plain.to(device)).eval().requires_grad_(False)
    outcomes = Outcomes(tuple(kept["edges"]), tuple(map(tuple, kept["prefixes"])))
    computation = Computation(uses_values=False)
    return HindsightModel(found, special_ids(tokenizer, plain), outcomes, computation)


def weights_of(folder: Path) -> dict[str, str]:
    """The sha256 of each file of weights of the model in `folder`."""
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
