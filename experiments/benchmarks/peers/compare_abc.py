"""What attention-based credit costs: PPO iterations with it and with the sparse reward, in pairs.

    python compare_abc.py --pairs 24

Both programs are tokencredit; they differ in judge and scheme alone. The quotient of each pair is
taken, then the median of the quotients with an interval that holds the true median with 95 %.
Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compare import names_of, ours
from environments import HERE
from ratios import column, median_interval, memory_over_idle, paired, spread
from rounds import Clock, Played, play, tokens_of
from workload import SETTINGS

import machine

CHOICES = ("abc32", "abc512")
FEWEST = 6
"""Pairs without which there is no interval of 95 %."""
PHASES = ("whole", "rollout", "scoring", "optimisation")


def verdict(played: dict[str, Played]) -> dict[str, Any]:
    """The cost of abc over sparse; phases too, since only scoring has reason to differ."""
    abc, sparse = played["abc"].rounds, played["sparse"].rounds
    quotients = {phase: paired(abc, sparse, phase) for phase in PHASES}
    found: dict[str, Any] = {
        phase: {
            "ratio": times.median,
            "interval": median_interval(numbers) if len(numbers) >= FEWEST else None,
            "pairs": len(numbers),
        }
        for phase, numbers in quotients.items()
        if (times := spread(numbers)) is not None
    }
    peaks = [max(column(rounds, "peak_rss_mb"), default=None) for rounds in (abc, sparse)]
    found["peak_memory"] = quotient(*peaks)
    found["memory_over_idle"] = quotient(memory_over_idle(abc), memory_over_idle(sparse))
    found["failures"] = {name: done.failures for name, done in played.items()}
    return found


def quotient(ours: float | None, theirs: float | None) -> float | None:
    """`ours` / `theirs`, unless one of them is missing or 0."""
    return ours / theirs if ours and theirs else None


def text(name: str, found: dict[str, Any]) -> str:
    """The verdict of one setting, in lines."""
    lines = [f"{name}: {SETTINGS[name].title}; abc / sparse"]
    for phase in PHASES:
        if phase in found:
            ends = found[phase]["interval"]
            interval = "too few pairs" if ends is None else f"95 % [{ends[0]:.3f}, {ends[1]:.3f}]"
            pairs = f"{found[phase]['pairs']} pairs"
            lines.append(f"  {phase:17} {found[phase]['ratio']:.3f}  {interval}  {pairs}")
    for memory in ("peak_memory", "memory_over_idle"):
        value = found[memory]
        lines.append(f"  {memory:17} " + ("–" if value is None else f"{value:.3f}"))
    lines += [f"  {name} failed: {why[0]}" for name, why in found["failures"].items() if why]
    return "\n".join(lines)


def main() -> None:
    """Read the command line, play the pairs, print the verdicts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", default=24, type=int, help="at least 20 for the claim")
    parser.add_argument("--settings", default=list(CHOICES), type=names_of)
    parser.add_argument("--out", default=HERE / "results", type=Path)
    asked = parser.parse_args()
    names = asked.settings
    unknown = [name for name in names if name not in SETTINGS]
    if unknown or asked.pairs < FEWEST:
        parser.error(f"unknown settings {unknown}" if unknown else f"--pairs must be >= {FEWEST}")
    asked.out.mkdir(parents=True, exist_ok=True)
    facts = machine.describe(asked.pairs)
    clock = Clock(
        2 * (asked.pairs + 1) * sum(tokens_of(SETTINGS[name]) for name in names),
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    raw: dict[str, Any] = {"machine": facts, "settings": {}, "rounds": {}}
    for name in names:
        command = [*ours(), "--setting", name]
        both = {reward: [*command, "--reward", reward] for reward in ("sparse", "abc")}
        played = play(SETTINGS[name], both, asked.pairs, clock, asked.out)
        raw["settings"][name] = verdict(played)
        raw["rounds"][name] = {reward: asdict(done) for reward, done in played.items()}
        (asked.out / "abc.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        print(text(name, raw["settings"][name]))
    failed = any(why for found in raw["settings"].values() for why in found["failures"].values())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
