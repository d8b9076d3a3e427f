"""Preference pairs that the SFT model says itself, ordered by the reward model's score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from tokencredit.data.pairs import Pair
from tokencredit.data.token_ids import TokenIds
from tokencredit.models.actors import unscored
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.passes.kernels import ready
from tokencredit.models.scorer import open_scorer
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.store.files import reading, write_rows
from tokencredit.store.finite import check_scores
from tokencredit.store.jsonl import read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.rollout import Rollout

SPLITS = {"train": "rl", "held_out": "eval"}
"""Pairs to learn from and pairs to be measured on, and the split that each takes prompts from."""
Row = dict[str, Any]


class SampledPairsStage(Stage):
    """Two continuations of each prompt; the one with the higher score is the chosen one."""

    name: ClassVar[str] = "sampled_pairs"
    version: ClassVar[int] = 1

    def parents(self) -> Mapping[str, Stage]:
        """Who speaks, and who judges."""
        context = self.context
        return {"sft": SFTStage(context), "reward_model": RewardModelStage(context)}

    def inputs(self) -> Mapping[str, object]:
        """How many prompts of which records, how they are continued, and the seed."""
        config, prints = self.context.config, self.context.corpus.fingerprints
        return {
            "counts": self._counts(),
            "rollout": config.rollout,
            "prompt": config.dataset.prompt,
            "format": config.dataset.format,
            "context": config.model.context,
            "dtype": config.model.dtype,
            "data": {split: prints[split] for split in SPLITS.values()},
            "stage_seed": config.stage_seed,
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Write train.jsonl and held_out.jsonl: one pair a line, as ids and as text, with scores.

        A pair of equal responses, or of equal scores, has no order: it is dropped and counted.
        """
        config = self.context.config
        sft = self.made("sft")
        device, models = config.hardware.device.value, config.model
        generator = TextGenerator.load(sft, models.dtype, device=device, context=models.context)
        ready(generator.model)
        tokenizer = generator.tokenizer
        scorer = open_scorer(
            self.made("reward_model"),
            tokenizer,
            models,
            config.reward_model.score_at,
            device,
        )
        figures: dict[str, object] = {}
        for name, count in self._counts().items():
            rows, dropped = [], Counter[str]()
            for rollout in self._responses(name, count, generator):
                scores = scorer.score(rollout)
                check_scores("sampled_pairs", scores)
                for pair in pairs_of(rollout.to("cpu"), scores.tolist(), tokenizer):
                    if isinstance(pair, str):
                        dropped[pair] += 1
                    else:
                        rows.append(pair)
            write_rows(out / f"{name}.jsonl", rows)
            failures = sum(not row["round_trip"] for row in rows)
            figures |= {
                f"{name}/pairs": len(rows),
                f"{name}/dropped": dict(dropped),
                f"{name}/round_trip_failures": failures,
            }
        return figures

    def _counts(self) -> dict[str, int]:
        settings = self.context.config.dpo
        return {"train": settings.prompts, "held_out": settings.held_out}

    def _responses(self, name: str, count: int, generator: TextGenerator) -> Iterator[Rollout]:
        """`count` prompts, each continued twice with one length limit, some at a time."""
        config = self.context.config
        sampling, seed = config.rollout, config.stage_seed
        records = self.context.corpus.parts[SPLITS[name]]
        ids = TokenIds(generator.tokenizer, config.dataset.special_tokens)
        prompts = self.context.prompts(records, ids)
        size = max(1, min(sampling.chunk // 2, count))
        for step in range(-(-count // size)):
            batch = prompts.batch(seed, step, 2 * size, f"pairs {name}", samples_per_prompt=2)
            limits = batch.max_new[::2].repeat_interleave(2)
            rows = torch.arange(min(2 * size, 2 * (count - step * size)))
            batch = replace(batch, max_new=limits)[rows].to(generator.model.device)
            said = generator.generate(batch, sampling, (seed, "pairs", name, step))
            yield unscored(batch, said)


def pairs_of(
    rollout: Rollout, scores: list[float], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Row | str]:
    """One row for every two responses, the better one chosen; or why there is no better one."""
    prompts = [
        ids[m].tolist() for ids, m in zip(rollout.prompt_ids, rollout.prompt_mask, strict=True)
    ]
    said = [
        ids[m].tolist() for ids, m in zip(rollout.response_ids, rollout.response_mask, strict=True)
    ]
    for first in range(0, len(said), 2):
        better, worse = sorted((first, first + 1), key=lambda row: -scores[row])
        if said[first] == said[first + 1]:
            yield "equal responses"
        elif scores[better] == scores[worse]:
            yield "equal scores"
        else:
            sides = {"chosen": better, "rejected": worse}
            prompt = prompts[first]
            yield {
                "row": int(rollout.rows[first]),
                "prompt": tokenizer.decode(prompt, skip_special_tokens=True),
                **{
                    n: tokenizer.decode(said[i], skip_special_tokens=True) for n, i in sides.items()
                },
                "prompt_ids": prompt,
                **{f"{n}_ids": said[i] for n, i in sides.items()},
                **{f"{n}_score": scores[i] for n, i in sides.items()},
                "round_trip": all(survives(prompt + said[i], tokenizer) for i in sides.values()),
            }


def survives(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether text made from these ids would be read as these ids again."""
    special = set(tokenizer.all_special_ids)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    again = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [i for i in ids if i not in special] == list(again)


def load_sampled(folder: Path, name: str) -> list[Pair]:
    """The pairs of an artifact: "train" or "held_out"."""
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    path = folder / f"{name}.jsonl"
    with reading(path):
        return [Pair(**{n: row[n] for n in names}) for row in read_jsonl(path)]
