"""Answers of models to prompts. What was generated once is found again by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.canonical import digest
from tokencredit.errors import require
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Item, Prompting
from tokencredit.models.decoding.generation import generate
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.loading.model import Dtype, load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.tokens.ends import SpokenModel, special_ids
from tokencredit.models.tokens.texts import decode
from tokencredit.rollout import Prompts
from tokencredit.store.files import reading
from tokencredit.store.jsonl import JsonlWriter, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE: Final = "generations.jsonl"
Tell = Callable[[int], None]
"""Hears how many more answers there are."""


@dataclass(slots=True, kw_only=True)
class Speaking:
    """How answers are sampled."""

    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0
    batch: int = 32
    """Prompts generated together; changes no answer."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.temperature > 0, "--temperature", self.temperature, "must be > 0")
        require(0 < self.top_p <= 1, "--top-p", self.top_p, "must be > 0 and <= 1 (1: off)")
        require(self.batch >= 1, "--batch", self.batch, "must be >= 1")
        require(
            self.device == "cpu" or torch.cuda.is_available(),
            "--device",
            self.device,
            "torch finds no such device here; use cpu",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One answer."""

    response: str
    tokens: int
    """Its length in the model's own tokens, the end token included."""
    finished: bool
    """Ended by itself, and not by the limit."""


class Generations:
    """The answers in a folder, by content: model, ids of the prompt, and everything sampled by."""

    def __init__(self, folder: Path, prompting: Prompting, speaking: Speaking) -> None:
        """Open `folder`/generations.jsonl, which need not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = JsonlWriter(folder / FILE)
        with reading(folder / FILE):
            known = [(row["key"], row, _said(row)) for row in read_jsonl(folder / FILE)]
        self._known = {key: row for key, row, _ in known}
        self.prompting, self.speaking = prompting, speaking

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def missing(self, player: Player) -> int:
        """How many answers of that model would have to be generated."""
        tokenizer = load_tokenizer(player.folder)
        keys = self._keys(player, tokenizer, self.prompting.encode(tokenizer))
        return sum(key not in self._known for key in keys)

    def of(self, player: Player, tell: Tell) -> list[Said]:
        """The model's answer to every prompt; those that are not known are generated now."""
        tokenizer = load_tokenizer(player.folder)
        ids = self.prompting.encode(tokenizer)
        keys = self._keys(player, tokenizer, ids)
        pending = [i for i, key in enumerate(keys) if key not in self._known]
        if pending:
            self._generate(player, tokenizer, ids, keys, pending, tell)
        return [_said(self._known[key]) for key in keys]

    def _keys(
        self, player: Player, tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]
    ) -> list[str]:
        speaking = self.speaking
        fixed = {
            "model": player.identity,
            "temperature": speaking.temperature,
            "top_p": speaking.top_p,
            "seed": speaking.seed,
            "stop": list(self.prompting.stop),
            **_spoken(tokenizer, player.folder),
        }
        return [
            digest(
                {
                    **fixed,
                    "ids": list(own),
                    "row": item.row,
                    "min_new": item.min_new,
                    "max_new": item.max_new,
                }
            )
            for own, item in zip(ids, self.prompting.items, strict=True)
        ]

    def _generate(
        self,
        player: Player,
        tokenizer: PreTrainedTokenizerBase,
        ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        pending: Sequence[int],
        tell: Tell,
    ) -> None:
        speaking, items = self.speaking, self.prompting.items
        model = load_causal(player.folder, Dtype.float32).eval().to(speaking.device)
        special = special_ids(tokenizer, model)
        sampling = Sampling(
            temperature=speaking.temperature,
            top_p=speaking.top_p,
            stop=list(self.prompting.stop),
            logprob_mask=LogprobMask.full,  # no log-probabilities are wanted
            chunk=speaking.batch,
        )
        to_text = partial(tokenizer.decode, skip_special_tokens=True)
        for start in range(0, len(pending), speaking.batch):
            rows = pending[start : start + speaking.batch]
            batch = left_padded([items[i] for i in rows], [ids[i] for i in rows])
            said = generate(
                model,
                batch.to(torch.device(speaking.device)),
                sampling,
                special,
                ("judge", speaking.seed),
                decode=to_text,
            ).to("cpu")
            texts = decode(tokenizer, said.ids, said.mask)
            for k, i in enumerate(rows):
                self._add(
                    {
                        "key": keys[i],
                        "row": items[i].row,
                        "prompt": items[i].text,
                        "response": texts[k],
                        "tokens": int(said.lengths[k]),
                        "finished": bool(said.finished[k]),
                    }
                )
            self._writer.flush()
            tell(len(rows))

    def _add(self, row: dict[str, Any]) -> None:
        self._writer.write(row)
        self._known[row["key"]] = row


def left_padded(items: Sequence[Item], ids: Sequence[Sequence[int]]) -> Prompts:
    """The prompts as a batch, each once. Padding ids are 0 and masked."""
    width = max(map(len, ids))
    return Prompts(
        rows=torch.tensor([item.row for item in items]),
        samples=torch.zeros(len(items), dtype=torch.long),
        groups=torch.arange(len(items)),
        ids=torch.tensor([[0] * (width - len(own)) + list(own) for own in ids]),
        mask=torch.tensor([[False] * (width - len(own)) + [True] * len(own) for own in ids]),
        min_new=torch.tensor([item.min_new for item in items]),
        max_new=torch.tensor([item.max_new for item in items]),
    )


def _said(row: dict[str, Any]) -> Said:
    return Said(response=row["response"], tokens=row["tokens"], finished=row["finished"])


def _spoken(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, object]:
    """What answers depend on where there are several end tokens, or ids without one."""
    special = special_ids(tokenizer, SpokenModel.at(folder))
    if not (special.others or special.spare):
        return {}
    return {"ends": list(special.ends), "spare": len(special.spare)}
