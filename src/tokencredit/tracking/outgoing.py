"""What leaves the run folder for W&B: ids and tables as it accepts them, and no secrets."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tokencredit.redaction import redacted

_SECRET_KEY = re.compile(
    r"(^|_)(api_?key|password|passwd|secret|credentials?|(access|auth|bearer|hf|hub)_token)$"
)

TABLE_COLUMNS: Final = ("step", "row", "prompt", "response", "score", "token_rewards")


def wandb_id(run_id: str) -> str:
    """Return `run_id` as W&B accepts it: letters, digits, - and _, at most 64 characters."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:64]
    if safe == run_id:
        return safe
    return f"{safe[:55]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def table_row(row: Mapping[str, Any]) -> list[Any]:
    """Return the cells of a sample row, in the order of `TABLE_COLUMNS`."""
    pairs = zip(row["tokens"], row["rewards"], strict=True)
    rewards = " ".join(f"{token.strip() or repr(token)}:{reward:+.3f}" for token, reward in pairs)
    return [row["step"], row["row"], row["prompt"], row["response"], row["score"], rewards]


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` in which the values of keys like api_key read (hidden)."""
    clean: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            clean[key] = without_secrets(value)
        elif isinstance(value, list):
            clean[key] = [without_secrets(x) if isinstance(x, Mapping) else x for x in value]
        else:
            hide = value and _SECRET_KEY.search(str(key).lower())
            clean[key] = "(hidden)" if hide else value
    return clean


def one_line(error: Exception) -> str:
    """Return `error` as one line; secrets of the environment are replaced by their names."""
    kind = "" if type(error) is ConnectionError else f"{type(error).__name__}: "
    return " ".join(redacted(f"{kind}{error}").split())[:200]


_PORTS = {"http": 80, "https": 443}


def answers(url: str, timeout_seconds: float) -> bool:
    """Return whether the host of `url`, or the proxy that leads to it, accepts a TCP connection.

    Looking up a name can outlast any socket timeout, so both run in a thread that is left behind.
    """
    host, port = _first_hop(url)
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=timeout_seconds).close()
        except OSError:
            return
        connected.set()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    return connected.is_set()


def _first_hop(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and parts.hostname and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
