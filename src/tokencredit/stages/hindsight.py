"""The hindsight model: adapters that learn what was said, told how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from tokencredit.console import say
from tokencredit.data.formats import Holds
from tokencredit.data.pairs import as_rollout
from tokencredit.errors import require
from tokencredit.judges.hindsight import HindsightJudge
from tokencredit.models.adapters.lora import Lora, all_linear
from tokencredit.models.hindsight import (
    MUCH,
    HindsightModel,
    Outcomes,
    save_hindsight,
)
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.passes.computation import Computation
from tokencredit.models.tokens.ends import special_ids
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.ops import masked_sum
from tokencredit.rollout import padded
from tokencredit.stages.judge_stage import JudgeStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import IGNORED
from tokencredit.stages.stage import Stage
from tokencredit.statistics.judge_numbers import HindsightNumbers, Told, hindsight_numbers
from tokencredit.store.files import reading, write_json
from tokencredit.store.finite import check_scores
from tokencredit.store.jsonl import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Said:
    """A response of the SFT model, and its score."""

    prompt: int
    """Which prompt it answers."""
    prompt_ids: list[int]
    response_ids: list[int]
    score: float


class HindsightStage(JudgeStage):
    """Adapters of the SFT model, and hindsight.json: edges of the outcomes and what is told of
    them. Its folder has evaluation.json of held-out responses beside them: losses with and without
    the outcome, their difference with its interval, and how often the outcome is told.

    It reads the responses that `SampledPairsStage` keeps with their scores, both of each pair: two
    a prompt, of the prompts that rollouts have too. Two equal responses to a prompt are not there.
    """

    name: ClassVar[str] = "hindsight"
    version: ClassVar[int] = 1

    @property
    def settings(self) -> HindsightJudge:
        """The judge whose stage it is."""
        return self.judge_as(HindsightJudge)

    def parents(self) -> Mapping[str, Stage]:
        """What it starts from, and what has sampled and scored its responses."""
        return {**super().parents(), "sampled_pairs": SampledPairsStage(self.context)}

    def inputs(self) -> Mapping[str, object]:
        """Its settings, number format, and seed; the data and how responses are sampled are those
        of the stage before."""
        config, judge = self.context.config, self.settings
        sampling = config.rollout
        for name, wanted in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            require(  # said before anything is sampled
                getattr(sampling, name) == wanted,
                f"rollout.{name}",
                getattr(sampling, name),
                f"must be {wanted:g} with judge=hindsight: responses have to come from the model "
                "itself, with which the model that knows the outcome is compared",
            )
        names = "outcomes", "phrase", "lora_rank", "lora_alpha"
        return {
            "training": self.training,
            **{name: getattr(judge, name) for name in names},
            "dtype": config.model.dtype,
            "stage_seed": self.seed,
            **config.model.quantization_inputs(),
        }

    def train(self, out: Path) -> Mapping[str, object]:
        """Learn from the responses, and measure on those to held-out prompts."""
        sft, sampled = self.made("sft"), self.made("sampled_pairs")
        tokenizer = load_tokenizer(sft)
        ensure_pad(tokenizer)
        prefixes, pad = self.prefixes(tokenizer), int(tokenizer.pad_token_id)
        learnt, long = self.fitting(read_said(sampled, "train"), prefixes)
        outcomes = Outcomes.of([each.score for each in learnt], prefixes)
        plain = self.adapted_sft(sft, tokenizer)
        computation = Computation(uses_values=False)
        model = HindsightModel(plain, special_ids(tokenizer, plain), outcomes, computation)
        model.check_room(self.longest_said())
        figures: dict[str, object] = {"responses": len(learnt), "too_long": long}
        trained, found = self.supervised(out).fit_rows(
            plain, rows_of(learnt, outcomes), lambda rows: batch_of(rows, pad)
        )
        model = replace(model, model=trained.eval())
        held_out, _ = self.fitting(read_said(sampled, "held_out"), prefixes)
        if held_out:
            numbers = measured(model, held_out, self.context.config.rollout.eos_from(), pad)
            write_json(out / "evaluation.json", {"schema_version": 1, **asdict(numbers)})
            found |= {name: each for name, each in asdict(numbers).items() if name != "responses"}
            if numbers.lost_mass > MUCH:
                say(
                    f"hindsight: {numbers.lost_mass:.0%} of π stands on tokens that the outcome "
                    "makes impossible, so credit for not saying them is lost; fewer outcomes "
                    "(judge.outcomes) lose less"
                )
        else:
            say("hindsight: no response is held out, so what the outcome tells is not known")
        save_hindsight(trained, outcomes, out, sft, self.settings.about())
        tokenizer.save_pretrained(out)
        return figures | found | {"held_out": len(held_out)}

    def prefixes(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """By outcome, the ids of what is told of it."""
        read = {"add_special_tokens": False, "split_special_tokens": True}
        found = [list(tokenizer(text, **read)["input_ids"]) for text in self.settings.told()]
        require(
            len(set(map(tuple, found))) == len(found),
            "judge.phrase",
            self.settings.phrase,
            "in the model's vocabulary outcomes are told by the same ids; use another phrase or "
            "fewer outcomes",
        )
        return found

    def longest_said(self) -> int:
        """The most tokens of a prompt and its response in the run."""
        config = self.context.config
        if config.dataset.reader().holds is Holds.texts:
            return config.longest_whole
        return config.model.context

    def fitting(
        self, said: Sequence[Said], prefixes: Sequence[Sequence[int]]
    ) -> tuple[list[Said], int]:
        """The responses that are not too long with their prompts and a prefix, and how many are:
        they are left out whole."""
        longest = self.training.max_length - max(map(len, prefixes))
        kept = [s for s in said if len(s.prompt_ids) + len(s.response_ids) <= longest]
        if len(kept) < len(said):
            say(
                f"hindsight: {len(said) - len(kept)} of {len(said)} responses are left out, that "
                "have with prompt and outcome more than judge.training.max_length = "
                f"{self.training.max_length} tokens"
            )
        return kept, len(said) - len(kept)

    def adapters(self) -> Lora:
        """rsLoRA on all linear layers."""
        return all_linear(self.settings.lora_rank, self.settings.lora_alpha)


def read_said(folder: Path, name: str) -> list[Said]:
    """Both responses of each sampled pair, "train" or "held_out"."""
    path, found = folder / f"{name}.jsonl", list[Said]()
    with reading(path):
        for place, row in enumerate(read_jsonl(path)):
            found += [
                Said(place, row["prompt_ids"], row[f"{side}_ids"], row[f"{side}_score"])
                for side in ("chosen", "rejected")
            ]
    return found


def rows_of(said: Sequence[Said], outcomes: Outcomes) -> list[dict[str, list[int]]]:
    """What the trainer reads: outcome, prompt, and response, of which the response is learnt."""
    numbers = outcomes(torch.tensor([each.score for each in said])).tolist()
    rows = []
    for each, outcome in zip(said, numbers, strict=True):
        begun = [*outcomes.prefixes[outcome], *each.prompt_ids]
        labels = [IGNORED] * len(begun) + each.response_ids
        rows.append({"input_ids": [*begun, *each.response_ids], "labels": labels})
    return rows


def batch_of(rows: Sequence[Mapping[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Some rows as tensors (n, S), right-padded; causal attention never looks there."""
    ids, mask = padded([row["input_ids"] for row in rows], pad)
    labels, _ = padded([row["labels"] for row in rows], IGNORED)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def measured(
    model: HindsightModel, said: Sequence[Said], end_from: int, pad: int
) -> HindsightNumbers:
    """What these responses say of the model; before token `end_from` none could end.

    Raises `UserError` where it says a number that is not finite.
    """
    rollout = as_rollout(
        [each.prompt_ids for each in said], [each.response_ids for each in said], pad
    )
    rollout = replace(rollout, min_new=torch.full_like(rollout.min_new, end_from))
    rollout = rollout.to(next(model.model.parameters()).device)
    right = model.outcomes(torch.tensor([each.score for each in said]))
    log_h, log_pi, lost = [], torch.zeros(len(said)), torch.zeros(len(said))
    for outcome in range(len(model.outcomes.prefixes)):
        found = model(rollout, torch.full_like(right, outcome))
        sums = [
            masked_sum(part, rollout.response_mask).cpu()
            for part in (found.log_h, found.log_pi, found.lost)
        ]
        check_scores("hindsight", sums[0])
        log_h.append(sums[0])
        log_pi, lost = sums[1], torch.where(right == outcome, sums[2], lost)
    told = zip(
        torch.stack(log_h, dim=1).tolist(),
        log_pi.tolist(),
        lost.tolist(),
        right.tolist(),
        rollout.lengths.tolist(),
        strict=True,
    )
    return hindsight_numbers(
        [
            Told(each.prompt, tokens, outcome, *sums)
            for each, (*sums, outcome, tokens) in zip(said, told, strict=True)
        ]
    )
