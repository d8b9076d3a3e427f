"""Where time went: parts whose shown seconds add up to the sum that is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokencredit.store.run_folder import RunFolder

_MINUTE = 60
TOGETHER = "together"
OTHERWISE = "loading, evaluation, files"


def phases(run: RunFolder) -> list[tuple[str, float]]:
    """Return the seconds of each phase, summed over `time/*_seconds` of all steps."""
    totals: dict[str, float] = {}
    for row in run.timings:
        for key, seconds in row.items():
            if key.startswith("time/") and key.endswith("_seconds"):
                name = key.removeprefix("time/").removesuffix("_seconds").replace("_", " ")
                totals[name] = totals.get(name, 0.0) + seconds
    return sorted(totals.items(), key=lambda item: -item[1])


def stage_times(run: RunFolder) -> list[list[str]]:
    """Return the table of the RL stage's time: its phases, all else, and their sum, last."""
    parts = phases(run)
    if not parts:
        return []
    spent = sum(seconds for _, seconds in parts)
    total = max(float(run.results.get("wall_seconds", spent)), spent)
    if total > spent:
        parts.append((OTHERWISE, total - spent))
    unit = 0.1 if total < _MINUTE else 1.0
    shown = adding_up([seconds / unit for _, seconds in parts], round(total / unit))
    rows = [[name, duration(n * unit, total)] for (name, _), n in zip(parts, shown, strict=True)]
    return [*rows, [TOGETHER, duration(total)]]


def adding_up(values: Sequence[float], total: int) -> list[int]:
    """Return whole numbers beside `values` that add up to `total`; the largest rests round up."""
    floors = [int(value) for value in values]
    order = sorted(range(len(values)), key=lambda i: floors[i] - values[i])
    for i in order[: max(0, total - sum(floors))]:
        floors[i] += 1
    return floors


def duration(seconds: float, beside: float | None = None) -> str:
    """Return seconds as they are read: tenths below a minute, of a table whose sum is `beside`."""
    if (seconds if beside is None else beside) < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def budget(
    stages: Mapping[str, float], total: float, session: Mapping[str, float], install: float = 0.0
) -> str:
    """Return the line of what a command took, stage by stage, as each stage's own line said it.

    `stages` has the seconds of those that ran; `session` of the RL stage how many `steps` it took,
    their `step_seconds`, and its `all_seconds` without the start of its process. `rest` is the
    command's own: its start, and the checks of its data.
    """
    parts = {"install": round(install)} if install else {}
    parts |= {name.replace("_", " "): round(took) for name, took in stages.items()}
    parts["rest"] = max(0, round(total + install) - sum(parts.values()))
    listed = [f"{name} {seconds} s" for name, seconds in parts.items()]
    if session and "rl" in parts:
        place = list(parts).index("rl")
        listed[place] += f" ({_session(session, parts['rl'])})"
    return f"budget: {', '.join(listed)}, total {sum(parts.values())} s"


def _session(session: Mapping[str, float], seconds: int) -> str:
    """What the seconds of the RL stage were spent on."""
    in_steps = min(round(session["step_seconds"]), seconds)
    otherwise = min(max(round(session["all_seconds"]), in_steps), seconds) - in_steps
    start = seconds - in_steps - otherwise
    steps = int(session["steps"])
    return f"{steps} RL steps {in_steps} s, {OTHERWISE} {otherwise} s, start {start} s"
