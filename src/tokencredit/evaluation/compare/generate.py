"""Responses of models to prompts. What was generated once is found again by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.canonical import digest
from tokencredit.closing import Closing
from tokencredit.errors import require
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Prompting
from tokencredit.fields import added
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.tokens.ends import SpokenModel, special_ids
from tokencredit.rollout import Prompts
from tokencredit.store.files import reading
from tokencredit.store.jsonl import JsonlWriter, read_jsonl
from tokencredit.tracking.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE: Final = "generations.jsonl"


@dataclass(slots=True, kw_only=True)
class GenerationSettings:
    """How responses are sampled; raises `UserError` for a value out of range."""

    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0
    batch: int = 32
    """Prompts generated together; changes no response."""
    device: str = "cpu"
    greedy: bool = added(False)
    """The likeliest token each time, whatever the temperature."""

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range."""
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
class Response:
    """What a model says to one prompt."""

    text: str
    tokens: int
    """Its length in the model's own tokens, the end token included."""
    finished: bool
    """Ended by itself, and not by the limit."""


def generate(
    players: Sequence[Player], prompting: Prompting, settings: GenerationSettings, out: Path
) -> list[list[Response]]:
    """The responses of every model to every prompt; those in the folder `out` are not generated
    again.
    """
    with Generations(out, prompting, settings) as generations:
        total = sum({p.identity: generations.missing(p) for p in players}.values())
        with Progress(max(total, 1), 0, "generate") as bar:
            return [generations.of(player, bar.advance) for player in players]


class Generations(Closing):
    """The responses in a folder, by content: model, ids of the prompt, and how they are sampled."""

    def __init__(self, folder: Path, prompting: Prompting, settings: GenerationSettings) -> None:
        """Open `folder`/generations.jsonl, which need not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = JsonlWriter(folder / FILE)
        with reading(folder / FILE):
            known = [(row["key"], row, _response(row)) for row in read_jsonl(folder / FILE)]
        self._known = {key: row for key, row, _ in known}
        self.prompting, self.settings = prompting, settings

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def missing(self, player: Player) -> int:
        """How many responses of that model would have to be generated."""
        _, keys = self._read(player)
        return sum(key not in self._known for key in keys)

    def of(self, player: Player, on_progress: Callable[[int], None]) -> list[Response]:
        """The model's response to every prompt; those that are not known are generated now.

        `on_progress` hears, batch by batch, how many more there are.
        """
        ids, keys = self._read(player)
        pending = [i for i, key in enumerate(keys) if key not in self._known]
        if pending:
            self._generate(player, ids, keys, pending, on_progress)
        return [_response(self._known[key]) for key in keys]

    def _read(self, player: Player) -> tuple[list[list[int]], list[str]]:
        """For each prompt its ids, and the key of the model's response."""
        tokenizer, settings = load_tokenizer(player.folder), self.settings
        ids = self.prompting.encode(tokenizer)
        fixed = {
            "model": player.identity,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "stop": list(self.prompting.stop),
            **({"greedy": True} if settings.greedy else {}),
            **_ends(tokenizer, player.folder),
        }
        keys = [
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
        return ids, keys

    def _generate(
        self,
        player: Player,
        ids: Sequence[Sequence[int]],
        keys: Sequence[str],
        pending: Sequence[int],
        on_progress: Callable[[int], None],
    ) -> None:
        settings, items = self.settings, self.prompting.items
        generator = TextGenerator.load(player.folder, device=settings.device)
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=list(self.prompting.stop),
            logprob_mask=LogprobMask.full,  # no log-probabilities are wanted
            chunk=settings.batch,
        )
        for start in range(0, len(pending), settings.batch):
            places = pending[start : start + settings.batch]
            asked = [items[i] for i in places]
            prompts = Prompts.padded(
                [ids[i] for i in places],
                pad=0,
                rows=[item.row for item in asked],
                min_new=[item.min_new for item in asked],
                max_new=[item.max_new for item in asked],
            )
            said = generator.generate(
                prompts,
                sampling,
                ("judge", settings.seed),
                stop_in_plain_text=True,
                greedy=settings.greedy,
            ).to("cpu")
            for k, text in enumerate(generator.texts(said)):
                self._add(
                    {
                        "key": keys[places[k]],
                        "row": asked[k].row,
                        "prompt": asked[k].text,
                        "response": text,
                        "tokens": int(said.lengths[k]),
                        "finished": bool(said.finished[k]),
                    }
                )
            self._writer.flush()
            on_progress(len(places))

    def _add(self, row: dict[str, Any]) -> None:
        self._writer.write(row)
        self._known[row["key"]] = row


def _response(row: dict[str, Any]) -> Response:
    return Response(text=row["response"], tokens=row["tokens"], finished=row["finished"])


def _ends(tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, object]:
    """What responses depend on where there are several end tokens, or ids without one."""
    special = special_ids(tokenizer, SpokenModel.at(folder))
    if not (special.others or special.spare):
        return {}
    return {"ends": list(special.ends), "spare": len(special.spare)}
