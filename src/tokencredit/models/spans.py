"""Bytes as the common ground of two tokenizers: which token owns which, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

REPLACEMENT: Final = "\ufffd"
"""What is read in place of bytes that are no text."""


@dataclass(frozen=True, slots=True)
class Text:
    """What some bytes say; a run of bytes that is no UTF-8 reads as one U+FFFD."""

    string: str
    places: Int[ndarray, "C+1"]
    """The byte at which each character begins, and the one at which the last one ends."""
    broken: Bool[ndarray, "N"]
    """True for each byte that is no UTF-8."""

    @classmethod
    def of(cls, raw: bytes, start: int = 0) -> Self:
        """The text of `raw` from byte `start` on. Runs are those of Python's `errors="replace"`."""
        pieces: list[str] = []
        lengths: list[int] = []
        broken = np.zeros(len(raw), dtype=np.bool_)
        position = start
        while position < len(raw):
            good = after = len(raw)
            try:
                piece = raw[position:].decode()
            except UnicodeDecodeError as error:
                good, after = position + error.start, position + error.end
                piece = raw[position:good].decode()
            pieces.append(piece)
            lengths += byte_lengths(piece)
            if after > good:
                pieces.append(REPLACEMENT)
                lengths.append(after - good)
                broken[good:after] = True
            position = after
        return cls("".join(pieces), start + np.cumsum([0, *lengths]), broken)

    def at_characters(self, spans: Int[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Ranges of characters as ranges of the bytes that were read."""
        found: Float[ndarray, "n 2"] = self.places[spans].astype(np.float64)
        return found

    def at_bytes(self, spans: Int[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Ranges of the UTF-8 bytes of `string` as ranges of the bytes that were read.

        They differ behind a U+FFFD, whose three bytes stand for one to three others.
        """
        written = np.cumsum([0, *byte_lengths(self.string)])
        found: Float[ndarray, "n 2"] = np.interp(spans, written, self.places)
        return found


def byte_lengths(text: str) -> list[int]:
    """How many bytes UTF-8 needs for each character."""
    return [len(character.encode()) for character in text]


def consecutive(lengths: list[int], start: int = 0) -> Int[ndarray, "n 2"]:
    """The ranges of pieces that follow each other from `start` on."""
    ends = start + np.cumsum([0, *lengths])
    return np.stack([ends[:-1], ends[1:]], axis=1)


def shares(
    givers: Float[ndarray, "M 2"], takers: Float[ndarray, "N 2"], fallback: int
) -> Float[ndarray, "M N"]:
    """How each giver's mass is dealt to the takers: in proportion to the bytes they share.

    Every row sums to 1. A giver without bytes (or whose bytes nobody takes) deals as the next one
    that has some, else as the one before it; where none has, everything goes to taker `fallback`.
    """
    low = np.maximum(givers[:, None, 0], takers[None, :, 0])
    high = np.minimum(givers[:, None, 1], takers[None, :, 1])
    overlap = np.clip(high - low, 0.0, None)
    total = overlap.sum(axis=1, keepdims=True)
    owners = np.flatnonzero(total)
    if len(owners) == 0:
        return one_hot(len(givers), len(takers), fallback)
    following = np.searchsorted(owners, np.arange(len(givers)))
    chosen = owners[np.minimum(following, len(owners) - 1)]
    found: Float[ndarray, "M N"] = overlap[chosen] / total[chosen]
    return found


def one_hot(rows: int, columns: int, column: int) -> Float[ndarray, "M N"]:
    """Rows that give everything to one column."""
    found = np.zeros((rows, columns))
    found[:, column : column + 1] = 1.0
    return found


@dataclass(frozen=True, slots=True)
class Deal:
    """Shares that are mostly zero, as a list: at most as many entries as givers and takers."""

    givers: Int[ndarray, "K"]
    takers: Int[ndarray, "K"]
    parts: Float[ndarray, "K"]
    size: int
    """Number of takers."""

    @classmethod
    def by(cls, matrix: Float[ndarray, "M N"]) -> Self:
        """The entries of a matrix of shares."""
        givers, takers = np.nonzero(matrix)
        return cls(givers, takers, matrix[givers, takers], matrix.shape[1])

    def of(self, masses: Float[ndarray, "S"]) -> Float[ndarray, "N"]:
        """What every taker gets; masses behind the last giver are left alone."""
        dealt = masses[self.givers] * self.parts
        found: Float[ndarray, "N"] = np.bincount(self.takers, dealt, minlength=self.size)
        return found
