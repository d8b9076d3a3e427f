"""What a discriminator thinks of faults that are put into held-out answers by rule.

    python experiments/tlcr/heat_maps.py --discriminator store/discriminator/KEY

Yoon et al. 2024 show in their Figure 8 that their discriminator marks a wrong year and a wrong
name. Here each of some held-out reviews is judged as it is, with two letters of a word exchanged,
with two words said twice, and with a name or a number put in place of another. Printed is by how
much the reward of the changed words differs from that of the words that stood there, over all
reviews; and some of the reviews are drawn with every token in its colour.
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
from tokencredit.statistics.intervals import paired_difference
from tokencredit.store.files import write_json
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
    "wrong fact": wrong_fact,
}


def answers(count: int, words: int) -> tuple[list[str], list[str]]:
    """Prompts of seven words of held-out reviews, and so many of the words that follow."""
    records = chosen(["dataset=imdb"], []).config.dataset.read().parts["eval"]
    prompts: list[str] = []
    said: list[str] = []
    for record in records:
        parts = record.answer.split()
        if len(parts) >= 7 + words and len(prompts) < count:
            prompts.append(" ".join(parts[:7]))
            said.append(" " + " ".join(parts[7 : 7 + words]))
    return prompts, said


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


def main() -> int:
    """Judge, print the table, and write picture and numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discriminator", type=Path, required=True, help="its stage's folder")
    parser.add_argument("--answers", type=int, default=200, help="held-out reviews")
    parser.add_argument("--words", type=int, default=24, help="of each review")
    parser.add_argument("--shown", type=int, default=3, help="reviews in the picture, at most")
    parser.add_argument("--picture", type=Path, help="write the picture here, as SVG")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    given = parser.parse_args()
    prompts, said = answers(given.answers, given.words)
    plain = judged(prompts, said, given.discriminator)
    rows: dict[str, dict[str, float]] = {}
    shown: dict[int, list[str]] = {}
    for name, fault in FAULTS.items():
        faulty = {k: made for k, text in enumerate(said) if (made := fault(text, said))}
        texts = [made.text for made in faulty.values()]
        other = judged([prompts[k] for k in faulty], texts, given.discriminator)
        before = [reward_of(plain, k, made.before) for k, made in faulty.items()]
        after = [reward_of(other, n, made.after) for n, made in enumerate(faulty.values())]
        test = paired_difference(after, before)
        x = test.difference
        rows[name] = {"n": x.n, "mean": x.mean, "low": x.low, "high": x.high, "p": test.p}
        interval = f"{x.mean:+.3f} [{x.low:+.3f}, {x.high:+.3f}]"
        print(f"{name}: {interval}, p = {test.p:.2g}, {x.n} reviews")
        for k, made in list(faulty.items())[: given.shown]:
            shown.setdefault(k, [said[k]]).append(made.text)
    if given.picture is not None:
        behind = [prompts[k] for k, own in shown.items() for _ in own]
        texts = [text for own in shown.values() for text in own]
        judged(behind, texts, given.discriminator).save(given.picture)
    if given.out is not None:
        write_json(given.out, {"schema_version": 1, "words": given.words, "faults": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
