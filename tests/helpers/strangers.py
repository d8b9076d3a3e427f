"""Judges with another vocabulary than the policy's: made-up ones, and models in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from builders import tiny_classifier, train_tokenizer
from tokencredit.config import Config
from tokencredit.judges.judge import OpenJudge
from tokencredit.judges.panel import open_panel
from tokencredit.judges.retokenised import retokenised
from tokencredit.models.tokens.retokenise import Retokeniser
from tokencredit.ops import keep
from tokencredit.rl.load import load_actors
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.stages.reward_model import RewardModelStage
from vocabularies import conversation, spell, vocabulary

OWN = train_tokenizer()


def signed(rollout: Rollout) -> Judgement:
    """A judge whose number of each token depends on the token and on its place."""
    place = torch.arange(rollout.response_ids.shape[1], device=rollout.response_ids.device)
    evidence = torch.sin(rollout.response_ids.float() * 3 + place) + 0.1
    evidence = keep(evidence, rollout.response_mask)
    notes = Notes({"tokens": rollout.lengths.float()})
    return Judgement(scores=evidence.sum(dim=1), evidence=evidence, notes=notes)


def reading(
    policy: str, judge: str, verdict: OpenJudge = signed, longest: int | None = None
) -> OpenJudge:
    return retokenised(verdict, Retokeniser(vocabulary(policy), vocabulary(judge), longest))


def end_of(kind: str) -> int:
    return int(vocabulary(kind).eos_token_id)


def said(
    policy: str, texts: Sequence[tuple[str, str]], ended: Sequence[bool], **padding: int
) -> Rollout:
    """Prompts and responses of these texts in the policy's ids."""
    responses = [
        spell(text, policy) + [end_of(policy)] * end
        for (_, text), end in zip(texts, ended, strict=True)
    ]
    return conversation([spell(p, policy) for p, _ in texts], responses, ended, **padding)


def read_by(policy: Any, judge: Any, rollout: Rollout) -> list[tuple[list[str], list[str]]]:
    """The judge's tokens of each prompt and response, by name."""
    there = Retokeniser(policy, judge)(rollout).rollout
    return [
        (
            judge.convert_ids_to_tokens(there.prompt_ids[row][there.prompt_mask[row]].tolist()),
            judge.convert_ids_to_tokens(there.response_ids[row][there.response_mask[row]].tolist()),
        )
        for row in range(len(there))
    ]


def weights(*numbers: float) -> OpenJudge:
    """A judge that gives these numbers to the tokens of every response."""

    def judge(rollout: Rollout) -> Judgement:
        evidence = torch.zeros(rollout.response_mask.shape)
        assert rollout.lengths.tolist() == [len(numbers)] * len(rollout)
        evidence[:, : len(numbers)] = torch.tensor(numbers)
        return Judgement(scores=evidence.sum(dim=1), evidence=evidence)

    return judge


def names(kind: str, *tokens: str) -> list[int]:
    return list(vocabulary(kind).convert_tokens_to_ids(list(tokens)))


def stranger(folder: Path, kind: str, architecture: str = "llama") -> Path:
    """A reward model whose tokenizer is of this kind, in a folder."""
    tokenizer = vocabulary(kind)
    place = folder / f"{kind}_{architecture}"
    model = tiny_classifier(architecture, vocab_size=len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def panel_of(config: Config, place: Path) -> OpenJudge:
    """The panel of a configuration, its stages built, before the policy in `place`/model."""
    config.store = str(place / "shop")
    context = Context(config)
    context.store.build(RewardModelStage(context))
    actors = load_actors(config, place / "model")
    return open_panel(config.judge, config.scorer, given_of(context), actors)
