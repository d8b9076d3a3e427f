"""log π_dpo − log π_ref of what was said: two models side by side, or two adapters of one base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Float

from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import DPO, add_frozen, check_reference, using
from tokencredit.models.loading.model import Dtype, load_tokenizer
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.kernels import ready
from tokencredit.models.passes.logprob import token_logp
from tokencredit.models.passes.packing import Layout, hidden_states
from tokencredit.models.passes.sequences import parts
from tokencredit.ops import without_gradient
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.models.policy import PolicyWithValue

Opened = Callable[[], AbstractContextManager["PreTrainedModel"]]
ADAPTER: Final = "adapter_config.json"
"""The file by which a folder is known to hold an adapter and no whole model."""


@dataclass(frozen=True, slots=True)
class LogRatio:
    """A DPO model and the reference that it was trained against."""

    dpo: Opened
    """The model, for as long as a context lasts."""
    reference: Opened
    computation: Computation
    filler: int
    """An id for padding; no result depends on it."""

    def __call__(self, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """ρ_t = log π_dpo(y_t | x, y_<t) − log π_ref(y_t | x, y_<t), zero where masked."""
        return self.logp(self.dpo, rollout) - self.logp(self.reference, rollout)

    def against(self, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """ρ_t with the rollout's own reference log-probabilities in place of log π_ref."""
        mask = rollout.response_mask
        return torch.where(mask, self.logp(self.dpo, rollout) - rollout.ref_logp, 0.0)

    @without_gradient
    def logp(self, opened: Opened, rollout: Rollout) -> Float[torch.Tensor, "B T"]:
        """log π of the response tokens under the model's whole softmax, a few rows at a time.

        Nothing is masked and the temperature is 1, whatever was sampled from: that is the
        distribution in which DPO compares the two models.
        """
        found = torch.zeros(rollout.response_mask.shape, device=rollout.response_ids.device)
        with opened() as model:
            for rows, _ in parts(rollout.total_lengths):
                part = rollout[rows].trimmed()
                logp = said_logp(model, part, self.computation, self.filler)
                found[rows, : logp.shape[1]] = logp.float()
        return found


def said_logp(
    model: torch.nn.Module, rollout: Rollout, computation: Computation, filler: int
) -> Float[torch.Tensor, "B T"]:
    """log π of the response tokens under `model`'s whole softmax, all rows in one pass."""
    layout = Layout.of(rollout, filler)
    states = computation.narrow(hidden_states(model, layout, computation))
    choices = Choices(ids=rollout.response_ids[rollout.response_mask])
    return layout.spread(token_logp(states, head_of(model), choices, computation.logits_memory)[0])


def as_it_is(model: PreTrainedModel) -> Opened:
    """A frozen model of its own, always open."""
    ready(model)
    model.eval().requires_grad_(False)
    return lambda: nullcontext(model)


def adapter_of(model: PreTrainedModel, name: str | None) -> Opened:
    """`model` under one of its adapters, or under none; it is switched, never copied."""

    @contextmanager
    def switched() -> Iterator[PreTrainedModel]:
        with using(model, name):
            yield model

    return switched


def open_log_ratio(policy: PolicyWithValue, dpo: Path, reference: Path, dtype: Dtype) -> LogRatio:
    """The DPO model in the folder `dpo`, and its reference in the folder `reference`.

    An adapter goes on the live policy's base, which without adapters is the reference; then no
    second base is loaded. Raises `UserError` for models that cannot be compared token by token.
    """
    check_vocabularies(dpo, reference)
    filler, device = policy.ids.eos, policy.value_head.weight.device
    if (dpo / ADAPTER).is_file():
        check_reference(policy.model)
        add_frozen(policy.model, dpo, DPO)
        opened = adapter_of(policy.model, DPO), adapter_of(policy.model, None)
    else:
        models = [load_causal(folder, dtype) for folder in (dpo, reference)]
        check_same_kind(*models)
        dpo_model, reference_model = (as_it_is(model.to(device)) for model in models)
        opened = dpo_model, reference_model
    return LogRatio(*opened, computation=policy.computation, filler=filler)


def check_vocabularies(dpo: Path, reference: Path) -> None:
    """Raise unless both models read the same token ids."""
    check_same_vocabulary(load_tokenizer(dpo), load_tokenizer(reference))


def check_same_vocabulary(dpo: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase) -> None:
    """Raise unless both tokenizers know the same tokens by the same ids."""
    if dpo.get_vocab() != reference.get_vocab():
        raise UserError(
            "model.dpo: the DPO model's vocabulary differs from its reference's, so their "
            "log-probabilities are not of the same tokens; use the model that DPO started from as "
            "model.policy, with sft.train=false"
        )


def check_same_kind(dpo: torch.nn.Module, reference: torch.nn.Module) -> None:
    """Raise unless both models have the same weights but for their values."""
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in (dpo, reference)]
    for name in [*shapes[1], *shapes[0]]:
        found, wanted = (each.get(name) for each in shapes)
        if found != wanted:
            raise UserError(
                f"model.dpo: the DPO model is of another architecture than its reference ({name} "
                f"is {found or 'missing'} there and {wanted or 'missing'} here), so their "
                "log-ratios mean nothing; use the model that DPO started from as model.policy, "
                "with sft.train=false"
            )
