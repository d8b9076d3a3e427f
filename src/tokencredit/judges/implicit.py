"""What a DPO model implies about each token: its log-ratio to the model it started from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from jaxtyping import Bool

from tokencredit.errors import UserError
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.tokens.texts import decode_tokens
from tokencredit.ops import last_token, masked_sum
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Notes, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.models.log_ratio import LogRatio
    from tokencredit.models.policy import PolicyWithValue


class Denominator(str, Enum):
    """What log π_dpo is compared with."""

    dpo = "dpo"
    """The model that DPO started from, both under their whole softmax, as DPO compared them."""
    kl = "kl"
    """The reference of the KL penalty, as in the authors' released code. Saves a pass. Where the
    end token is masked or the temperature is not 1, the two are of different distributions."""


@dataclass(slots=True, kw_only=True)
class ImplicitJudge(Judge):
    """ρ_t = log π_dpo − log π_ref of each response token (Zhong et al. 2024, eq. 4.5).

    Its score of a response is β Σ_t ρ_t with DPO's β, the implicit reward up to a function of the
    prompt alone.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    causal: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("dpo", "sft")

    reference: Denominator = Denominator.dpo
    """dpo, or kl."""
    sentence_end: str | None = None
    """Regular expression of what ends a sentence in a response; null: no ends are looked for."""

    def __post_init__(self) -> None:
        """Check the expression."""
        try:
            re.compile(self.sentence_end or "")
        except re.error as error:
            raise UserError(
                f"judge.sentence_end = {self.sentence_end!r}: must be a regular expression, but "
                f"{error}"
            ) from error

    def gives_ends(self) -> bool:
        """Where it is told what ends a sentence."""
        return self.sentence_end is not None

    def passes(self) -> Mapping[str, float]:
        """One of the DPO model, and one of the model that it started from where that is read."""
        own = self.reference is Denominator.dpo
        return {"dpo": 1.0, "sft": 1.0} if own else {"dpo": 1.0}

    def scoring(self) -> object:
        """One pair of models serves a judge and a scorer that read it alike."""
        return ("dpo", self.reference)

    def reads_reference(self) -> bool:
        """In place of the DPO model's own reference."""
        return self.reference is Denominator.kl

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The two models behind a callable."""
        from tokencredit.models.log_ratio import open_log_ratio

        policy = cast("PolicyWithValue", actors.policy)
        ratio = open_log_ratio(policy, given.folder("dpo"), given.folder("sft"), given.model.dtype)
        return self.judging(ratio, given.beta, actors.tokenizer)

    def judging(
        self, ratio: LogRatio, beta: float, tokenizer: PreTrainedTokenizerBase
    ) -> OpenJudge:
        """The judge that reads these models."""
        return Reading(self, ratio, beta, tokenizer)


@dataclass(frozen=True, slots=True)
class Reading:
    """A DPO model and its reference as an open judge."""

    judge: ImplicitJudge
    ratio: LogRatio
    beta: float
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rollout: Rollout) -> Judgement:
        """Log-ratios of all tokens; β times their sum is the score."""
        own = self.judge.reference is Denominator.dpo
        evidence = self.ratio(rollout) if own else self.ratio.against(rollout)
        scores = self.beta * masked_sum(evidence, rollout.response_mask)
        return Judgement(
            scores=scores,
            evidence=evidence,
            notes=Notes({"implicit_reward": scores}),
            ends=self._ends(rollout),
        )

    def _ends(self, rollout: Rollout) -> Bool[torch.Tensor, "B T"] | None:
        if self.judge.sentence_end is None:
            return None
        return sentence_ends(rollout, self.tokenizer, self.judge.sentence_end)


def sentence_ends(
    rollout: Rollout, tokenizer: PreTrainedTokenizerBase, pattern: str
) -> Bool[torch.Tensor, "B T"]:
    """True on each token whose text holds the last character of a match of `pattern`.

    The last token of a response is an end, whatever it says. Matching is done on the text, so a
    delimiter counts however the vocabulary has cut it.
    """
    mask = rollout.response_mask
    ends = last_token(mask).cpu()
    texts, offsets = decode_tokens(tokenizer, rollout.response_ids, mask)
    expression = re.compile(pattern)
    for row, (text, ranges) in enumerate(zip(texts, offsets, strict=True)):
        last = {found.end() - 1 for found in expression.finditer(text) if found.end() > 0}
        for t, (start, stop) in enumerate(ranges):
            ends[row, t] |= any(start <= place < stop for place in last)
    return ends.to(mask.device)
