"""Canonical form, hash, and differences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from pathlib import Path

import pytest

from tokencredit.canonical import (
    canonical,
    differences,
    digest,
    file_sha256,
    flatten,
    folder_sha256,
)
from tokencredit.fields import added


class Colour(str, Enum):
    red = "red"


@dataclass(slots=True, kw_only=True)
class Inner:
    size: int = 2
    colour: Colour = Colour.red


@dataclass(slots=True, kw_only=True)
class Outer:
    rate: float = 0.5
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    inner: Inner = field(default_factory=Inner)
    nothing: int | None = None


@dataclass(slots=True, kw_only=True)
class Twin:
    size: int = 2
    colour: Colour = Colour.red


def test_canonical_form_is_plain() -> None:
    assert canonical(Outer()) == {
        "class": "Outer",
        "rate": 0.5,
        "names": ["a", "b"],
        "inner": {"class": "Inner", "size": 2, "colour": "red"},
        "nothing": None,
    }


def test_digest_is_the_hash_of_sorted_json() -> None:
    text = b'{"a":[1,2.5],"b":null}'
    assert digest({"b": None, "a": (1, 2.5)}) == hashlib.sha256(text).hexdigest()[:16]


def test_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    values = [
        Outer(),
        Outer(rate=0.6),
        Outer(names=["b", "a"]),
        Inner(),
        Twin(),
        {"a": 1},
        {"a": 1.5},
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_what_has_no_canonical_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="PosixPath"):
        canonical({"path": Path("x")})
    with pytest.raises(ValueError, match="JSON"):
        digest({"loss": float("nan")})


def test_leaves_and_differences() -> None:
    old = canonical(Outer())
    new = canonical(Outer(rate=0.7, inner=Inner(size=3)))
    assert flatten(old)["inner.size"] == 2
    assert differences(old, new) == ["inner.size: 2 → 3", "rate: 0.5 → 0.7"]
    assert differences(old, old) == []
    assert differences({"a": 1}, {"b": None}) == ["a: 1 → (absent)", "b: (absent) → None"]


def test_checksums_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x").write_bytes(b"abc")
    (tmp_path / "y").write_bytes(b"")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_sha256(tmp_path / "sub" / "x") == abc
    assert folder_sha256(tmp_path) == {"sub/x": abc, "y": empty}


@dataclass(slots=True, kw_only=True)
class Before:
    size: int = 3


def test_a_field_that_came_later_changes_no_key_while_it_means_as_before() -> None:
    after = make_dataclass(
        "Before", [("size", int, 3), ("extra", list, added([])), ("n", int, added(1))]
    )
    assert digest(after()) == digest(Before())
    assert digest(after(extra=[2])) != digest(Before()) and digest(after(n=2)) != digest(Before())
    assert digest(after(size=4)) != digest(Before())
    assert after().extra is not after().extra
