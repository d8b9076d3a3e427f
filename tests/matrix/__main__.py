"""Two processes against one, for every way to divide the work: `make matrix [ONLY=TEXT]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from safetensors.torch import save_file

from matrix.cells import ALONE, HARDWARE, KINDS, RESUMED, STEPS, Place
from matrix.compare import HEAD, Finding, compare
from matrix.log import LOG, names, resumed, text

GIVEN: Final = "said.safetensors"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="matrix", description=__doc__)
    parser.add_argument("--only", default="", help="cells that hold this text; nothing is written")
    return parser.parse_args()


def cells(place: Place, kind: str, chosen: list[str]) -> Iterator[Finding]:
    """The chosen cells of a kind, against one process."""
    one = place.run(kind, [(ALONE, STEPS)], f"{kind} {ALONE}")
    given = one.folder / GIVEN
    save_file(one.said, given)
    for hardware in HARDWARE[kind]:
        name = f"{kind}, {hardware}"
        if name not in chosen:
            continue
        left = place.run(kind, [(hardware, STEPS)], f"{name} left")
        yield compare(name, one, left, place.run(kind, [(hardware, STEPS)], f"{name} given", given))
    name = resumed(kind)
    if name in chosen:
        yield compare(name, one, None, place.run(kind, RESUMED, name, given))


def main() -> int:
    """Run what is chosen, print a line for each, write the log; 1 if one is out of bounds."""
    only = arguments().only
    wanted = {kind: [name for name in names(kind) if only in name] for kind in KINDS}
    count, began = sum(map(len, wanted.values())), time.monotonic()
    print(HEAD, flush=True)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        for kind, chosen in wanted.items():
            for finding in cells(Place(Path(folder)), kind, chosen) if chosen else ():
                findings.append(finding)
                took = time.monotonic() - began
                left = took / len(findings) * (count - len(findings))
                print(finding.line(), f"   {took:.0f} s, some {left:.0f} s more", flush=True)
    if not only:
        LOG.write_text(text(findings), encoding="utf-8")
        print(f"written: {LOG.relative_to(Path.cwd())}")
    return int(any(finding.wrong for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
