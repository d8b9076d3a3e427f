"""Fields and classes that came later, were renamed, or are gone: keys stay, and old files are read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tokencredit import config as configuration
from tokencredit.algorithms.optimizer import Schedule
from tokencredit.algorithms.ppo import PPO
from tokencredit.canonical import canonical, differences, digest
from tokencredit.commands.reference import sections
from tokencredit.errors import UserError
from tokencredit.fields import Settings, added, bounds_of, in_present_names, named, number, retired
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.store.versions import bring_up_to_date


class Colour(str, Enum):
    red = "the red one"
    blue = "the blue one"


@dataclass(slots=True, kw_only=True)
class Small:
    rate: float = 0.5
    colour: Colour = Colour.red


@dataclass(slots=True, kw_only=True)
class Old:
    pace: float = 0.5
    tint: Colour = Colour.red
    part: Small = field(default_factory=Small)
    mode: Colour = Colour.blue
    names: list[str] = field(default_factory=lambda: ["a"])


@named("Small")
@dataclass(slots=True, kw_only=True)
class Part(Settings):
    speed: float = named("rate", number(0.5, above=0))
    colour: Colour = Colour.red


@retired("names", ["a"])
@retired("mode", Colour.blue)
@named("Old", between=["Middle"])
@dataclass(slots=True, kw_only=True)
class New(Settings):
    speed: float = named("pace", number(0.5, above=0), between=["tempo"])
    shade: Colour = named("tint", Colour.red)
    part: Part = field(default_factory=Part)
    later: int = added(named("soon", number(3, at_least=1)))


def test_renamed_and_retired_fields_and_classes_keep_their_keys() -> None:
    assert canonical(New()) == canonical(Old())
    assert digest(New()) == digest(Old())
    changed = Old(pace=2.0, tint=Colour.blue, part=Small(rate=7.0))
    assert digest(New(speed=2.0, shade=Colour.blue, part=Part(speed=7.0))) == digest(changed)
    assert digest(New(speed=2.0)) != digest(Old()) != digest(Old(mode=Colour.red))
    assert canonical(New(later=4)) == {**canonical(Old()), "soon": 4}  # type: ignore[dict-item]


def test_a_subclass_inherits_what_is_retired_and_not_the_former_name() -> None:
    own = make_dataclass("Own", [], bases=(New,), slots=True, kw_only=True)
    assert canonical(own()) == {**canonical(Old()), "class": "Own"}  # type: ignore[dict-item]


def test_a_retired_field_that_came_later_is_no_part_of_a_key() -> None:
    kind = make_dataclass("Old", [("pace", float, 0.5)])
    gone = retired("extra", added(named("further", None)))(make_dataclass("Old", kind_fields(kind)))
    assert digest(gone()) == digest(kind())
    other = retired("extra", named("further", 1))(make_dataclass("Old", kind_fields(kind)))
    assert canonical(other()) == {"class": "Old", "pace": 0.5, "further": 1}


def kind_fields(kind: type) -> list[tuple[str, type, Any]]:
    return [(item.name, float, item.default) for item in kind.__dataclass_fields__.values()]


def read_as(kind: type, **given: object) -> Any:
    """What a file that holds `given` is read as."""
    schema, tree = OmegaConf.structured(kind), OmegaConf.create(given)
    bring_up_to_date(schema, tree)
    return OmegaConf.to_object(OmegaConf.merge(schema, tree))


def plain(value: object) -> dict[str, Any]:
    found: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(value), enum_to_str=True)  # type: ignore[assignment]
    return found


def test_a_file_of_any_time_is_read() -> None:
    old = Old(pace=2.0, tint=Colour.blue, part=Small(rate=7.0))
    new = New(speed=2.0, shade=Colour.blue, part=Part(speed=7.0))
    assert plain(old)["mode"] == "blue"
    assert read_as(New, **plain(old)) == new
    assert read_as(New, **plain(new)) == new
    between = {k: v for k, v in plain(new).items() if k != "speed"} | {"tempo": 2.0, "soon": 5}
    del between["later"]
    assert read_as(New, **between) == New(
        speed=2.0, shade=Colour.blue, part=Part(speed=7.0), later=5
    )


def test_a_file_with_another_value_of_a_retired_field_is_refused() -> None:
    with pytest.raises(UserError, match="mode = 'red': this setting was retired, and only 'blue'"):
        read_as(New, **plain(Old(mode=Colour.red)))
    with pytest.raises(UserError, match=r"part\.names = .*retired"):
        schema = OmegaConf.structured(New)
        bring_up_to_date(schema, OmegaConf.create(plain(Old(names=["b"]))), "part.")


def test_a_file_that_lacks_a_renamed_field_is_refused() -> None:
    given = {k: v for k, v in plain(Old()).items() if k != "pace"}
    with pytest.raises(UserError, match="speed: is missing"):
        read_as(New, **given)


def test_differences_are_told_in_todays_names() -> None:
    old, new = canonical(Old()), canonical(New(speed=3.0, part=Part(speed=1.0)))
    assert differences({"x": old}, {"x": new}) == [
        "x.part.speed: 0.5 → 1.0",
        "x.speed: 0.5 → 3.0",
    ]
    assert in_present_names([old])[0]["class"] == "New"  # type: ignore[index]
    assert in_present_names({"class": "Stranger", "pace": 1}) == {"class": "Stranger", "pace": 1}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Part(speed=0.0), "speed = 0.0: must be > 0"),
        (lambda: New(later=0), "later = 0: must be >= 1"),
        (lambda: New(speed=float("nan")), "speed = nan: must be > 0"),
    ],
)
def test_bounds_are_kept_where_a_dataclass_is_made(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "rule"),
    [
        ({"above": 0, "below": 1}, [0.5], [0, 1], "must lie between 0 and 1"),
        ({"at_least": 0, "below": 0.5}, [0, 0.4], [-0.1, 0.5], "must lie in [0, 0.5)"),
        ({"at_least": 0, "at_most": 1}, [0, 1], [-1, 1.1], "must lie in [0, 1]"),
        (
            {"above": 0, "at_most": 1, "note": "(1: off)"},
            [1],
            [0, 2],
            "must be > 0 and <= 1 (1: off)",
        ),
        ({"at_most": 3}, [3], [4], "must be <= 3"),
        ({"at_least": 1, "note": "step"}, [1], [0], "must be >= 1 step"),
        ({"at_least": 0, "note": ": as it is"}, [0], [-1], "must be >= 0: as it is"),
        ({"above": 0, "null": "no clipping"}, [None, 1], [0], "must be null (no clipping) or > 0"),
        (
            {"at_least": 0, "at_most": 1, "null": ""},
            [None, 1],
            [2],
            "must be null or in [0, 1]",
        ),
    ],
)
def test_bounds_and_what_is_said_of_them(
    bounds: dict[str, Any], good: list[Any], bad: list[Any], rule: str
) -> None:
    kind = make_dataclass(
        "Kind", [("x", float, number(good[0], **bounds))], bases=(Settings,), slots=True
    )
    for value in good:
        assert kind(value).x == value
    for value in bad:
        with pytest.raises(UserError) as refused:
            kind(value)
        assert str(refused.value) == f"x = {value!r}: {rule}"


def as_it_was(text: str) -> str:
    """A run's `config.yaml`, as it was written before the optimizer's fields were renamed."""
    tree = OmegaConf.create(text)
    assert isinstance(tree, DictConfig)
    for optimizer in (tree.algorithm.optimizer, tree.algorithm.value_optimizer):
        optimizer.course = optimizer.pop("schedule")
        optimizer.warmup_share = optimizer.pop("warmup_fraction")
    return OmegaConf.to_yaml(tree)


SNAPSHOT = Path(__file__).parents[1] / "config" / "snapshots" / "rto__win_rates__cpu.yaml"


def test_a_run_folder_of_an_earlier_time_is_read(tmp_path: Path) -> None:
    configuration.register()
    text = SNAPSHOT.read_text(encoding="utf-8").replace("schedule: constant", "schedule: linear", 1)
    text = text.replace("schedule_steps: null", "schedule_steps: 1000")
    (tmp_path / "config.yaml").write_text(as_it_was(text), encoding="utf-8")
    (tmp_path / "new.yaml").write_text(text, encoding="utf-8")
    read = configuration.read(tmp_path / "config.yaml")
    assert read == configuration.read(tmp_path / "new.yaml")
    assert isinstance(read.algorithm, PPO)
    assert read.algorithm.optimizer.schedule is Schedule.linear
    form = canonical(read.algorithm.optimizer)
    assert isinstance(form, dict)
    assert form["course"] == "linear"
    assert "schedule" not in form


def test_a_component_of_a_former_name_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration.register()
    text = SNAPSHOT.with_name("default.yaml").read_text(encoding="utf-8")
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("Redistribute", "Redealt"), encoding="utf-8")
    with pytest.raises(UserError, match="no component 'Redealt' is registered"):
        configuration.read(path)
    monkeypatch.setattr(Redistribute, "__former_names__", ("Redealt",), raising=False)
    assert configuration.read(path).reward_scheme == Redistribute()
    assert canonical(Redistribute())["class"] == "Redealt"  # type: ignore[index]


def bounded() -> list[tuple[type, str, object, str]]:
    """Every number of a component or a part of one that has bounds, a value outside, its rule."""
    found: dict[tuple[type, str], tuple[type, str, object, str]] = {}
    for prefix, kind in sections():
        for item in fields(kind) if prefix else ():  # all of Config can only be made at once
            bounds = bounds_of(kind, item)
            if bounds is not None:
                ends = [end for end in (bounds.above, bounds.at_least) if end is not None]
                outside = ends[0] - 1 if ends else (bounds.below or bounds.at_most or 0) + 1
                found[kind, item.name] = (kind, item.name, outside, bounds.rule())
    return list(found.values())


@pytest.mark.parametrize(("kind", "name", "outside", "rule"), bounded(), ids=str)
def test_every_bound_of_the_configuration_is_kept_by_its_class(
    kind: type, name: str, outside: object, rule: str
) -> None:
    with pytest.raises(UserError) as refused:
        kind(**{name: outside})
    key, _, said = str(refused.value).partition(f" = {outside!r}: ")
    assert said == rule
    assert name in key


def test_a_field_with_another_default_keeps_the_bounds_and_names_of_its_base() -> None:
    own = make_dataclass("Own", [("speed", float, 2.0)], bases=(New,), slots=True, kw_only=True)
    assert canonical(own())["pace"] == 2.0  # type: ignore[index]
    with pytest.raises(UserError, match="speed = 0: must be > 0"):
        own(speed=0)
