"""What a discriminator thinks of faults that are put into held-out answers by rule.

    python experiments/tlcr/heat_maps.py --discriminator store/discriminator/KEY --out FOLDER

Yoon et al. 2024 show in their Figure 8 that their discriminator marks a wrong year and a wrong
name. Here each of some held-out reviews is judged as it is, with two letters of a word exchanged,
with two words said twice, and with a name or a number put in place of another. Printed is by how
much the reward of the changed words differs from that of the words that stood there, over all
reviews. FOLDER (experiments/tlcr/main/heat_maps) gets these numbers, and of the first reviews in
which every fault can be put the texts and the reward of each token, which
`tokencredit figure tlcr/figure8` draws.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tokencredit
from tokencredit.composing.chosen import chosen
from tokencredit.papers.token_maps import COLUMNS
from tokencredit.statistics.intervals import paired_difference
from tokencredit.store.files import write_json, write_rows, write_text
from tokencredit.store.sheets import csv_text
from tokencredit.streams import integer, stream_key
from tokencredit.surface.credited import Credit

WORD: Final = re.compile(r"[A-Za-z]{5,}")
NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}")
"""A capitalised word within a sentence."""
NUMBER: Final = re.compile(r"\d+")
PAIR: Final = re.compile(r"\w+ \w+")
Span = tuple[int, int]


@dataclass(frozen=True)
class Faulty:
    """An answer with one fault, and where the words that it is about stand before and after."""

    text: str
    before: Span
    after: Span


def draw(number: int, *names: int | str) -> int:
    """One of so many, by the name of what is drawn for."""
    return integer(stream_key("heat maps", *names), 0, number)


def place(found: re.Pattern[str], text: str) -> Span | None:
    """One of the places that match, never at the very beginning."""
    spans = [match.span() for match in found.finditer(text) if match.start() > 0]
    return spans[draw(len(spans), found.pattern, text)] if spans else None


def misspelt(text: str, others: Sequence[str]) -> Faulty | None:
    """Two neighbouring inner letters of a word exchanged."""
    del others
    span = place(WORD, text)
    if span is None:
        return None
    word = text[span[0] : span[1]]
    places = [k for k in range(1, len(word) - 2) if word[k] != word[k + 1]]
    if not places:
        return None
    k = places[draw(len(places), "letters", text)]
    wrong = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
    return Faulty(text[: span[0]] + wrong + text[span[1] :], span, span)


def repeated(text: str, others: Sequence[str]) -> Faulty | None:
    """Two words said once more."""
    del others
    span = place(PAIR, text)
    if span is None:
        return None
    words = text[span[0] : span[1]]
    again = (span[1] + 1, span[1] + 1 + len(words))
    return Faulty(f"{text[: span[1]]} {words}{text[span[1] :]}", span, again)


def wrong_fact(text: str, others: Sequence[str]) -> Faulty | None:
    """A name, or else a number, in place of another, which stands in another review."""
    for kind in (NAME, NUMBER):
        span = place(kind, text)
        known = {match[0] for other in others for match in kind.finditer(other)}
        if span is None:
            continue
        choices = sorted(known - {text[span[0] : span[1]]})
        if choices:
            other = choices[draw(len(choices), "fact", text)]
            after = (span[0], span[0] + len(other))
            return Faulty(text[: span[0]] + other + text[span[1] :], span, after)
    return None


FAULTS: Final[dict[str, Callable[[str, Sequence[str]], Faulty | None]]] = {
    "misspelling": misspelt,
    "repetition": repeated,
    "wrong_fact": wrong_fact,
}
WRITTEN: Final = "written"
"""The answer without a fault."""
LONGEST: Final = 200
"""Characters of prompt and answer together, of a text that is kept."""


@dataclass(frozen=True)
class Review:
    """The first seven words of a held-out review, and those that follow."""

    row: int
    prompt: str
    said: str


def answers(count: int, words: int) -> list[Review]:
    """So many held-out reviews, of each seven words as a prompt and so many that follow."""
    records = chosen(["dataset=imdb"], []).config.dataset.read().parts["eval"]
    found: list[Review] = []
    for record in records:
        parts = record.answer.split()
        if len(parts) >= 7 + words and len(found) < count:
            said = " " + " ".join(parts[7 : 7 + words])
            found.append(Review(record.row, " ".join(parts[:7]), said))
    return found


def judged(prompts: Sequence[str], texts: Sequence[str], folder: Path) -> Credit:
    """What `tlcr` pays to every token."""
    return tokencredit.credit(
        list(prompts),
        list(texts),
        judge="discriminator",
        scheme="tlcr",
        scorer="judge",
        artifacts={"discriminator": folder},
    )


def reward_of(credit: Credit, row: int, span: Span) -> float:
    """The mean reward of the tokens that reach into a span of the response's text."""
    found, at = [], 0
    for piece, reward in zip(credit.tokens[row], credit.rewards[row], strict=True):
        if at < span[1] and at + len(piece) > span[0]:
            found.append(reward)
        at += len(piece)
    return sum(found) / len(found)


@dataclass(frozen=True)
class Shown:
    """A text that the figure shows, with the pieces of its tokens and their rewards."""

    row: int
    answer: str
    prompt: str
    text: str
    marked: Span | None
    pieces: Sequence[str]
    rewards: Sequence[float]


def kept_together(texts: Sequence[Shown], count: int) -> list[Shown]:
    """The texts of the first rows that have every answer, none of them too long to be kept."""
    rows: dict[int, list[Shown]] = {}
    for text in texts:
        rows.setdefault(text.row, []).append(text)
    whole = [
        own
        for own in rows.values()
        if len(own) == 1 + len(FAULTS) and all(len(x.prompt + x.text) <= LONGEST for x in own)
    ]
    return [text for own in whole[:count] for text in own]


def write_texts(texts: Sequence[Shown], folder: Path) -> None:
    """Write texts.jsonl, and tokens.csv with the reward of every token but the end token."""
    rows: list[dict[str, object]] = []
    lines: list[list[object]] = [[*COLUMNS, "reward"]]
    for x in texts:
        marked = {} if x.marked is None else {"marked": list(x.marked)}
        said = {"row": x.row, "answer": x.answer, "prompt": x.prompt, "text": x.text}
        rows.append({**said, **marked})
        at = 0
        for position, (piece, reward) in enumerate(zip(x.pieces, x.rewards, strict=True)):
            start, at = at, at + len(piece)
            if start < at <= len(x.text):
                lines.append([x.row, x.answer, position, start, at, round(reward, 6)])
    write_rows(folder / "texts.jsonl", rows)
    write_text(folder / "tokens.csv", csv_text(lines))


def main() -> int:
    """Judge, print the table, and write what the figure is drawn from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discriminator", type=Path, required=True, help="its stage's folder")
    parser.add_argument("--answers", type=int, default=200, help="held-out reviews")
    parser.add_argument("--words", type=int, default=24, help="of each review")
    parser.add_argument("--shown", type=int, default=3, help="reviews in the figure, at most")
    parser.add_argument("--out", type=Path, help="folder for numbers and texts")
    given = parser.parse_args()
    reviews = answers(given.answers, given.words)
    said = [review.said for review in reviews]
    plain = judged([review.prompt for review in reviews], said, given.discriminator)
    texts = [shown(x, WRITTEN, x.said, None, plain, k) for k, x in enumerate(reviews)]
    rows: dict[str, dict[str, float]] = {}
    for name, fault in FAULTS.items():
        faulty = {k: made for k, text in enumerate(said) if (made := fault(text, said))}
        behind = [reviews[k].prompt for k in faulty]
        other = judged(behind, [made.text for made in faulty.values()], given.discriminator)
        before = [reward_of(plain, k, made.before) for k, made in faulty.items()]
        after = [reward_of(other, n, made.after) for n, made in enumerate(faulty.values())]
        test = paired_difference(after, before)
        x = test.difference
        rows[name] = {"n": x.n, "mean": x.mean, "low": x.low, "high": x.high, "p": test.p}
        interval = f"{x.mean:+.3f} [{x.low:+.3f}, {x.high:+.3f}]"
        print(f"{name}: {interval}, p = {test.p:.2g}, {x.n} reviews")
        for n, (k, made) in enumerate(faulty.items()):
            texts.append(shown(reviews[k], name, made.text, made.after, other, n))
    if given.out is not None:
        write_texts(kept_together(texts, given.shown), given.out)
        facts = {"discriminator": given.discriminator.name, "words": given.words}
        write_json(given.out / "faults.json", {"schema_version": 1, **facts, "faults": rows})
    return 0


def shown(
    review: Review, answer: str, text: str, marked: Span | None, credit: Credit, place: int
) -> Shown:
    """A text with what the discriminator pays to it, which stands at a place of `credit`."""
    said = credit.tokens[place], credit.rewards[place]
    return Shown(review.row, answer, review.prompt, text, marked, *said)


if __name__ == "__main__":
    sys.exit(main())
