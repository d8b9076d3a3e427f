"""Replies that were paid for: a file that only grows, and what is not in it is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from tokencredit.closing import Closing
from tokencredit.endpoint.client import Endpoint, EndpointFailed
from tokencredit.endpoint.messages import Reply
from tokencredit.errors import UserError
from tokencredit.store.artifacts import make_folder
from tokencredit.store.jsonl import JsonlWriter, read_jsonl

FIRST: Final = 3
"""So many requests without use at the beginning, and no more are made."""


class ReplyFile(Closing):
    """Replies by the hash of what was asked; safe to use from several threads of one process."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist; a torn last line is cut off.

        Raises `UserError` if another process has it open, or a row is damaged.
        """
        make_folder(path.parent)
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            self._lock.acquire(timeout=1.0)
        except Timeout:
            raise UserError(
                f"{path}: another process is asking the same model; wait for it, and give the same "
                "command again"
            ) from None
        self._writing = threading.Lock()
        self._writer = JsonlWriter(path)
        self._known: dict[str, Reply] = {}
        try:
            for row in read_jsonl(path):
                key = str(row.pop("key", ""))
                self._known[key] = _read(row, path)
        except UserError:
            self.close()
            raise

    def __len__(self) -> int:
        """How many replies it holds."""
        return len(self._known)

    def get(self, key: str) -> Reply | None:
        """The reply of that key, if there is one."""
        return self._known.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply, on the disk when this returns; a request that was rejected cost nothing,
        has no reply, and is not kept."""
        if reply.rejected is not None:
            return
        with self._writing:
            self._known[key] = reply
            self._writer.write({"key": key, **asdict(reply)})
            self._writer.flush()

    def close(self) -> None:
        """Close the file and let others have it; closing twice is allowed."""
        self._writer.close()
        self._lock.release()


def ask_all(
    requests: Mapping[str, str],
    endpoint: Endpoint,
    file: ReplyFile,
    concurrency: int,
    on_reply: Callable[[], None],
) -> dict[str, Reply]:
    """The reply to every request, by its key; what the file holds already is not asked.

    A reply is on the disk before anything else happens, so what is killed or fails goes on where it
    stopped. Raises `UserError` when the endpoint cannot be used.
    """
    found = {key: reply for key in requests if (reply := file.get(key)) is not None}
    fresh: list[Reply] = []

    def ask(key: str) -> Reply:
        reply = endpoint.reply(requests[key])
        file.add(key, reply)
        return reply

    def take(key: str, reply: Reply) -> None:
        found[key] = reply
        fresh.append(reply)
        on_reply()
        _check_useful(fresh, endpoint)

    endpoint.in_threads(ask, [key for key in requests if key not in found], concurrency, take)
    return found


def _check_useful(fresh: list[Reply], endpoint: Endpoint) -> None:
    """Raise if none of the first requests was taken, or all replies were cut: so will others be."""
    if len(fresh) != FIRST:
        return
    if all(reply.rejected is not None for reply in fresh):
        where = endpoint.settings.named("base_url")
        raise EndpointFailed(
            f"{where}: took none of the first {FIRST} requests ({fresh[0].text}); check the "
            "address, the model, and the length limit"
        )
    if all(reply.cut for reply in fresh):
        limit = endpoint.settings.max_tokens
        raise EndpointFailed(
            f"{endpoint.settings.named('model')} = {endpoint.settings.model!r}: none of the first "
            f"{FIRST} replies ended within {limit} tokens; raise the limit to {4 * limit}"
        )


def _read(row: dict[str, object], path: Path) -> Reply:
    try:
        return Reply(**row)  # type: ignore[arg-type]  # what a row holds is told by its keys
    except TypeError as error:
        raise UserError(f"{path}: a row is no reply ({error}); restore or delete it") from error
