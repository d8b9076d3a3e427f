"""A run's live parts on random weights, made in memory, by the classes that runs are made of."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from tokencredit.bench.plan import LABELS
from tokencredit.bench.workload import Architecture, Size, Work
from tokencredit.config import Config
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.actors import Actors
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.kernels import ready
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.scorer import Scorer
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.rl.loop import Learner, RunInputs
from tokencredit.rl.world import World
from tokencredit.rollout import Prompts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.data.prompts import PromptStream

SPECIAL: Final = SpecialIds(eos=0, pad=1)
FIRST: Final = 2
"""The first id of a word."""


def learner_of(work: Work, config: Config) -> Learner:
    """A run at step 0 that answers the same prompts at every step; nothing is read or written."""
    torch.manual_seed(work.seed)
    actors = actors_of(work, config)
    prompts = cast("PromptStream", Fixed(prompts_of(work)))
    around = RunInputs(prompts, prompts, Path())
    learner = Learner(config, actors, judge_of(work, config), around, World(config.hardware))
    actors.policy.train()
    return learner


@dataclass(slots=True)
class Fixed:
    """Stands for a stream of prompts, with the same ones at every step."""

    prompts: Prompts

    def batch(self, *_: object, **__: object) -> Prompts:
        """All of them."""
        return self.prompts


def prompts_of(work: Work) -> Prompts:
    """Random prompts, padded on the left."""
    lengths, limits = torch.tensor(work.prompt_lengths), torch.tensor(work.response_lengths)
    width = int(lengths.max())
    generator = torch.Generator().manual_seed(work.seed)
    ids = torch.randint(FIRST, work.size.vocabulary, (work.rows, width), generator=generator)
    mask = torch.arange(width) >= width - lengths[:, None]
    return Prompts(
        rows=torch.arange(work.rows),
        samples=torch.zeros_like(limits),
        groups=torch.arange(work.rows),
        ids=torch.where(mask, ids, SPECIAL.pad),
        mask=mask,
        min_new=limits,
        max_new=limits,
    )


def actors_of(work: Work, config: Config) -> Actors:
    """As `load_actors` makes them of a trained model: a shared value head, a copy as reference."""
    model = causal(work.size, work.context)
    frozen = copy.deepcopy(model)
    for each in (model, frozen):
        ready(each)
    computation = Computation(logits_memory=config.hardware.logits_memory_mb << 20)
    policy = PolicyWithValue(model, SPECIAL, config.rollout, computation)
    return Actors(policy=policy, reference=Reference(policy, frozen), tokenizer=tokenizer())


def judge_of(work: Work, config: Config) -> OpenJudge:
    """The judge of the configuration, on a reward model with random weights."""
    scorer = Scorer(classifier(work.size, work.context), SPECIAL.pad, config.reward_model.score_at)
    assert isinstance(config.judge, AttentionJudge | RewardModelJudge)
    return config.judge.judging(scorer)


def causal(size: Size, context: int, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """A language model with random weights, its head tied to its embedding; of `config`, where that
    is not the size's own."""
    from transformers import AutoModelForCausalLM

    config = config or architecture_of(size, context)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def classifier(size: Size, context: int) -> PreTrainedModel:
    """A sequence classifier with random weights."""
    from transformers import AutoModelForSequenceClassification

    config = architecture_of(size, context)
    config.num_labels = LABELS
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model


def architecture_of(size: Size, context: int) -> PretrainedConfig:
    """The configuration of a model of that size, as transformers has it."""
    from transformers import GPT2Config, LlamaConfig

    shared: dict[str, Any] = {
        "vocab_size": size.vocabulary,
        "bos_token_id": SPECIAL.eos,
        "eos_token_id": SPECIAL.eos,
        "pad_token_id": SPECIAL.pad,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
    }
    if size.architecture is Architecture.gpt2:
        return GPT2Config(
            n_layer=size.layers,
            n_embd=size.width,
            n_head=size.heads,
            n_inner=size.inner,
            n_positions=context,
            **shared,
        )
    return LlamaConfig(
        num_hidden_layers=size.layers,
        hidden_size=size.width,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.inner,
        max_position_embeddings=context,
        **shared,
    )


def tokenizer() -> PreTrainedTokenizerBase:
    """One that only knows the special ids; nothing is turned into text here."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    end, pad = "<eos>", "<pad>"
    words = {end: SPECIAL.eos, pad: SPECIAL.pad}
    inner = Tokenizer(models.WordLevel(words, unk_token=end))
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=end, pad_token=pad
    )
    return made
