"""What a command left behind, and the smallest model that commands are tried with."""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURE = [
    "model=scratch",
    "model.architecture.vocab_size=400",
    "model.architecture.hidden_size=32",
    "model.architecture.layers=2",
    "model.architecture.heads=2",
    "model.architecture.mlp_size=64",
]
"""Overrides of a model that is drawn anew."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The only error line of a command that must end with a user's mistake."""
        assert self.code == 2, (self.code, self.out, self.err[-2000:])
        assert "Traceback" not in self.err, self.err[-3000:]
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line

    def ok(self) -> Ended:
        """Itself; the command must have succeeded."""
        assert self.code == 0, (self.code, self.out, self.err[-3000:])
        assert "Traceback" not in self.err, self.err[-3000:]
        return self
