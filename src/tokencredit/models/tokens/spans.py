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
    if text.isascii():
        return [1] * len(text)
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
    """Who gives which part of its mass to whom."""

    givers: Int[ndarray, "K"]
    takers: Int[ndarray, "K"]
    parts: Float[ndarray, "K"]
    """The parts of each giver sum to 1."""
    size: int
    """Number of takers."""

    @classmethod
    def by_bytes(
        cls, givers: Float[ndarray, "M 2"], takers: Int[ndarray, "N 2"], fallback: int
    ) -> Self:
        """To each taker in proportion to the bytes that a giver shares with it.

        `takers` follow each other without gaps. A giver without bytes (or whose bytes nobody takes)
        deals as the next one that has some, else as the one before it; where none has, everything
        goes to taker `fallback`.
        """
        held = _held(givers, takers)
        if len(held) == 0:
            nobody = np.arange(0)
            return cls(nobody, nobody, np.zeros(0), len(takers)).plus(len(givers), fallback, 0)
        first = np.searchsorted(takers[:, 1], held[:, 0], side="right")
        counts = np.searchsorted(takers[:, 0], held[:, 1], side="left") - first
        giver = np.repeat(np.arange(len(held)), counts)
        taker = np.arange(len(giver)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        low = np.maximum(held[giver, 0], takers[taker, 0])
        high = np.minimum(held[giver, 1], takers[taker, 1])
        parts = (high - low) / (held[giver, 1] - held[giver, 0])
        shared = parts > 0  # a taker without bytes may stand among the others
        return cls(giver[shared], taker[shared], parts[shared], len(takers))

    def plus(self, count: int, taker: int, start: int) -> Self:
        """These shares, with `count` givers from number `start` on that give all to one taker."""
        givers = np.concatenate([self.givers, start + np.arange(count)])
        takers = np.concatenate([self.takers, np.full(count, taker)])
        return type(self)(givers, takers, np.concatenate([self.parts, np.ones(count)]), self.size)

    def of(self, masses: Float[ndarray, "S"]) -> Float[ndarray, "N"]:
        """What every taker gets; masses behind the last giver are left alone."""
        dealt = masses[self.givers] * self.parts
        found: Float[ndarray, "N"] = np.bincount(self.takers, dealt, minlength=self.size)
        return found


def _held(givers: Float[ndarray, "M 2"], takers: Int[ndarray, "N 2"]) -> Float[ndarray, "K 2"]:
    """The range by which each giver deals, which is never empty; no ranges if nobody has one."""
    low, high = (takers[0, 0], takers[-1, 1]) if len(takers) else (0, 0)
    held = givers.clip(low, high)
    owners = np.flatnonzero(held[:, 1] > held[:, 0])
    if len(owners) == 0:
        return held[:0]
    following = np.searchsorted(owners, np.arange(len(givers)))
    return held[owners[np.minimum(following, len(owners) - 1)]]
