"""The floors as a picture, from the contract and the imports: `python -m architecture.drawing`.

Run with tests/ on the path, it writes docs/images/architecture.svg. A room shows its number of
files and not of lines, so the picture changes when a file comes or goes or when a room begins to
know another, and stays through every other commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from architecture.floors import ROOT, Floor, floors
from architecture.imports import Package, read_package
from architecture.measures import SOURCE

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, MARGIN, LABEL = 1120, 16, 64
LETTER, PAD = 7.3, 9
"""Width of a letter of the monospaced font at 12 pixels, and room beside a text, in pixels."""
BOX, GAP, BETWEEN = 38, 12, 34
"""Height of a box, distance of boxes, distance of floors."""
NOTE = (
    "Arrows lead from a room to what it imports; those that others imply are left out.",
    "Rooms inside a dashed frame may import each other.",
)
STYLE = """
text { font: 12px monospace; fill: #1c2733; }
.small { font-size: 10px; fill: #5b6b7b; }
.floor { fill: #f3f6f9; }
.mixed { stroke: #b7791f; stroke-dasharray: 5 4; }
.folder { fill: #dbe9f6; stroke: #5580a8; }
.file { fill: #ffffff; stroke: #9fb1c2; }
.tip { fill: #48627c; fill-opacity: 0.6; }
.arrow { fill: none; stroke: #48627c; stroke-opacity: 0.25; }
"""
TIP = (
    '<marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="5" markerHeight="5" '
    'orient="auto"><path class="tip" d="M0 0 L6 3 L0 6 z"/></marker>'
)


@dataclass(frozen=True, slots=True)
class Box:
    """Where one room is drawn, in pixels from the upper left."""

    room: str
    files: int
    x: int
    y: int

    @property
    def title(self) -> str:
        """The room's name as a folder or a file."""
        name = self.room.partition(".")[2]
        return f"{name}/" if self.files > 1 else name

    @property
    def width(self) -> int:
        """Enough for both texts."""
        return width(self.title)

    @property
    def middle(self) -> int:
        """Where arrows begin and end."""
        return self.x + self.width // 2


@dataclass(frozen=True, slots=True)
class Band:
    """One floor, drawn from `top` on."""

    floor: Floor
    top: int
    height: int
    boxes: tuple[Box, ...]


def width(title: str) -> int:
    """Pixels of a box with this title; every box has room for a number of files."""
    return round(max(len(title), 8) * LETTER) + 2 * PAD


def rooms_known(package: Package, rooms: Sequence[str]) -> Mapping[str, frozenset[str]]:
    """Which rooms each room imports, by any file in it."""
    known: dict[str, set[str]] = {room: set() for room in rooms}
    for importer, targets in package.graph.items():
        here = room_of(importer, rooms)
        there = (room_of(target, rooms) for target in targets)
        if here is not None:
            known[here] |= {room for room in there if room is not None and room != here}
    return {room: frozenset(others) for room, others in known.items()}


def room_of(module: str, rooms: Sequence[str]) -> str | None:
    """The room a module lies in; None for the package's own `__init__`."""
    return next((room for room in rooms if f"{module}.".startswith(f"{room}.")), None)


def arrows(house: Sequence[Floor], known: Mapping[str, frozenset[str]]) -> list[tuple[str, str]]:
    """Imports between floors that do not follow from others, sorted."""
    height = {room: n for n, floor in enumerate(house) for room in floor.rooms}
    down = {
        room: {other for other in others if height[other] != height[room]}
        for room, others in known.items()
    }
    below: dict[str, set[str]] = {}
    for floor in reversed(house):
        for room in floor.rooms:
            below[room] = set().union(*({n, *below.get(n, ())} for n in down[room]))
    return sorted(
        (room, other)
        for room, others in down.items()
        for other in others
        if not any(other in below[step] for step in others - {other} if step in below)
    )


def bands(
    house: Sequence[Floor], files: Mapping[str, int], known: Mapping[str, frozenset[str]]
) -> list[Band]:
    """Every floor with its boxes, the roof first; a room stands near those that import it."""
    found: list[Band] = []
    middle: dict[str, int] = {}
    top = MARGIN
    for floor in house:
        above = {
            room: [middle[other] for other in middle if room in known[other]]
            for room in floor.rooms
        }
        order = sorted(floor.rooms, key=lambda room: (fmean(above[room] or [0]), room))
        boxes = tuple(_placed(order, files, top + GAP))
        middle |= {box.room: box.middle for box in boxes}
        height = boxes[-1].y + BOX + GAP - top
        found.append(Band(floor, top, height, boxes))
        top += height + BETWEEN
    return found


def _placed(rooms: Sequence[str], files: Mapping[str, int], top: int) -> Iterator[Box]:
    """Boxes from left to right, on as many rows as they need, each row in the middle."""
    left, right = MARGIN + LABEL, WIDTH - MARGIN - GAP
    rows: list[list[Box]] = [[]]
    x = left
    for room in rooms:
        box = Box(room, files[room], x, top)
        if rows[-1] and x + box.width > right:
            x, top = left, top + BOX + GAP
            box = Box(room, files[room], x, top)
            rows.append([])
        rows[-1].append(box)
        x += box.width + GAP
    for row in rows:
        spare = (right - row[-1].x - row[-1].width) // 2
        yield from (Box(box.room, box.files, box.x + spare, box.y) for box in row)


def draw(package: Package, house: Sequence[Floor]) -> str:
    """The picture as SVG."""
    rooms = [room for floor in house for room in floor.rooms]
    placed = [room_of(module, rooms) for module in package.modules]
    known = rooms_known(package, rooms)
    stack = bands(house, {room: placed.count(room) for room in rooms}, known)
    boxes = {box.room: box for band in stack for box in band.boxes}
    bottom = stack[-1].top + stack[-1].height
    height = bottom + MARGIN + 16 * len(NOTE)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<style>{STYLE}</style>",
        TIP,
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *(_floor(band, len(stack) - 1 - n) for n, band in enumerate(stack)),
        *(_arrow(boxes[room], boxes[other]) for room, other in arrows(house, known)),
        *map(_box, boxes.values()),
        *(
            f'<text class="small" x="{MARGIN}" y="{bottom + 18 + 16 * n}">{escape(line)}</text>'
            for n, line in enumerate(NOTE)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _floor(band: Band, number: int) -> str:
    """The ground a floor's rooms stand on, with its number; the ground has none below it."""
    mixed = "" if band.floor.apart else " mixed"
    label = f"floor {number}" if number else "ground"
    return (
        f'<rect class="floor{mixed}" x="{MARGIN}" y="{band.top}" rx="6" '
        f'width="{WIDTH - 2 * MARGIN}" height="{band.height}"/>'
        f'<text class="small" x="{MARGIN + 8}" y="{band.top + 17}">{label}</text>'
    )


def _arrow(start: Box, end: Box) -> str:
    """A curve from a room's lower edge to the upper edge of what it imports."""
    top, bottom = start.y + BOX, end.y
    bend = max((bottom - top) // 3, 12)
    return (
        f'<path class="arrow" marker-end="url(#tip)" d="M{start.middle} {top} '
        f'C{start.middle} {top + bend} {end.middle} {bottom - bend} {end.middle} {bottom}"/>'
    )


def _box(box: Box) -> str:
    """A room: its name, and its number of files."""
    kind, count = ("folder", f"{box.files} files") if box.files > 1 else ("file", "1 file")
    return (
        f'<rect class="{kind}" x="{box.x}" y="{box.y}" width="{box.width}" height="{BOX}" rx="4"/>'
        f'<text x="{box.x + PAD}" y="{box.y + 16}">{escape(box.title)}</text>'
        f'<text class="small" x="{box.x + PAD}" y="{box.y + 30}">{count}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(read_package(SOURCE), floors()), encoding="utf-8")
