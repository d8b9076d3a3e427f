"""Programs in turns: in every round each does one iteration, and each round begins with another.

The processor's speed drifts by a third here, so only numbers of one round can be compared, and
only one program may run at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from programs import Program, ProgramFailed
from workload import Setting

Say = Callable[[str], None]


@dataclass
class Played:
    """What one program did in one setting."""

    facts: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] | None = None
    rounds: list[dict[str, Any] | None] = field(default_factory=list)
    """A measurement of each round, or None where the program had failed by then."""
    failures: list[str] = field(default_factory=list)
    """Why it failed; it takes no further part."""

    @property
    def failed(self) -> int:
        """Rounds without a measurement."""
        return sum(row is None for row in self.rounds)


@dataclass
class Clock:
    """How much work is left, in tokens, and how long a token has taken so far."""

    left: int
    say: Say
    done: int = 0
    seconds: float = 0.0

    def tick(self, what: str, tokens: int, seconds: float) -> None:
        """An iteration of `tokens` tokens has ended."""
        self.left -= tokens
        self.done += tokens
        self.seconds += seconds
        eta = self.seconds / self.done * max(0, self.left)
        self.say(f"{what}: {seconds:.2f} s; about {eta / 60:.1f} min left")


def tokens_of(setting: Setting) -> int:
    """Tokens that pass through a model in one iteration: the measure of the clock."""
    return sum(setting.prompt_lengths) + setting.response_tokens


def order_of(names: Sequence[str], turn: int) -> list[str]:
    """The order of a round: rotated, so that no program always comes first."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def checked(answer: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The answer, if the program did the work of the setting; raises `ProgramFailed` if not."""
    for name in ("response_tokens", "optimizer_steps"):
        if answer[name] != getattr(setting, name):
            raise ProgramFailed(f"{name} = {answer[name]}, not {getattr(setting, name)}")
    if not answer["weight_change"] > 0:
        raise ProgramFailed("no weight changed")
    return answer


def play(
    setting: Setting,
    commands: Mapping[str, Sequence[str]],
    iterations: int,
    clock: Clock,
    logs: Path,
    timeout: float = 1800.0,
) -> dict[str, Played]:
    """`iterations` rounds after one warm-up. A program that fails takes no further part."""
    played = {name: Played() for name in commands}
    programs: dict[str, Program] = {}
    try:
        for name, command in commands.items():
            programs[name] = Program(name, command, logs / f"{setting.name}-{name}.log", timeout)
            try:
                played[name].facts = programs[name].ready()
            except ProgramFailed as failure:
                _fail(played[name], failure, name, clock)
        for turn in range(-1, iterations):
            label = f"{setting.name} " + (f"round {turn + 1}" if turn >= 0 else "warm-up")
            for name in order_of(list(commands), turn + 1):
                answer = _turn(programs[name], played[name], setting, clock, f"{label} {name}")
                if turn < 0:
                    played[name].warm_up = answer
                else:
                    played[name].rounds.append(answer)
    finally:
        for program in programs.values():
            program.stop()
    return played


def _turn(
    program: Program, played: Played, setting: Setting, clock: Clock, label: str
) -> dict[str, Any] | None:
    tokens = tokens_of(setting)
    if played.failures:
        clock.left -= tokens
        return None
    started = time.perf_counter()
    try:
        answer = checked(program.iterate(), setting)
    except ProgramFailed as failure:
        clock.left -= tokens
        _fail(played, failure, label, clock)
        return None
    clock.tick(label, tokens, time.perf_counter() - started)
    return answer


def _fail(played: Played, failure: ProgramFailed, label: str, clock: Clock) -> None:
    played.failures.append(str(failure))
    clock.say(f"{label}: FAILED, {failure}")
