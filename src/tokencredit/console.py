"""Lines for the person who waits: remarks to standard error, answers to standard output.

Whatever the terminal, pipe, or file behind them can express, a line never ends a command.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from operator import call
from pathlib import Path
from typing import Final

from tokencredit.machine.faults import fault

PLAIN: Final = "tokencredit.plain"
"""The error handler that writes plain characters for those that an encoding lacks."""
LIKE: Final = {
    "→": "->", "←": "<-", "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "·": ".", "•": "*",
    "‘": "'", "’": "'", "“": '"', "”": '"', "±": "+/-", "≥": ">=", "≤": "<=", "≈": "~", "≠": "!=",
    "β": "beta", "γ": "gamma", "λ": "lambda", "μ": "u", "σ": "sigma", "Δ": "delta", "█": "#",
}  # fmt: skip
CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(0x7F, 0xA0))}
"""Control characters (C0, DEL, C1), which can move a cursor or end a line of a log."""
DIRECTIONS: Final = {
    code: f"<U+{code:04X}>"
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
"""Marks that change the order in which characters are shown, and are not shown themselves."""
ESCAPES: Final = {
    code: shown for code, shown in {**CONTROLS, **DIRECTIONS}.items() if chr(code) not in "\n\t"
}
BOXES: Final = range(0x2500, 0x2580)
BLOCKS: Final = range(0x2580, 0x25A0)
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE, as of other programs whose reader has gone."""
USER_ERROR: Final = 2
"""Exit code after a user's mistake, or a fault of the machine."""


def say(message: str) -> None:
    """Print one line to standard error, at once."""
    print(message, file=sys.stderr, flush=True)


@lru_cache
def say_once(message: str) -> None:
    """As `say`, the first time that this process has the same to say."""
    say(message)


def show(text: object = "", end: str = "\n") -> None:
    """Print an answer to standard output."""
    print(text, end=end)


def visible(text: str) -> str:
    r"""A model's text with escapes for what would act on a terminal or a page, unseen.

    Control characters become \x1b and the like, marks of direction <U+202E> and the like; line
    breaks and tabs stay.
    """
    return text.translate(ESCAPES)


@contextmanager
def speaking() -> Iterator[None]:
    """Run a command: its output fits any encoding, and a reader that is gone ends it quietly."""
    use_plain_characters()
    try:
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except BrokenPipeError:
        _write_nowhere(1, 2)
        sys.exit(BROKEN_PIPE)
    except OSError as error:  # standard output is a file on a full disk
        known = fault(error, Path("standard output"))
        if known is None:
            raise
        _write_nowhere(1)
        raise known from error


def use_plain_characters() -> None:
    """Open the three standard streams if they were closed, and let them write any character."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # otherwise the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error(PLAIN, plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


def plain(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, in plain ones: an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_alike, error.object[error.start : error.end])), error.end


def _alike(character: str) -> str:
    code = ord(character)
    if character in LIKE:
        return LIKE[character]
    if code in BOXES:
        return {"─": "-", "━": "-", "═": "-", "│": "|", "┃": "|", "║": "|"}.get(character, "+")
    if code in BLOCKS:
        return "#"
    simple = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return simple or "?"


def _write_nowhere(*descriptors: int) -> None:
    """Give what is still in the buffers nowhere to fail at when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in descriptors:
        with suppress(OSError):
            os.dup2(nowhere, number)


def aligned(rows: Sequence[Sequence[str]], *, gap: str = "  ", left: bool = False) -> list[str]:
    """Columns of equal width: the first to the left, all others to the right unless `left`.

    A row of one cell is a line of its own.
    """
    table = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    sides = [str.ljust, *[str.ljust if left else str.rjust] * len(widths)]
    placed = (row if len(row) == 1 else map(call, sides, row, widths) for row in rows)
    return [gap.join(cells).rstrip() for cells in placed]
