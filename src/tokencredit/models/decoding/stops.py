"""Stop strings: texts that end a response, however they are split over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

Decode = Callable[[list[int]], str]
"""From ids to text, e.g. `tokenizer.decode`."""
EDGE: Final = 4
"""Characters at the start of a piece of text that decoding from its middle may have garbled."""


class StopStrings:
    """Tells when the text of a response comes to hold one of some strings."""

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        """`strings`: none of them empty."""
        self.strings = tuple(strings)
        self.decode = decode
        self.reach = max(map(len, self.strings)) + EDGE

    def completed(self, ids: list[int]) -> bool:
        """Whether the last of `ids` completes a stop string. Asked after every token.

        Only the end of the response is decoded: enough tokens for the longest string to begin in
        front of the last one.
        """
        size = 2 * self.reach
        while size < len(ids) and len(self.decode(ids[-size:-1])) < self.reach:
            size *= 2
        text = self.decode(ids[-size:])
        return any(string in text for string in self.strings)
