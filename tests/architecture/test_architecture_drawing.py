"""The committed picture is what the script draws today, and what it draws can be read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from architecture import drawing
from architecture.floors import Floor, floors
from architecture.imports import Package, read_package
from architecture.made_up import write
from architecture.measures import SOURCE

FILES = {
    "__init__.py": "",
    "door.py": "from house import cellar\nfrom house.hall import table\n",
    "hall/__init__.py": "",
    "hall/table.py": "from house import cellar, yard\n",
    "yard.py": "from house import cellar\n",
    "cellar.py": "",
}
HOUSE = [
    Floor(("house.door",), apart=True),
    Floor(("house.hall", "house.yard"), apart=False),
    Floor(("house.cellar",), apart=True),
]


@pytest.fixture(scope="module")
def ours() -> Package:
    return read_package(SOURCE)


def known(package: Package, house: list[Floor]) -> Mapping[str, frozenset[str]]:
    return drawing.rooms_known(package, [room for floor in house for room in floor.rooms])


def test_the_committed_picture_is_of_today(ours: Package) -> None:
    drawn = drawing.draw(ours, floors())
    assert drawing.PICTURE.read_text("utf-8") == drawn, "`make docs` draws it again"


def test_no_boxes_overlap_and_all_lie_inside(ours: Package) -> None:
    house = floors()
    files = {room: 48 for floor in house for room in floor.rooms}
    stack = drawing.bands(house, files, known(ours, house))
    boxes = [box for band in stack for box in band.boxes]
    assert len(boxes) == len(files)
    for one, other in combinations(boxes, 2):
        beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        above = one.y + drawing.BOX <= other.y or other.y + drawing.BOX <= one.y
        assert beside or above, (one, other)
    for band in stack:
        for box in band.boxes:
            assert box.x >= drawing.MARGIN + drawing.LABEL
            assert box.x + box.width <= drawing.WIDTH - drawing.MARGIN
            assert band.top < box.y < box.y + drawing.BOX < band.top + band.height
            assert len(box.title) * 7.2 + 2 * drawing.PAD <= box.width + 1


def test_rooms_know_each_other_by_any_of_their_files(tmp_path: Path) -> None:
    assert known(write(tmp_path, FILES), HOUSE) == {
        "house.door": {"house.cellar", "house.hall"},
        "house.hall": {"house.cellar", "house.yard"},
        "house.yard": {"house.cellar"},
        "house.cellar": set(),
    }


def test_arrows_that_others_imply_are_left_out(tmp_path: Path) -> None:
    assert drawing.arrows(HOUSE, known(write(tmp_path, FILES), HOUSE)) == [
        ("house.door", "house.hall"),
        ("house.hall", "house.cellar"),
        ("house.yard", "house.cellar"),
    ]


def test_the_picture_says_what_stands_where(tmp_path: Path) -> None:
    picture = ET.fromstring(drawing.draw(write(tmp_path, FILES), HOUSE))  # noqa: S314 (ours)
    texts = [node.text for node in picture.iter() if node.tag.endswith("text")]
    assert texts[:3] == ["floor 2", "floor 1", "ground"]
    assert {"door", "hall/", "2 files", "yard", "cellar", "1 file"} <= set(texts)
    kinds = [node.get("class") for node in picture.iter()]
    assert kinds.count("arrow") == 3
    assert kinds.count("floor mixed") == 1


@pytest.mark.parametrize(
    ("file", "source", "same"),
    [
        ("cellar.py", "A = 1\nB = 2\n", True),
        ("hall/chair.py", "", False),
        ("yard.py", "", False),
        ("hall/__init__.py", "from house import yard\n", True),
    ],
    ids=["lines", "a file", "an arrow less", "an import inside a frame"],
)
def test_only_files_and_arrows_change_it(
    tmp_path: Path, file: str, source: str, same: bool
) -> None:
    before = drawing.draw(write(tmp_path, FILES), HOUSE)
    after = drawing.draw(write(tmp_path, {**FILES, file: source}), HOUSE)
    assert (before == after) is same
