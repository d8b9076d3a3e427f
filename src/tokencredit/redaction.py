"""Secrets cut out of text, however a server or a library has spelled them.

Whoever is sent a key may send it back: as it is, or percent-encoded, escaped, in hexadecimal
digits, in Base64, and in the Base64 of a longer text that holds it, such as a header.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN: Final = "<key>"
SHORT: Final = 6
"""Secrets of fewer characters are cut out where they stand alone; they may be parts of words."""
SECRET_VARIABLE: Final = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
URL_VARIABLE: Final = re.compile(r"(?:_PROXY|_URL|_ENDPOINT|_INDEX)$", re.IGNORECASE)
SECRET_PARAMETER: Final = re.compile(r"key|token|secret|pass|auth|sig", re.IGNORECASE)
SHORTEST_OF_ENVIRONMENT: Final = 8
BREAK: Final = r"(?:\s|\\{1,4}[nr]){0,4}"
"""Between two characters of Base64: lines are wrapped."""
LETTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-")
CONTROLS: Final = {"\n": "n", "\r": "r", "\t": "t"}


@dataclass(frozen=True, slots=True)
class Secrets:
    """Texts that must not be kept or shown, and what stands in their place."""

    names: Mapping[str, str]
    """By the secret: what is written for it, without backslashes."""

    def redact(self, text: str) -> str:
        """`text` without the secrets, in every spelling; the longest secrets first."""
        for secret in sorted(self.names, key=len, reverse=True):
            name = self.names[secret]
            plain, packed = _patterns(secret)
            text = _without(packed, plain.sub(name, text), name)
        return text


def secrets_of(values: Iterable[str], name: str = HIDDEN) -> Secrets:
    """The values that are not empty, all shown as `name`."""
    return Secrets({value: name for value in values if value})


def secrets_of_url(url: str) -> list[str]:
    """What a URL holds that is secret: `user:password`, as it stands and decoded, the password
    alone, and parameters of its query that are named like keys.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL
        return []
    user, given, password = parts.netloc.rpartition("@")[0].partition(":")
    found = [f"{user}:{password}", password] if given and password else [user]
    found += [value for name, value in parse_qsl(parts.query) if SECRET_PARAMETER.search(name)]
    return [value for value in dict.fromkeys([*found, *map(unquote, found)]) if value]


def redacted(text: str) -> str:
    """`text` without the secrets that the environment holds, each shown as its variable's name."""
    names: dict[str, str] = {}
    for variable, value in os.environ.items():
        if SECRET_VARIABLE.search(variable) and len(value) >= SHORTEST_OF_ENVIRONMENT:
            names[value] = f"${variable}"
        elif URL_VARIABLE.search(variable) and "@" in value:
            names |= dict.fromkeys(secrets_of_url(value), f"${variable}")
    return Secrets(names).redact(text)


@lru_cache(maxsize=64)
def _patterns(secret: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds a secret spelled character by character, and what finds it in Base64."""
    data = secret.encode("utf-8", "surrogatepass")
    spelled = "".join(f"(?:{'|'.join(_spellings(character))})" for character in secret)
    digits = r"[:\s-]?".join(f"{byte:02x}" for byte in data)
    plain = f"{spelled}|(?i:{digits})|{re.escape(base64.b32encode(data).decode().rstrip('='))}"
    packed = "|".join(BREAK.join(map(_in_base64, chunk)) for chunk in _chunks(data))
    if len(secret) < SHORT:
        plain, packed = rf"(?<!\w)(?:{plain})(?!\w)", rf"(?<![\w+/])(?:{packed})(?![\w+/])"
    return re.compile(plain), re.compile(packed)


def _spellings(character: str) -> Iterator[str]:
    """A character as it is, escaped in JSON or Python, percent-encoded (once or more), in HTML."""
    code, backslashes = ord(character), r"\\{1,8}"
    yield re.escape(character) if character.isalnum() else rf"\\{{0,8}}{re.escape(character)}"
    data = character.encode("utf-8", "surrogatepass")
    yield "".join(f"%(?:25){{0,4}}(?i:{byte:02x})" for byte in data)
    units = character.encode("utf-16-be", "surrogatepass")
    yield "".join(f"{backslashes}u(?i:{units[k : k + 2].hex()})" for k in range(0, len(units), 2))
    yield "".join(f"{backslashes}x(?i:{byte:02x})" for byte in data)
    yield f"&#0*{code};|&#[xX]0*(?i:{code:x});"
    if character in CONTROLS:
        yield backslashes + CONTROLS[character]
    if html.escape(character) != character:
        yield re.escape(html.escape(character))
    if character == " ":
        yield r"\+"


def _chunks(data: bytes) -> Iterator[str]:
    """The letters of Base64 that are the same whatever stands before and behind the data; of short
    data, whose few letters could be anything's, those of the data alone.
    """
    if len(data) < SHORT:
        yield base64.b64encode(data).decode().rstrip("=")
        return
    for offset in range(3):
        letters = base64.b64encode(bytes(offset) + data).decode()
        yield letters[(offset * 8 + 5) // 6 : (offset + len(data)) * 8 // 6]


def _in_base64(letter: str) -> str:
    """A letter of Base64 in its usual and its URL-safe alphabet, escaped or not."""
    if letter == "+":
        return r"(?:[+-]|%(?:25){0,4}2[bB]|\\{1,8}u002[bB])"
    return r"(?:\\{0,8}[/_]|%(?:25){0,4}2[fF]|\\{1,8}u002[fF])" if letter == "/" else letter


def _without(packed: re.Pattern[str], text: str, name: str) -> str:
    """`text` with the whole Base64 around each match replaced."""
    kept, end = [], 0
    for found in packed.finditer(text):
        start, stop = found.span()
        while start > end and text[start - 1] in LETTERS:
            start -= 1
        while stop < len(text) and text[stop] in LETTERS:
            stop += 1
        if start >= end:
            kept += [text[end:start], name]
        end = max(end, stop)
    return "".join([*kept, text[end:]])
