"""What evidence makes of advantages: after the algorithm's estimator, before whitening.

A reward scheme pays tokens, and an algorithm makes advantages of what is paid. An advantage scheme
changes these advantages, or puts evidence in their place: numbers that are advantages already (DAE,
hindsight) need no estimator, and as rewards they would be added up a second time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float

from tokencredit.fields import Settings
from tokencredit.ops import keep
from tokencredit.rewards.scheme import Evidence
from tokencredit.rollout import Judgement, Rollout


@dataclass(slots=True, kw_only=True)
class AdvantageScheme(Settings, ABC):
    """Changes the advantages of tokens. Pure: same inputs, same advantages, no gradient."""

    section: ClassVar[str] = "advantage_scheme"
    evidence: ClassVar[Evidence] = Evidence.none
    """The kind of evidence the scheme reads; `none` fits every judge."""
    replaces: ClassVar[bool] = False
    """Whether the advantages that it is given change nothing, so that no value function is needed
    for them, and token rewards teach the policy nothing."""
    reads_entropy: ClassVar[bool] = False
    """Whether the scheme reads the entropies of the policy that responded."""

    @abstractmethod
    def token_advantages(
        self,
        rollout: Rollout,
        judgement: Judgement,
        advantages: Float[torch.Tensor, "B T"],
        penalty: Float[torch.Tensor, "B T"],
        entropies: Float[torch.Tensor, "B T"] | None,
    ) -> Float[torch.Tensor, "B T"]:
        """One advantage per response token; zero where `rollout.response_mask` is False.

        `advantages` are the algorithm's, zero where masked. `penalty` is the KL part of the shaped
        rewards of this step, −kl_coef × KL_t, to be added (0 where the KL stands in the loss).
        `entropies`, in nats, are those of the distributions that the tokens were sampled from; None
        unless the scheme declares `reads_entropy`.
        """


@dataclass(slots=True, kw_only=True)
class Keep(AdvantageScheme):
    """The algorithm's advantages as they are."""

    def token_advantages(
        self,
        rollout: Rollout,
        judgement: Judgement,
        advantages: Float[torch.Tensor, "B T"],
        penalty: Float[torch.Tensor, "B T"],
        entropies: Float[torch.Tensor, "B T"] | None,
    ) -> Float[torch.Tensor, "B T"]:
        """A_t."""
        return advantages


@dataclass(slots=True, kw_only=True)
class Own(AdvantageScheme):
    """Evidence that is an advantage already, less the token's own KL penalty.

    For judges whose evidence is the advantage of an action, as the DAE paper's Â (its eq. 10). The
    KL of later tokens, which an estimator would add, is left to their own advantages.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    replaces: ClassVar[bool] = True

    def token_advantages(
        self,
        rollout: Rollout,
        judgement: Judgement,
        advantages: Float[torch.Tensor, "B T"],
        penalty: Float[torch.Tensor, "B T"],
        entropies: Float[torch.Tensor, "B T"] | None,
    ) -> Float[torch.Tensor, "B T"]:
        """e_t − kl_coef × KL_t."""
        mask = rollout.response_mask
        return keep(judgement.evidence, mask) + keep(penalty, mask)


@dataclass(slots=True, kw_only=True)
class Hindsight(AdvantageScheme):
    """What a token's choice has to do with the outcome, times the score, less its own KL penalty.

    Evidence is c_t = log h(y_t | s_t, outcome) − log π(y_t | s_t), where h says what was chosen,
    given how it ended. In the mean over outcomes (1 − π / h) R is the advantage, where h is
    positive wherever π is (Harutyunyan et al. 2019, return-conditional form). R is the score as it
    is paid, with algorithm.score_clip and normalise=reference: there the paper has the return.
    The weight has no bound below: a token that h makes a hundred times less likely has −99. Signed
    evidence of any judge is taken; what it means is for whoever chooses the judge to know.
    """

    evidence: ClassVar[Evidence] = Evidence.signed
    replaces: ClassVar[bool] = True

    def token_advantages(
        self,
        rollout: Rollout,
        judgement: Judgement,
        advantages: Float[torch.Tensor, "B T"],
        penalty: Float[torch.Tensor, "B T"],
        entropies: Float[torch.Tensor, "B T"] | None,
    ) -> Float[torch.Tensor, "B T"]:
        """(1 − e^(−c_t)) R − kl_coef × KL_t."""
        mask = rollout.response_mask
        share = -torch.expm1(-keep(judgement.evidence, mask))
        return share * judgement.scores[:, None] + keep(penalty, mask)
