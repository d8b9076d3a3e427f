"""Verdicts that were paid for: a file that only grows, and whose rows are found by content."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from tokencredit.closing import Closing
from tokencredit.errors import UserError
from tokencredit.evaluation.llm.prompt import Outcome
from tokencredit.store.artifacts import make_folder
from tokencredit.store.jsonl import JsonlWriter, read_jsonl

FILE: Final = "verdicts.jsonl"
FAILED: Final = (Outcome.refusal, Outcome.unparsable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the judge said to one question."""

    key: str
    """Hash of everything that decides the reply: endpoint, request, order of the answers."""
    item: str
    first: str
    """Generator of answer A."""
    second: str
    """Generator of answer B."""
    outcome: Outcome
    reply: str
    """The judge's words, the key of the endpoint cut out."""
    requests: int
    """Replies paid for: above 1 where one could not be read and the question was put again."""
    attempts: int
    """Requests sent, those that failed included."""
    prompt_tokens: int
    completion_tokens: int
    model: str
    """The judge as the endpoint names it."""
    question: str = ""
    """Hash of the same, the length limit left out."""
    cut: bool = False
    """The length limit ended the reply, which is unparsable for that reason."""
    odd: int = 0
    """Requests, of the attempts, that were answered with what is no chat completion."""
    own_temperature: bool = False
    """The endpoint takes no temperature, so it replied at its own."""

    @property
    def winner(self) -> str | None:
        """The generator whose answer is better, if the judge said so."""
        return {Outcome.A: self.first, Outcome.B: self.second}.get(self.outcome)


class VerdictFile(Closing):
    """The verdicts in a folder; one process at a time writes there. Rows reach the disk at once."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`/verdicts.jsonl, which need not exist; a torn last line is cut off.

        Raises `UserError` if another process has it open, or a row is damaged.
        """
        make_folder(folder)
        self._lock = FileLock(folder / ".verdicts.lock")
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout:
            raise UserError(
                f"--out = {str(folder)!r}: another process is judging into this folder; wait for "
                "it, or choose another"
            ) from None
        self._writing = threading.Lock()
        path = folder / FILE
        self._writer = JsonlWriter(path)
        try:
            self._known: dict[str, Verdict] = {}
            self._decided: dict[str, Verdict] = {}  # by question
            self._spent: Counter[str] = Counter()
            for row in read_jsonl(path):
                self._know(_read(row, path))
        except UserError:
            self.close()
            raise

    def get(self, key: str, question: str = "", *, again: bool = False) -> Verdict | None:
        """The verdict of that key. A rejected request cost nothing and is none.

        With `again`, refusals and unparsable replies are none either, but for those that the length
        limit cut and would cut again; and a verdict on the question under another limit counts.
        """
        found = self._known.get(key)
        if found is not None and found.outcome is Outcome.rejected:
            found = None
        if not again:
            return found
        if found is None or (found.outcome in FAILED and not found.cut):
            return self._decided.get(question)
        return found

    def spent(self, key: str) -> int:
        """How many replies to that request were paid for and held no verdict."""
        return self._spent[key]

    def add(self, verdict: Verdict) -> None:
        """Append a verdict; on the disk when this returns."""
        with self._writing:
            self._know(verdict)
            self._writer.write(asdict(verdict) | {"outcome": verdict.outcome.value})
            self._writer.flush()

    def _know(self, verdict: Verdict) -> None:
        self._known[verdict.key] = verdict
        if verdict.outcome in FAILED:
            self._spent[verdict.key] += verdict.requests
        if verdict.question and verdict.winner is not None:
            self._decided[verdict.question] = verdict

    def close(self) -> None:
        """Close the file and let others have it; closing twice is allowed."""
        self._writer.close()
        self._lock.release()


def _read(row: Mapping[str, Any], path: Path) -> Verdict:
    try:
        return Verdict(**{**row, "outcome": Outcome(row["outcome"])})
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: a row is no verdict ({error}); restore or delete it") from error
