"""Responses of a policy in the ids of a judge with another tokenizer, and evidence brought back.

Prompt and response are read as one text, as the judge's training texts were, and written in the
judge's tokens: its own opening tokens once, no special token of the policy, and, behind a response
that ended by the policy's end token, what closes a text for the judge. A judge's token belongs to
the response if it holds a byte of it. Its evidence is dealt to the policy's tokens in proportion to
the bytes they share, so that sums are preserved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from tokencredit.errors import UserError
from tokencredit.models.loading.model import RewardReads
from tokencredit.models.loading.weights import context_of
from tokencredit.models.tokens.judge_writer import JudgeWriter
from tokencredit.models.tokens.spans import Deal
from tokencredit.models.tokens.token_bytes import TokenBytes
from tokencredit.rollout import Notes, Rollout, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """One response in the judge's tokens."""

    prompt: list[int]
    response: list[int]
    deal: Deal
    """From each of the judge's tokens to the policy's."""
    notes: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Retokenised:
    """A rollout as the judge reads it, and the way back."""

    rollout: Rollout
    rows: list[Row]
    mask: Bool[torch.Tensor, "B T"]
    """Of the policy's tokens."""

    def back(self, evidence: Float[torch.Tensor, "B S"]) -> Float[torch.Tensor, "B T"]:
        """Evidence of the judge's tokens as evidence of the policy's; sums are preserved."""
        known = evidence.detach().cpu().double().numpy()
        found = torch.zeros(self.mask.shape)
        for number, row in enumerate(self.rows):
            dealt = row.deal.of(known[number])
            found[number, : len(dealt)] = torch.from_numpy(dealt)
        return found.to(evidence.device)

    def notes(self) -> Notes:
        """How often the way there was not plain, as shares of the responses."""
        names = self.rows[0].notes
        columns = {n: torch.tensor([float(row.notes[n]) for row in self.rows]) for n in names}
        return Notes(columns).to(self.mask.device)


class Retokeniser:
    """From the ids of one vocabulary to those of another."""

    def __init__(
        self,
        policy: PreTrainedTokenizerBase,
        judge: PreTrainedTokenizerBase,
        longest: int | None = None,
    ) -> None:
        """`longest`: how many tokens the judge can read; prompts are cut from the left to fit."""
        self.policy = policy
        self.reader = TokenBytes(policy)
        self.writer = JudgeWriter(judge)
        self.pad_id, self.end_id = int(judge.pad_token_id), int(judge.eos_token_id)
        self.longest = longest

    def __call__(self, rollout: Rollout) -> Retokenised:
        """The rollout in the judge's ids; its log-probabilities and values are zero."""
        rows = self._rows(rollout)
        prompt_ids, prompt_mask = padded(
            [row.prompt for row in rows], self.pad_id, left=True, width=1
        )
        response_ids, response_mask = padded([row.response for row in rows], self.pad_id, width=1)
        zeros = torch.zeros(response_ids.shape)
        device = rollout.response_ids.device
        moved = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "response_ids": response_ids,
            "response_mask": response_mask,
            "logp": zeros,
            "ref_logp": zeros,
            "values": zeros,
        }
        there = replace(
            rollout, **{n: x.to(device) for n, x in moved.items()}, full_kl=None, kept=None
        )
        return Retokenised(there, rows, rollout.response_mask)

    def _rows(self, rollout: Rollout) -> list[Row]:
        prompts = _lists(rollout.prompt_ids, rollout.prompt_mask)
        responses = _lists(rollout.response_ids, rollout.response_mask)
        ended = (rollout.finished & ~rollout.stopped).tolist()
        said = [ids[: len(ids) - end] for ids, end in zip(responses, ended, strict=True)]
        written = [self.reader.read(p + s) for p, s in zip(prompts, said, strict=True)]
        judged = self.writer.write([each.text for each in written])
        spelt = self.policy(
            [each.text.string for each in written],
            add_special_tokens=False,
            split_special_tokens=True,
            verbose=False,
        )["input_ids"]
        rows: list[Row] = []
        for number, (ids, places) in enumerate(judged):
            own = written[number].spans[len(prompts[number]) :]
            sure = written[number].sure[len(prompts[number]) :]
            row = self._row(ids, places, own, end=ended[number])
            canonical = spelt[number][len(spelt[number]) - len(said[number]) :]
            row.notes["unaligned_fraction"] = not sure.all()
            row.notes["respelled_fraction"] = canonical != said[number]
            rows.append(row)
        return rows

    def _row(
        self, ids: list[int], places: Float[ndarray, "N 2"], own: ndarray, *, end: bool
    ) -> Row:
        """`own`: the ranges of bytes of the policy's response tokens, without its end token."""
        inside = places[:, 1] > (own[0, 0] if len(own) else np.inf)
        first = int(inside.argmax()) if inside.any() else len(ids)
        closing = self.writer.closing if end else []
        response = ids[first:] + closing
        room = self._room(len(response))
        prompt = ids[max(0, first - room) : first]
        last = len(own) + end - 1
        takers = np.concatenate([own, np.full((int(end), 2), own[-1, 1] if len(own) else 0)])
        deal = Deal.by_bytes(places[first:], takers, last)
        deal = deal.plus(len(closing), last, len(ids) - first)
        opening = self.writer.opening
        if not (opening or prompt or response):
            opening = [self.end_id]  # a model must read something
        notes = {"shortened_fraction": len(prompt) < first}
        return Row([*opening, *prompt], response, deal, notes)

    def _room(self, needed: int) -> int:
        """How many of a prompt's tokens can be read beside a response of `needed` tokens."""
        if self.longest is None:
            return 2**62
        room = self.longest - len(self.writer.opening) - needed
        if room < 0:
            raise UserError(
                f"model.reward_reads = 'text': a response has {needed} tokens for the reward "
                f"model, which reads at most {self.longest}; lower rollout.max_new_tokens"
            )
        return room


def _lists(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(ids.cpu(), mask.cpu(), strict=True)]


def retokeniser_between(
    policy: PreTrainedTokenizerBase,
    judge: PreTrainedTokenizerBase,
    reads: RewardReads,
    model: PreTrainedModel | None = None,
) -> Retokeniser | None:
    """What brings the policy's responses to a judge; None where both have the same vocabulary."""
    if judge.get_vocab() == policy.get_vocab():
        return None
    if reads is RewardReads.ids:
        raise UserError(
            "model.reward: the reward model's vocabulary differs from the policy's, and it reads "
            "the policy's token ids; use models that share a tokenizer, or "
            "model.reward_reads=text"
        )
    return Retokeniser(policy, judge, None if model is None else context_of(model.config))


def check_ids(retokeniser: Retokeniser | None) -> None:
    """Raise where a reward model would read text, for what asks it about the policy's own ids."""
    if retokeniser is not None:
        raise UserError(
            "model.reward_reads = 'text': pairs that the policy samples (dpo.pairs=sampled) are "
            "scored by the policy's own token ids; use models that share a tokenizer"
        )
