"""Figures of pairs of answers in colours, whose texts lie in a data set apart from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final, Self

from tokencredit.errors import require
from tokencredit.papers.answers import chosen_rows
from tokencredit.papers.token_maps import Place, Text, Token, TokenMap

DATA: Final = "TOKENCREDIT_DATA"
"""Environment variable with the folder of data sets."""


@dataclass(slots=True, kw_only=True)
class PairMap(TokenMap):
    """Both answers of a few pairs. `texts` is a file of pairs below $TOKENCREDIT_DATA, which
    somebody else reads (`with_texts`): the numbers name rows of the data and hold no text."""

    kind: ClassVar[str] = "pair_map"

    rows: int = 4
    """How many pairs are shown: those whose rows have the smallest hashes."""
    given: Sequence[Mapping[Place, Text]] = field(default=(), init=False)
    """What each answer says, in every way of reading the file; none where nobody has read it."""
    file: Path = field(default=Path(), init=False)
    """Where they were read."""

    def __post_init__(self) -> None:
        """Check how many there are to be."""
        TokenMap.__post_init__(self)
        require(self.rows >= 1, "rows", self.rows, "must be >= 1")

    def with_texts(self, readings: Sequence[Mapping[Place, Text]], file: Path) -> Self:
        """The same, with what each answer says in a file of pairs, in every way of reading it."""
        found = replace(self)
        found.own, found.given, found.file = self.own, readings, file
        return found

    def place(self, folder: Path) -> tuple[Path, str]:
        """Where the texts lie, and what to do where they are not those of the numbers."""
        del folder
        return self.file, f"name the pairs that {self.numbers} was made of (--texts FILE)"

    def fits(self, text: str, end: int) -> bool:
        """Numbers are those of whole answers, of which no token is the white space at the end."""
        return len(text.rstrip()) <= end <= len(text)

    def missing(self, folder: Path) -> str:
        """What is not there, numbers or texts, and what helps; empty where both are."""
        if not (folder / self.numbers).is_file():
            return f"there is no {self.numbers}; `{self.fills}` writes it"
        if not self.given:
            return (
                f"its texts are not kept here; name the folder of the data, {DATA}=…, in which "
                f"{self.texts} lies, or the file of pairs, --texts FILE"
            )
        return ""

    def said(self, folder: Path) -> Mapping[Place, Text]:
        """What each answer of the data says, in the reading that the numbers are of: the first that
        fits them, or of none, which is refused, the first."""
        ends = {place: own[-1].span[1] for place, own in self.tokens(folder / self.numbers).items()}

        def fits(texts: Mapping[Place, Text]) -> bool:
            return all(p in texts and self.fits(texts[p].text, end) for p, end in ends.items())

        return next(filter(fits, self.given), self.given[0])

    def tokens(self, path: Path) -> dict[Place, list[Token]]:
        """The tokens of both answers of the pairs that are shown."""
        found = TokenMap.tokens(self, path)
        by_answer: dict[str, dict[int, list[Token]]] = {}
        for (row, answer), tokens in found.items():
            by_answer.setdefault(answer, {})[row] = tokens
        shown = set(chosen_rows(by_answer, self.rows))
        return {place: tokens for place, tokens in found.items() if place[0] in shown}

    def remarks(self, folder: Path) -> list[str]:
        """What the colours mean, and how the pairs were chosen."""
        chosen = f"of all pairs these {self.rows} have the rows of the smallest hashes"
        return [*TokenMap.remarks(self, folder), f"{chosen}; nobody has chosen among them"]
