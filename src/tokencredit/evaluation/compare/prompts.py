"""The prompts that all models answer: held-out ones of a run, or those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokencredit.data.records import Message
from tokencredit.data.token_ids import SpecialTokens, TokenIds, check_refused
from tokencredit.errors import UserError, require
from tokencredit.evaluation.compare.players import Player, Run
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import context_of, read_config
from tokencredit.models.tokens.template import Refused
from tokencredit.models.tokens.texts import decode
from tokencredit.stages.context import Context
from tokencredit.store.jsonl import read_objects

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_COUNT = 400
"""Prompts of the oracle evaluation in "DPO Meets PPO"."""
DEFAULT_LENGTH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A prompt, and how long its answer may be, in tokens."""

    row: int
    """Names its noise."""
    text: str
    max_new: int
    min_new: int = 0
    """The end token is impossible before this many tokens."""
    ids: tuple[int, ...] | None = None
    """Ids of the tokenizer that the prompt was cut by; others read its text."""
    messages: tuple[Message, ...] | None = None
    """Turns for the chat template."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """Prompts and where they come from."""

    items: list[Item]
    tokenizer: PreTrainedTokenizerBase | None
    """Whose ids the items hold."""
    stop: tuple[str, ...] = ()
    source: str = ""
    special_tokens: SpecialTokens = SpecialTokens.text
    """What names of special tokens in a prompt are."""

    def encode(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """The ids of all prompts for a model with that tokenizer; none for a conversation that its
        chat template refuses, of which more than 5 % are an error."""
        shared = self.tokenizer is not None and tokenizer.get_vocab() == self.tokenizer.get_vocab()
        ids, found = TokenIds(tokenizer, self.special_tokens), []
        refused: dict[int, str] = {}
        for item in self.items:
            try:
                found.append(_encode(item, ids, shared=shared))
            except Refused as reason:
                found.append([])
                refused[item.row] = str(reason)
        check_refused(refused, len(self.items))
        return found

    def keep(self, rows: Sequence[int]) -> Prompting:
        """The items at some places only."""
        return replace(self, items=[self.items[i] for i in rows])


def _encode(item: Item, ids: TokenIds, *, shared: bool) -> list[int]:
    if item.messages is not None and ids.tokenizer.chat_template is not None:
        return ids.converse(item.messages).ids
    return list(item.ids) if item.ids is not None and shared else ids.opened(item.text)


def held_out(
    run: Run, folder: Path, count: int | None, seed: int, longest: int | None
) -> Prompting:
    """Prompts of a run's evaluation split, cut and limited as in its training.

    `longest` replaces the limits that are drawn from the run's range by one for all.
    """
    config, tokenizer = run.config, load_tokenizer(folder)
    context = Context(config)
    ids = TokenIds(tokenizer, config.dataset.special_tokens)
    stream = context.prompts(context.corpus.parts["eval"], ids)
    there = len(stream.records)
    require(
        count is None or count <= there,
        "--prompts",
        count,
        f"the evaluation split of {run.path} has only {there} usable records",
    )
    wanted = min(DEFAULT_COUNT, there) if count is None else count
    batch = stream.batch(seed, 0, wanted, "judge")
    by_row = {record.row: record for record in stream.records}
    texts = decode(tokenizer, batch.ids, batch.mask)
    items = []
    for i, text in enumerate(texts):
        record = by_row[int(batch.rows[i])]
        items.append(
            Item(
                row=record.row,
                text=text,
                max_new=int(batch.max_new[i]) if longest is None else longest,
                min_new=int(batch.min_new[i]) if longest is None else 0,
                ids=tuple(batch.ids[i][batch.mask[i]].tolist()),
                messages=None if record.messages is None else record.asked,
            )
        )
    return Prompting(
        items,
        tokenizer,
        tuple(config.rollout.stop),
        f"held out by {run.path}",
        config.dataset.special_tokens,
    )


def from_file(path: Path, count: int | None, longest: int | None) -> Prompting:
    """Prompts of a JSON list or JSONL file: `instruction` or the first of `turns` (a user's
    message), `messages`, or `prompt` (text to be continued as it is).
    """
    rows = read_objects(path, "--prompts-file")
    require(bool(rows), "--prompts-file", str(path), "holds no prompts")
    require(count is None or count <= len(rows), "--prompts", count, f"{path} has only {len(rows)}")
    limit = DEFAULT_LENGTH if longest is None else longest
    items = [_item(row, i, path, limit) for i, row in enumerate(rows[:count])]
    rows_of = [item.row for item in items]
    require(len(set(rows_of)) == len(rows_of), "--prompts-file", str(path), "a question_id repeats")
    return Prompting(items, None, (), str(path))


def _item(row: Mapping[str, Any], number: int, path: Path, limit: int) -> Item:
    place = row.get("question_id", number)
    index = place if isinstance(place, int) else number
    turns = row.get("turns")
    spoken = row.get("instruction", turns[0] if isinstance(turns, list) and turns else None)
    if isinstance(row.get("messages"), list):
        messages = tuple(
            {"role": str(m["role"]), "content": str(m["content"])} for m in row["messages"]
        )
        text = "\n".join(turn["content"] for turn in messages)
        return Item(row=index, text=text, max_new=limit, messages=messages)
    if spoken is not None:
        told = ({"role": "user", "content": str(spoken)},)
        return Item(row=index, text=str(spoken), max_new=limit, messages=told)
    if not str(row.get("prompt") or ""):
        raise UserError(
            f"--prompts-file {path}, row {number + 1}: needs instruction, turns, messages, or "
            "prompt"
        )
    return Item(row=index, text=str(row["prompt"]), max_new=limit)


def usable(prompting: Prompting, models: Sequence[Player]) -> tuple[Prompting, int]:
    """The prompts that leave room for an answer in every model's context, and how many do not.

    Raises `UserError` if none does.
    """
    fits = [True] * len(prompting.items)
    for folder in dict.fromkeys(player.folder for player in models):
        room = context_of(read_config(Place(folder)))
        for i, ids in enumerate(prompting.encode(load_tokenizer(folder))):
            long = room is not None and len(ids) + prompting.items[i].max_new > room
            fits[i] = fits[i] and bool(ids) and not long
    kept = [i for i, fit in enumerate(fits) if fit]
    if not kept:
        raise UserError(
            "--prompts: none leaves room for an answer in every model's context; lower "
            "--max-new-tokens"
        )
    return prompting.keep(kept), len(fits) - len(kept)
