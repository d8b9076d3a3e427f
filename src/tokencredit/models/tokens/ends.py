"""What ends a response, and which ids nobody can say: told from tokenizer, template, and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int

from tokencredit.models.adapters.adapter import find_adapter
from tokencredit.models.tokens.template import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids with a meaning of their own."""

    eos: int
    """The tokenizer's end token, an action: it ends a response."""
    pad: int
    """Never an action: impossible for policy and reference alike. -1: there is none."""
    others: tuple[int, ...] = ()
    """Further ids that end a response: the end of a turn, and what generation_config names."""
    spare: tuple[int, ...] = ()
    """Ids without a token, of an embedding that was padded to a round number: never actions."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Every id that ends a response."""
        return (self.eos, *self.others)

    def spare_on(self, device: torch.device) -> Int[torch.Tensor, "K"] | None:
        """`spare` as an index; None where there is none."""
        return torch.tensor(self.spare, device=device) if self.spare else None


def special_ids(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | SpokenModel
) -> SpecialIds:
    """The ends and the impossible ids of a model.

    Ends are the tokenizer's, those of generation_config, and the chat template's end of a turn. One
    that is the pad token cannot be said. What generation_config only repeats from the model's
    configuration counts where it is a token of its own: the default of an architecture may name an
    ordinary word.
    """
    config: Any = model.config.get_text_config()
    ids = set(range(int(config.vocab_size)))
    eos, pad = int(tokenizer.eos_token_id), tokenizer.pad_token_id
    pad = int(pad) if pad in ids - {eos} else -1
    own = tokenizer.added_tokens_decoder
    known = set(tokenizer.get_vocab().values())
    inherited = _listed(getattr(config, "eos_token_id", None))
    named = _listed(getattr(model.generation_config, "eos_token_id", None))
    found = {index for index in named if index in own or index not in inherited}
    found |= set(_listed(turn_end(tokenizer)))
    return SpecialIds(
        eos=eos,
        pad=pad,
        others=tuple(sorted((found & known & ids) - {eos, pad})),
        spare=tuple(sorted(ids - known)),
    )


def name_ends(model: PreTrainedModel, ids: SpecialIds) -> None:
    """Write several ends down in the model's generation_config; with one it stays as it is."""
    if ids.others and model.generation_config is not None:
        model.generation_config.eos_token_id = list(ids.ends)


@dataclass(frozen=True, slots=True)
class SpokenModel:
    """What a model's files say of it beside its weights."""

    config: Any
    generation_config: Any

    @classmethod
    def at(cls, where: str | Path, revision: str | None = None) -> SpokenModel:
        """Configuration and generation_config of a folder or hub repository, or of the model
        beneath an adapter."""
        from transformers import AutoConfig, GenerationConfig

        adapter = find_adapter(where, revision)
        if adapter is not None:
            return cls.at(adapter.base, adapter.revision)
        place = {"revision": revision}
        config = AutoConfig.from_pretrained(str(where), trust_remote_code=False, **place)
        try:
            generation = GenerationConfig.from_pretrained(str(where), **place)
        except OSError:  # without the file, transformers reads the configuration
            generation = GenerationConfig.from_model_config(config)
        return cls(config, generation)


def _listed(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple) else [ids]
