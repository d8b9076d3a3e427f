"""Whether a server answers, found out in bounded time."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

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
