"""The comparison as a page: what was run, seconds, memory, ratios, failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratios import Spread, column, memory_over_idle, paired, spread
from rounds import Played
from workload import Setting

PHASES = ("whole", "rollout", "scoring", "optimisation")
COLUMNS = (
    "program",
    *(f"{phase}, s" for phase in PHASES),
    "tokens/s",
    "over idle, MB",
    "idle, MB",
    "rounds",
    "failed",
)
LEGEND = """Seconds are medians (least–greatest). Over idle: peak resident memory less that of the
process with its models built, before the first iteration. Tokens/s counts response tokens over the
whole iteration. A ratio above 1 means that ours is faster; a memory ratio below 1, that ours needs
less."""


def faster_peer(played: Mapping[str, Played], ours: str) -> str | None:
    """The peer with the smallest median of the whole iteration."""
    found = {
        name: times.median
        for name, program in played.items()
        if name != ours and (times := spread(column(program.rounds, "whole"))) is not None
    }
    return min(found, key=lambda name: found[name]) if found else None


def ratios_to(played: Mapping[str, Played], ours: str) -> dict[str, dict[str, Any]]:
    """For each peer: seconds over our seconds, and our memory over idle over its."""
    if ours not in played:
        return {}
    mine = played[ours].rounds
    own_time, own_memory = spread(column(mine, "whole")), memory_over_idle(mine)
    found: dict[str, dict[str, Any]] = {}
    for name, program in played.items():
        if name == ours:
            continue
        time, pairs = spread(column(program.rounds, "whole")), spread(paired(program.rounds, mine))
        memory = memory_over_idle(program.rounds)
        found[name] = {
            "of_medians": time.median / own_time.median if time and own_time else None,
            "paired": pairs.plain() if pairs else None,
            "memory": own_memory / memory if own_memory and memory else None,
        }
    return found


def setting_page(setting: Setting, played: Mapping[str, Played], ours: str) -> str:
    """The tables of one setting."""
    lines = [
        f"## ({setting.name}) {setting.title}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" + "|--:" * (len(COLUMNS) - 1) + "|",
        *(_row(name, program, setting) for name, program in played.items()),
    ]
    found = ratios_to(played, ours)
    if found:
        best = faster_peer(played, ours)
        lines += [
            "",
            f"| against {ours} | ratio of medians | ratio within a round | our memory / its |",
            "|---|--:|--:|--:|",
            *(_ratio_row(name, name == best, ratio) for name, ratio in found.items()),
        ]
    failures = [
        f"- `{name}` failed in {program.failed} of {len(program.rounds)} rounds: "
        + program.failures[0]
        for name, program in played.items()
        if program.failures
    ]
    return "\n".join([*lines, *([""] if failures else []), *failures, ""])


def page(
    played: Mapping[str, Mapping[str, Played]],
    settings: Mapping[str, Setting],
    missing: Mapping[str, str],
    machine: Mapping[str, Any],
    ours: str,
) -> str:
    """All settings, the machine, versions, and the programs that are not there."""
    ran = f"{machine['threads']} threads a program, {machine['iterations']} rounds after a warm-up"
    where = f"{machine['cpu']}, {machine['cores']} cores, {ran}, {machine['date']}."
    head = ["# PPO iterations against TRL", "", where, LEGEND, ""]
    head += [f"- `{name}` is missing: {why}" for name, why in missing.items()]
    head += [""] * bool(missing)
    bodies = [setting_page(settings[name], programs, ours) for name, programs in played.items()]
    return "\n".join([*head, *bodies, *_versions(played)])


def _row(name: str, program: Played, setting: Setting) -> str:
    cells = [spread(column(program.rounds, phase)) for phase in PHASES]
    whole = cells[0]
    rate = f"{setting.response_tokens / whole.median:.0f}" if whole else "–"
    idle = program.facts.get("idle_rss_mb")
    memory = [memory_over_idle(program.rounds), idle]
    numbers = [_text(cell) for cell in cells] + [rate]
    numbers += ["–" if number is None else f"{number:.0f}" for number in memory]
    done = len(program.rounds) - program.failed
    return f"| {name} | {' | '.join(numbers)} | {done} | {program.failed} |"


def _text(cell: Spread | None) -> str:
    return "–" if cell is None else cell.text()


def _ratio_row(name: str, fastest: bool, ratio: Mapping[str, Any]) -> str:
    of_medians, pairs, memory = ratio["of_medians"], ratio["paired"], ratio["memory"]
    cells = [
        f"{name}{' (the faster peer)' * fastest}",
        "–" if of_medians is None else f"{of_medians:.2f}",
        _text(Spread(**pairs) if pairs else None),
        "–" if memory is None else f"{memory:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _versions(played: Mapping[str, Mapping[str, Played]]) -> list[str]:
    found: dict[str, Mapping[str, str]] = {}
    for programs in played.values():
        for name, program in programs.items():
            if program.facts.get("versions"):
                found[name] = program.facts["versions"]
    listed = (
        f"- `{name}`: " + ", ".join(f"{library} {number}" for library, number in versions.items())
        for name, versions in found.items()
    )
    return ["## Versions", "", *listed, ""]
