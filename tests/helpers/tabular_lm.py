"""The enumerable MDP's policies as causal language models that any trainer can train.

The hidden state at a position is the one-hot of the MDP's state there, so the head's weight is the
table of logits, and log-probabilities are those of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from token_mdp import TokenMDP
from tokencredit.data.pairs import Pair


class TabularConfig(PreTrainedConfig):  # type: ignore[misc]
    model_type = "tabular"

    def __init__(self, states: int = 1, vocabulary: int = 3, **given: Any) -> None:
        PreTrainedConfig.__init__(self, **given)
        self.hidden_size, self.vocab_size = states, vocabulary


class Trunk(nn.Module):
    """One-hot of the state after each token; the first token is the prompt."""

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.states, self.vocabulary = config.hidden_size, config.vocab_size

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        state, found = torch.zeros_like(input_ids[:, 0]), []
        for t in range(input_ids.shape[1]):
            if t > 0:
                state = self.vocabulary * state + input_ids[:, t] + 1
            found.append(state.clamp(max=self.states - 1))  # behind the end nothing counts
        one_hot = nn.functional.one_hot(torch.stack(found, dim=1), self.states)
        return BaseModelOutput(last_hidden_state=one_hot.float())


class TabularLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    config_class = TabularConfig
    base_model_prefix = "trunk"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids: Tensor, **given: Any) -> Any:
        raise NotImplementedError("only the trunk and the head are read")


def tabular_lm(mdp: TokenMDP, logits: Tensor) -> TabularLM:
    """The policy of a table (S, V) of an MDP with one prompt."""
    assert mdp.prompts == 1
    model = TabularLM(TabularConfig(states=len(logits), vocabulary=mdp.vocabulary))
    with torch.no_grad():
        model.lm_head.weight.copy_(logits.t())
    return model


def tokenizer_of(mdp: TokenMDP) -> PreTrainedTokenizerFast:
    """Every id a word; behind those of the MDP a pad and, where it has none, an end."""
    words = {f"t{n}": n for n in range(mdp.vocabulary)} | {"pad": mdp.vocabulary}
    if mdp.eos is None:
        words["end"] = mdp.vocabulary + 1
    plain = Tokenizer(models.WordLevel(words, unk_token="pad"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end = "end" if mdp.eos is None else f"t{mdp.eos}"
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="pad", eos_token=end)


def preferences(mdp: TokenMDP, scores: Tensor, copies: int) -> list[Pair]:
    """Every two responses `copies` times, in both orders as often as Bradley and Terry expect."""
    said = [ids[m].tolist() for ids, m in zip(mdp.ids, mdp.mask, strict=True)]
    pairs: list[Pair] = []
    for i in range(len(said)):
        for j in range(i + 1, len(said)):
            won = round(copies * float(torch.sigmoid(scores[i] - scores[j])))
            pairs += _pairs(said[i], said[j], won) + _pairs(said[j], said[i], copies - won)
    return pairs


def _pairs(chosen: Sequence[int], rejected: Sequence[int], count: int) -> list[Pair]:
    pair = Pair(prompt_ids=[0], chosen_ids=list(chosen), rejected_ids=list(rejected))
    return [pair] * count
