"""The advantages of single tokens of held-out answers, with places and classes, without texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from tokencredit.console import say
from tokencredit.data.pairs import as_rollout, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.data.word_classes import Span, WordClasses, shipped_classes
from tokencredit.models.tokens.texts import decode_tokens
from tokencredit.ops import without_gradient
from tokencredit.papers.token_classes import ADVANTAGES, HEAD, SIDES
from tokencredit.store.files import write_text
from tokencredit.store.finite import check_scores
from tokencredit.store.sheets import csv_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.models.advantage_model import AdvantageModel

TOGETHER: Final = 8
"""Pairs of one pass."""
DIGITS: Final = 6
"""Of an advantage, in the file."""


@dataclass(frozen=True, slots=True)
class Told:
    """An answer as ids behind those of its prompt, and where its tokens stand in its text."""

    row: int
    answer: str
    prompt: list[int]
    ids: list[int]
    text: str
    spans: Sequence[Span]
    """Of each token; empty where it has no character of its own, as the end token."""

    def lines(self, classes: WordClasses, values: Sequence[float]) -> Iterator[list[object]]:
        """The line of each token that has characters; `values` are the tokens' advantages."""
        kinds = classes.of_tokens(self.text, self.spans)
        for place, ((start, end), kind) in enumerate(zip(self.spans, kinds, strict=True)):
            if start < end:
                value = f"{values[place]:.{DIGITS}g}"
                yield [self.row, self.answer, place, start, end, kind, value]


def write_effects(
    model: AdvantageModel,
    told: Sequence[tuple[Told, Told]],
    noted: Counter[str],
    pad: int,
    out: Path,
) -> dict[str, object]:
    """Write advantages.csv of these pairs, each answer read as the first one, which no second one
    changes; how many there are, and why others are not (`noted`), as figures of the manifest.

    Padding holds the id `pad`. Raises `UserError` for an advantage that is not finite.
    """
    kept, classes = [answer for pair in told for answer in pair], shipped_classes()
    lines: list[Sequence[object]] = [HEAD]
    for start in range(0, len(kept), 2 * TOGETHER):
        some = kept[start : start + 2 * TOGETHER]
        found = advantages_of(model, some, pad)
        for answer, values in zip(some, found, strict=True):
            lines += answer.lines(classes, values)
    write_text(out / ADVANTAGES, csv_text(lines))
    left = {why: count for why, count in noted.items() if count}
    said = "".join(f", {count} left out: {why}" for why, count in left.items())
    say(f"advantage: {ADVANTAGES} has the tokens of {len(kept) // 2} held-out pairs{said}")
    return {"effects": len(kept) // 2, "effects_noted": left}


@without_gradient
def advantages_of(model: AdvantageModel, told: Sequence[Told], pad: int) -> list[list[float]]:
    """The advantages of the tokens of some answers, each as of the first answer."""
    rollout = as_rollout([one.prompt for one in told], [one.ids for one in told], pad)
    found = model.own(rollout.to(model.head.up.device), filler=pad)[0].cpu()
    check_scores("advantage", found)
    return [found[row, : len(one.ids)].tolist() for row, one in enumerate(told)]


def told_of(
    records: Sequence[Record], ids: TokenIds, longest: int, most: int
) -> tuple[list[tuple[Told, Told]], Counter[str]]:
    """Chosen and rejected answer of the first `most` pairs that fit, one of each row of the data;
    and how many others there are, and why."""
    accepted, _ = ids.accepted(records)
    noted, seen = Counter[str](), set[int]()
    found: list[tuple[Told, Told]] = []
    for record in accepted:
        if record.row in seen:  # texts are joined by row, with the first pair of it
            noted["a further pair of its row"] += 1
            continue
        seen.add(record.row)
        pairs, flaws = read_pairs([record], ids, longest)
        if not pairs:
            noted["unusable or too long"] += bool(flaws)
            continue
        if len(found) == most:
            noted["beyond judge.effects"] += 1
            continue
        (pair,), texts = pairs, (record.answer, record.rejected or "")
        spans = [
            spans_of(ids.tokenizer, said, text)
            for said, text in zip((pair.chosen_ids, pair.rejected_ids), texts, strict=True)
        ]
        if any(each is None for each in spans):
            noted["not spelt by their tokens as in the data"] += 1
            continue
        answers = zip(SIDES, (pair.chosen_ids, pair.rejected_ids), texts, spans, strict=True)
        one, other = (
            Told(record.row, name, pair.prompt_ids, said, text, places or [])
            for name, said, text, places in answers
        )
        found.append((one, other))
    return found, noted


def spans_of(
    tokenizer: PreTrainedTokenizerBase, said: Sequence[int], text: str
) -> list[Span] | None:
    """Where in `text` each of these tokens stands; None where they do not spell it, but for white
    space around it."""
    row = torch.tensor([list(said)])
    (spelt,), (places,) = decode_tokens(tokenizer, row, torch.ones_like(row, dtype=torch.bool))
    if spelt.strip() != text.strip():
        return None
    by = (len(text) - len(text.lstrip())) - (len(spelt) - len(spelt.lstrip()))
    ends = [0, *(min(max(end + by, 0), len(text)) for _, end in places)]
    return list(pairwise(ends))
