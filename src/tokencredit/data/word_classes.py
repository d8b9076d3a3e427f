"""Classes of words by which effects of tokens are told apart, from a list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Final

from tokencredit.canonical import digest
from tokencredit.errors import UserError, require
from tokencredit.store.files import read_text

OTHER: Final = "other"
"""The class of what is in no list."""
PHRASE: Final = re.compile(r"[\w']+\*?(?: [\w']+\*?)*")
Span = tuple[int, int]
"""Characters of a text, the second not included."""


@dataclass(frozen=True, slots=True)
class WordClasses:
    """Words and phrases, in lower case, with the class of each; a star is any further letters."""

    classes: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """A hash of the list, in their order."""
        return digest(list(self.classes.items()))

    def found(self, text: str) -> Iterator[tuple[Span, str]]:
        """Every word or phrase of the list in a text, from left to right, and its class.

        None overlaps another; of those that begin at one place it is the longest. Neither capitals
        nor the form of an apostrophe count, and any white space may stand within a phrase.
        """
        ordered = sorted(self.classes, key=len, reverse=True)
        phrases = [
            re.escape(phrase).replace(r"\*", r"\w*").replace(r"\ ", r"\s+") for phrase in ordered
        ]
        pattern = "|".join(f"({phrase})" for phrase in phrases)
        either = re.compile(rf"(?<![\w'])(?:{pattern})(?![\w'])", re.IGNORECASE)
        for match in either.finditer(text.replace("’", "'")):
            assert match.lastindex is not None
            yield match.span(), self.classes[ordered[match.lastindex - 1]]

    def of_tokens(self, text: str, spans: Sequence[Span]) -> list[str]:
        """The class of each token, whose characters are given: that of the word or phrase of which
        it has a letter, the first if there are several; a token of white space alone is `OTHER`."""
        words, found = list(self.found(text)), []
        for start, end in spans:
            said = text[start:end]
            first = start + len(said) - len(said.lstrip())
            last = first + len(said.strip())
            own = (kind for (begin, stop), kind in words if first < stop and begin < last)
            found.append(next(own, OTHER) if first < last else OTHER)
        return found


def read_classes(path: Path) -> WordClasses:
    """The list in a file: lines of class and phrase with a tab between; # begins a remark.

    Raises `UserError` for a line of another form, and for a phrase that is there twice.
    """
    classes: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        kind, _, phrase = (part.strip().lower() for part in line.partition("\t"))
        if not kind or kind == OTHER or PHRASE.fullmatch(phrase) is None:
            raise UserError(
                f"{path}, line {number} = {line[:60]!r}: must be a class, not {OTHER!r}, and a "
                "word or phrase with a tab between, such as avoiding, tab, not sure"
            )
        if phrase in classes:
            raise UserError(f"{path}, line {number}: {phrase!r} is there twice; keep one line")
        classes[phrase] = kind
    require(bool(classes), "word classes", str(path), "holds no word; give lines of class and word")
    return WordClasses(classes)


@lru_cache(maxsize=1)
def shipped_classes() -> WordClasses:
    """The list that comes with the package, of answers to harmful requests."""
    return read_classes(Path(str(resources.files("tokencredit") / "assets" / "word_classes.tsv")))
