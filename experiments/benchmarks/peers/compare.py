"""Time PPO iterations of TRL and tokencredit in turns, on the same work.

    python compare.py --settings a,b,c,d --iterations 5

Writes compare.json (every round) and compare.md (medians and ratios) to --out. Nothing else may run
on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from environments import HERE, PEERS, SetupFailed, default_folder, ensure
from rounds import Clock, Played, play, tokens_of
from tables import page, ratios_to
from workload import SETTINGS

import machine

OURS = "tokencredit"
Commands = Mapping[str, Sequence[str]]


def commands_of(names: Sequence[str], folder: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    """How each program is started, and why each of the others is missing."""
    found: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            found[name] = command_of(name, folder)
        except SetupFailed as failure:
            missing[name] = str(failure)
    return found, missing


def command_of(name: str, folder: Path) -> list[str]:
    """How a program is started, its setting left open; its environment is made if need be."""
    if name == OURS:
        return ours()
    if name not in PEERS:
        raise SetupFailed(f"no such program; there are {', '.join([*PEERS, OURS])}")
    return [str(ensure(name, folder)), str(HERE / PEERS[name])]


def ours() -> list[str]:
    """How our own program is started: in the environment that runs this script."""
    if find_spec("tokencredit") is None:
        raise SetupFailed(f"tokencredit is not installed for {sys.executable}")
    return [sys.executable, str(HERE / "serve_tokencredit.py")]


def compare(
    settings: Sequence[str],
    commands: Commands,
    iterations: int,
    out: Path,
    missing: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Played]]:
    """Play every setting with every program; after each setting the results so far are written."""
    out.mkdir(parents=True, exist_ok=True)
    facts = machine.describe(iterations)
    turns = (iterations + 1) * len(commands)
    clock = Clock(turns * sum(tokens_of(SETTINGS[name]) for name in settings), _say)
    played: dict[str, dict[str, Played]] = {}
    for name in settings:
        own = {program: [*command, "--setting", name] for program, command in commands.items()}
        played[name] = play(SETTINGS[name], own, iterations, clock, out)
        raw = {
            "machine": facts,
            "missing": dict(missing or {}),
            "workload": {each: asdict(SETTINGS[each]) for each in played},
            "ratios": {each: ratios_to(programs, OURS) for each, programs in played.items()},
            "settings": {
                each: {program: asdict(done) for program, done in programs.items()}
                for each, programs in played.items()
            },
        }
        (out / "compare.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        text = page(played, SETTINGS, missing or {}, facts, OURS)
        (out / "compare.md").write_text(text, encoding="utf-8")
    return played


def names_of(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    """Read the command line, compare, print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", default=["a", "b", "c", "d"], type=names_of)
    parser.add_argument("--iterations", default=5, type=int, help="rounds after the warm-up")
    parser.add_argument("--programs", default=[*PEERS, OURS], type=names_of, help="in this order")
    parser.add_argument("--envs", default=default_folder(), type=Path, help="peers' environments")
    parser.add_argument("--out", default=HERE / "results", type=Path, help="where results go")
    asked = parser.parse_args()
    unknown = [name for name in asked.settings if name not in SETTINGS]
    if unknown or asked.iterations < 1:
        parser.error(f"unknown settings {unknown}" if unknown else "--iterations must be >= 1")
    commands, missing = commands_of(asked.programs, asked.envs)
    for name, why in missing.items():
        _say(f"{name} is missing: {why}")
    if not commands:
        parser.error("no program is left to run")
    played = compare(asked.settings, commands, asked.iterations, asked.out, missing)
    print((asked.out / "compare.md").read_text(encoding="utf-8"))
    failed = any(done.failures for programs in played.values() for done in programs.values())
    sys.exit(1 if failed or missing else 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
