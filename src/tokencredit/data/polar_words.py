"""Words that praise or blame, each with its opposite: a reviser that needs no model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from tokencredit.errors import UserError
from tokencredit.store.files import read_text
from tokencredit.streams import integer, stream_key

NONE: Final = "-"
"""In a list, in place of an opposite that a word does not have."""
WORD: Final = re.compile(r"\w+(?:['’]\w+)*")
DENIED: Final = frozenset(
    ["not", "no", "never", "neither", "nor", "hardly", "barely", "scarcely", "without", "cannot"]
    + [f"{verb}n't" for verb in ("is", "was", "are", "were", "do", "does", "did", "wo", "would")]
    + [f"{verb}n't" for verb in ("ca", "could", "should", "ai", "has", "have", "had")]
)
"""Words that turn the meaning of the next one round; what they deny is left as it is."""
LINKS: Final = frozenset(
    ("a", "an", "the", "so", "too", "very", "that", "all", "at", "really", "as", "even")
)
"""Words between such a one and what it denies: `not a bad film`."""


@dataclass(frozen=True, slots=True)
class PolarWords:
    """A list of words that blame and of words that praise, in lower case."""

    classes: Mapping[str, str]
    """The class of every word that blames, such as `adjective`."""
    opposites: Mapping[str, str]
    """The opposite of a word that blames, for those that have one."""
    praise: Mapping[str, tuple[str, ...]]
    """The words that praise, by class, in the order of the list."""

    def better(self, text: str, key: int) -> str:
        """`text` with every word that blames replaced by one that praises.

        That is its opposite, or, for a word without one, a word of its class that `key`, of the
        record, and the place of the word decide. Capitals, punctuation, and what is denied (`not
        bad`) stay; `a` and `an` follow the new word. Without such a word, the text is as it was.
        """
        found, end = [], 0
        for place, (start, stop, word) in enumerate(self._blame(text)):
            new = self.opposites.get(word)
            if new is None:
                able = self.praise[self.classes[word]]
                new = able[integer(stream_key(key, "word", place), 0, len(able))]
            between, old = _article(text[end:start], new), text[start:stop]
            found += [between, _in_capitals_of(old, new)]
            end = stop
        return "".join([*found, text[end:]])

    def _blame(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end, and lower-case form of each word that blames and is not denied."""
        denied = False
        for match in WORD.finditer(text):
            word = match[0].lower().replace("’", "'")
            if word in self.classes and not denied:
                yield match.start(), match.end(), word
            denied = word in DENIED or (denied and word in LINKS)

    def marks(self, text: str) -> list[tuple[int, int]]:
        """The end of every word of the list in a text, and 1 where it praises, −1 where it blames.

        What is denied counts the other way round.
        """
        praise = {word for words in self.praise.values() for word in words}
        found, denied = [], False
        for match in WORD.finditer(text):
            word = match[0].lower().replace("’", "'")
            sign = (word in praise) - (word in self.classes)
            if sign:
                found.append((match.end(), -sign if denied else sign))
            denied = word in DENIED or (denied and word in LINKS)
        return found


def read_words(path: Path) -> PolarWords:
    """The list in a file: lines of class, blaming word, and praising word, with tabs between.

    A dash stands for a word that is missing; lines that begin with # are remarks. Raises
    `UserError` for a line of another form, a blaming word that comes twice or praises too, and one
    without an opposite in a class without a word that praises.
    """
    classes: dict[str, str] = {}
    opposites: dict[str, str] = {}
    praise: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip().lower() for part in line.split("\t")]
        if len(parts) != 3 or not all(parts) or not all(map(_one_word, parts[1:])):
            raise UserError(
                f"{path}, line {number} = {line[:60]!r}: must be class, blaming word, and praising "
                f"word with tabs between, {NONE} for a word that is missing"
            )
        kind, bad, good = parts
        if good != NONE and good not in praise.setdefault(kind, []):
            praise[kind].append(good)
        if bad != NONE:
            if bad in classes:
                raise UserError(f"{path}, line {number}: {bad!r} is there twice; keep one line")
            classes[bad] = kind
            opposites |= {bad: good} if good != NONE else {}
    _check(path, classes, opposites, praise)
    return PolarWords(classes, opposites, {kind: tuple(found) for kind, found in praise.items()})


def _one_word(part: str) -> bool:
    return part == NONE or WORD.fullmatch(part) is not None


def _check(
    path: Path,
    classes: Mapping[str, str],
    opposites: Mapping[str, str],
    praise: Mapping[str, Sequence[str]],
) -> None:
    for word, kind in classes.items():
        if any(word in words for words in praise.values()):
            raise UserError(f"{path}: {word!r} both blames and praises; leave one of them out")
        if word not in opposites and not praise.get(kind):
            raise UserError(f"{path}: {word!r} has no opposite, and no word of {kind!r} praises")
    if not classes:
        raise UserError(
            f"{path}: holds no word that blames; give lines such as adjective, bad, good"
        )


@lru_cache(maxsize=1)
def shipped_words() -> PolarWords:
    """The list that comes with the package."""
    return read_words(shipped_list())


def shipped_list() -> Path:
    """The file of that list."""
    return Path(str(resources.files("tokencredit") / "assets" / "polar_words.tsv"))


def by_list(
    prompts: Sequence[str],  # noqa: ARG001 - judges are called with them
    responses: Sequence[str],
    offsets: Sequence[Sequence[tuple[int, int]]],
) -> tuple[list[float], list[list[float]]]:
    """The shipped list as a judge: 1 for the token that ends a word that praises, −1 for one that
    ends a word that blames, and their sum as the score.

    A control for what is learnt from revisions by the list. For `judge=function`, with
    `judge.function=tokencredit.data.polar_words:by_list`.
    """
    scores, evidence = [], []
    for response, places in zip(responses, offsets, strict=True):
        own = [0.0] * len(places)
        for end, sign in shipped_words().marks(response):
            holds = [i for i, (start, stop) in enumerate(places) if start < end <= stop]
            for index in holds[-1:]:
                own[index] += sign
        evidence.append(own)
        scores.append(sum(own))
    return scores, evidence


_AN: Final = re.compile(r"\b(a)(n?)(\s+)\Z", re.IGNORECASE)


def _article(before: str, word: str) -> str:
    """What stands before a word, its indefinite article in the form that the word asks for."""
    after = "n" if word[0] in "aeio" or (word[0] == "u" and not word.startswith("us")) else ""
    silent = word.startswith("hon")  # honest, honour: the h is silent
    return _AN.sub(lambda found: f"{found[1]}{'n' if silent else after}{found[3]}", before)


def _in_capitals_of(old: str, new: str) -> str:
    """`new`, in capitals as `old` is: all of it, its first letter, or none."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new
