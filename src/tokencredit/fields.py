"""What a field says beyond its type and default: that it came later (`added`), that it had another
name (`named`), which numbers it takes (`number`); and what a class says of fields that are gone
(`retired`).

The helpers nest: `named("warmup_share", number(0.0, at_least=0, below=1))`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast, overload

from tokencredit.errors import require

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NEUTRAL: Final = "neutral"
NAMED: Final = "named"
BOUNDS: Final = "bounds"
FORMER: Final = "__former_names__"
RETIRED: Final = "__retired_fields__"
Kind = TypeVar("Kind", bound=type)


def added(neutral: object) -> Any:
    """A dataclass field that came later than the first keys, with its default.

    While it has this value it is left out of the canonical form, so results that were made before
    the field existed keep their keys. The value must mean "as before", whatever a default becomes.
    """
    value = default_of(neutral) if isinstance(neutral, Field) else neutral
    return _field(neutral, {NEUTRAL: value})


@overload
def named(first: str, default: object, *, between: Sequence[str] = ()) -> Any: ...
@overload
def named(first: str, *, between: Sequence[str] = ()) -> Callable[[Kind], Kind]: ...
def named(first: str, default: object = MISSING, *, between: Sequence[str] = ()) -> Any:
    """A field, or as a decorator a class, that was called `first` when its first results were kept.

    Keys of results still hold that name, and files that hold it can be read; whoever types it is
    told today's name. `between`: further names that it had since.
    """
    names = (first, *between)
    if default is not MISSING:
        return _field(default, {NAMED: names})

    def rename(kind: Kind) -> Kind:
        setattr(kind, FORMER, names)
        return kind

    return rename


def retired(name: str, value: object) -> Callable[[Kind], Kind]:
    """A decorator for a class that had a field `name`, of which only `value` could still be used.

    Keys of results still hold both, and files that hold them can be read; another value, and anyone
    who types the name, is told that it is gone. `value` may be a field of the other helpers: then
    it has the names, and the value that was left out of keys, that it had as a field.
    """

    def retire(kind: Kind) -> Kind:
        setattr(kind, RETIRED, {**vars(kind).get(RETIRED, {}), name: _field(value, {})})
        return kind

    return retire


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Which numbers a field takes. A value of null is a matter of its type, and passes."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    null: str | None = None
    """What null means; empty where nothing need be said of it, None where there is no null."""
    note: str = ""
    """A unit, or what an end of the range means: printed after it."""

    def hold(self, value: float) -> bool:
        """Whether the number is allowed; one that is not a number never is."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def rule(self) -> str:
        """What the number must be, as an error says it."""
        alone = self.null is None and self._range().startswith(("in ", "between "))
        return f"must {'lie' if alone else 'be'} {self.allowed()}"

    def allowed(self) -> str:
        """The bounds as a phrase: "null (no clipping) or > 0"."""
        null = f"null ({self.null}) or " if self.null else "" if self.null is None else "null or "
        gap = " " if self.note and self.note[0] not in ":;," else ""
        return f"{null}{self._range()}{gap}{self.note}"

    def _range(self) -> str:
        if self.above is not None and self.below is not None:
            return f"between {self.above} and {self.below}"
        if self.at_least is not None and self.below is not None:
            return f"in [{self.at_least}, {self.below})"
        if self.at_least is not None and self.at_most is not None:
            return f"in [{self.at_least}, {self.at_most}]"
        ends = {">": self.above, ">=": self.at_least, "<": self.below, "<=": self.at_most}
        return " and ".join(f"{sign} {end}" for sign, end in ends.items() if end is not None)


def number(default: object, **bounds: Any) -> Any:
    """A dataclass field of a number, with its default and the `Bounds` that it must keep."""
    return _field(default, {BOUNDS: Bounds(**bounds)})


class Settings:
    """The base of components and their parts: their numbers are checked when one is made.

    A class with a `__post_init__` of its own calls `Settings.__post_init__(self)` first.
    """

    __slots__ = ()
    section: ClassVar[str] = ""
    """Where a configuration holds it, for messages: a prefix, or a form with {0} for the name."""

    def __post_init__(self) -> None:
        """Raise `UserError` for a number out of its bounds."""
        check_bounds(cast("DataclassInstance", self))


def check_bounds(settings: DataclassInstance) -> None:
    """Raise `UserError` unless every number of a dataclass keeps the bounds of its field."""
    for item in fields(settings):
        bounds, value = bounds_of(type(settings), item), getattr(settings, item.name)
        if bounds is not None and value is not None:
            require(bounds.hold(value), key_of(settings, item.name), value, bounds.rule())


def key_of(settings: object, name: str) -> str:
    """The whole key of a field, as errors say it."""
    section = getattr(settings, "section", "")
    form = section if "{" in section else f"{section}.{{0}}" if section else "{0}"
    return str(form.format(name))


def check_all_bounds(settings: object) -> None:
    """As `check_bounds`, and of its parts: for classes of plug-ins that do not ask themselves."""
    if is_dataclass(settings) and not isinstance(settings, type):
        check_bounds(settings)
        for item in fields(settings):
            check_all_bounds(getattr(settings, item.name))


def default_of(item: Field[object]) -> object:
    """The default of a field, made anew where it is made."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def bounds_of(kind: type, item: Field[object]) -> Bounds | None:
    """The bounds of a field of `kind`; one that has another default keeps those of its base."""
    return cast("Bounds | None", _said(kind, item, BOUNDS))


def former_names(kind: type, item: Field[object] | None = None) -> tuple[str, ...]:
    """The names that a class, or a field of it, had before; a class does not inherit its own."""
    found = vars(kind).get(FORMER) if item is None else _said(kind, item, NAMED)
    return cast("tuple[str, ...]", found or ())


def first_name(kind: type, item: Field[object] | None = None) -> str:
    """What keys of results call a class, or a field of it."""
    return (*former_names(kind, item), kind.__name__ if item is None else item.name)[0]


def _said(kind: type, item: Field[object], what: str) -> object:
    """What the declaration of a field says, or else that of a base of the same name."""
    for base in kind.__mro__:
        found = vars(base).get("__dataclass_fields__", {}).get(item.name)
        if found is not None and what in found.metadata:
            return found.metadata[what]
    return None


def retired_fields(kind: type) -> dict[str, Field[object]]:
    """The fields that a class, or a base of it, no longer has, by the last of their names."""
    found: dict[str, Field[object]] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get(RETIRED, {})
    return found


def names_of_retired(last: str, item: Field[object]) -> tuple[str, ...]:
    """All names of a retired field, that of the keys first."""
    return (*item.metadata.get(NAMED, ()), last)


def left_out(item: Field[object], value: object) -> bool:
    """Whether a field of this value is no part of a key."""
    return NEUTRAL in item.metadata and bool(value == item.metadata[NEUTRAL])


def what_became_of(kind: type, name: str) -> str | None:
    """What to tell whoever types a former name of a field of `kind`; None if it never had it."""
    for item in fields(kind):
        if name in former_names(kind, item):
            return f"is called {item.name!r} now"
    for last, item in retired_fields(kind).items():
        if name in names_of_retired(last, item):
            return "was retired; leave it out"
    return None


def in_present_names(form: object) -> object:
    """A canonical form, as a key or a manifest holds it, with today's names of classes and fields.

    Of classes that derive from `Settings`, whose module is imported.
    """
    return _renamed(form, {first_name(kind): kind for kind in _derived(Settings)})


def _renamed(form: object, kinds: Mapping[str, type]) -> object:
    if isinstance(form, list):
        return [_renamed(item, kinds) for item in form]
    if not isinstance(form, Mapping):
        return form
    kind = kinds.get(str(form.get("class")))
    names: dict[str, str] = {}
    if kind is not None:
        names = {first_name(kind, item): item.name for item in fields(kind)}
    found = {names.get(key, key): _renamed(value, kinds) for key, value in form.items()}
    return found if kind is None else {**found, "class": kind.__name__}


def _derived(base: type) -> Iterator[type]:
    derived: list[type] = base.__subclasses__()
    for kind in derived:
        if is_dataclass(kind):
            yield kind
        yield from _derived(kind)


def _field(given: object, metadata: Mapping[str, object]) -> Any:
    """A field with more metadata, of the same default; or with `given` as its default."""
    if isinstance(given, Field):
        metadata = {**given.metadata, **metadata}
        if given.default_factory is not MISSING:
            return field(default_factory=given.default_factory, metadata=metadata)
        return field(default=given.default, metadata=metadata)
    if isinstance(given, list | dict):
        return field(default_factory=lambda: copy.deepcopy(given), metadata=metadata)
    return field(default=given, metadata=metadata)


def field_names(component: object) -> list[str]:
    """The keys a component has."""
    return [item.name for item in fields(component)]  # type: ignore[arg-type]
