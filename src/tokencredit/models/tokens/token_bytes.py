"""From ids to the bytes that each of them wrote, whatever kind of tokenizer they are of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from tokencredit.models.tokens.spans import REPLACEMENT, Text, byte_lengths, consecutive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")
"""A piece that stands for one byte, in vocabularies with byte fallback."""
SPACE: Final = "\u2581"
"""What stands for a space in vocabularies of pieces."""


def _stand_ins() -> dict[str, int]:
    """The printable characters that stand for the 256 bytes in byte-level vocabularies."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {chr(byte): byte for byte in printable}
    return names | {chr(256 + n): byte for n, byte in enumerate(others)}


STAND_INS: Final = _stand_ins()


@dataclass(frozen=True, slots=True)
class Written:
    """What a sequence of ids says, and who wrote which byte of it."""

    text: Text
    spans: Int[ndarray, "N 2"]
    """The range of bytes that each id wrote; special tokens wrote none."""
    sure: Bool[ndarray, "N"]
    """False where an id's bytes are no text, or cannot be told from its neighbours'."""


class TokenBytes:
    """Reads ids of one vocabulary.

    Byte-level vocabularies and those of pieces (with or without byte fallback) name the bytes of
    each token. With any other, ids are decoded prefix by prefix, and a token owns the characters by
    which it makes the text longer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """The kind of vocabulary follows from the tokenizer's decoder."""
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.added: dict[int, bytes] = {i: token.content.encode() for i, token in added.items()}
        named = {index for index, token in added.items() if token.special}
        self.special = named | set(tokenizer.all_special_ids)
        self.parts = {part["type"]: part for part in _decoders(tokenizer)}
        self.byte_level = "ByteLevel" in self.parts and self.parts.keys() <= {"ByteLevel", "Fuse"}
        self.exact = self.byte_level or self._has_pieces()
        self.lead = 0 if self.byte_level else self._stripped()
        self._known: dict[int, bytes] = {}

    def of(self, index: int) -> bytes:
        """The bytes of a token of an exact vocabulary; none for a special token."""
        if index not in self._known:
            self._known[index] = b"" if index in self.special else self._bytes(index)
        return self._known[index]

    def read(self, ids: list[int]) -> Written:
        """The text of `ids`, special tokens left out, and the owners of its bytes."""
        if not self.exact:
            return self._read_prefixes(ids)
        pieces = [self.of(index) for index in ids]
        raw = b"".join(pieces)
        # The space in front of the first word is the tokenizer's own; decoding takes it back.
        text = Text.of(raw, self.lead if raw.startswith(b" ") else 0)
        spans = consecutive(list(map(len, pieces)))
        broken = np.cumsum([0, *text.broken])[spans]
        return Written(text, spans, broken[:, 0] == broken[:, 1])

    def _read_prefixes(self, ids: list[int]) -> Written:
        whole = self._decode(ids)
        ends: list[int] = []
        sure: list[bool] = []
        for count in range(1, len(ids) + 1):
            prefix = self._decode(ids[:count]).rstrip(REPLACEMENT)
            known = whole.startswith(prefix)
            end = len(prefix) if known else _shared(prefix, whole)
            ends.append(max(end, ends[-1] if ends else 0))
            sure.append(known)
        real = [place for place, index in enumerate(ids) if index not in self.special]
        if real:  # what only ever shows up at the end is the last token's
            ends[real[-1] :] = [len(whole)] * (len(ends) - real[-1])
        places = np.cumsum([0, *byte_lengths(whole)])
        starts = [0, *ends][: len(ends)]
        sure = [
            known and REPLACEMENT not in whole[start:end]
            for known, start, end in zip(sure, starts, ends, strict=True)
        ]
        spans = places[np.array([starts, ends], dtype=np.int64).T.reshape(-1, 2)]
        return Written(Text.of(whole.encode()), spans, np.array(sure, dtype=np.bool_))

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _bytes(self, index: int) -> bytes:
        if index in self.added:
            return self.added[index]
        token = self.tokenizer.convert_ids_to_tokens(index)
        if not isinstance(token, str):  # a spare row of the embedding, which has no name
            return b""
        if self.byte_level:
            known = [STAND_INS.get(character) for character in token]
            return token.encode() if None in known else bytes(b for b in known if b is not None)
        byte = BYTE.fullmatch(token) if "ByteFallback" in self.parts else None
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()

    def _has_pieces(self) -> bool:
        known = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
        replaced = self.parts.get("Replace", {})
        spaces = (replaced.get("pattern"), replaced.get("content")) == ({"String": SPACE}, " ")
        metaspace = self.parts.get("Metaspace", {}).get("replacement") == SPACE
        return self.parts.keys() <= known and (spaces or metaspace)

    def _stripped(self) -> int:
        """How many spaces decoding takes away at the very start."""
        scheme = self.parts.get("Metaspace", {}).get("prepend_scheme", "never")
        return int(scheme != "never" or self.parts.get("Strip", {}).get("start", 0) > 0)


def _shared(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _decoders(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """The steps of a fast tokenizer's decoder; none if it has no decoder."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return []
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    steps: list[dict[str, Any]] = state["decoders"] if state["type"] == "Sequence" else [state]
    return steps
