"""Whether a server answers is known in bounded time."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from tokencredit.tracking.outgoing import answers


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_an_open_port_answers_and_a_closed_one_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers(f"http://127.0.0.1:{port}", 2.0)
    assert not answers(f"http://127.0.0.1:{port}", 2.0)


def test_a_name_server_that_never_answers_costs_no_more_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(*_: Any, **__: Any) -> Any:
        time.sleep(3.0)
        raise OSError("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert not answers("https://example.invalid", 0.2)
    assert time.monotonic() - start < 1.0


def test_a_proxy_is_asked_instead_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert answers("https://wandb.example.invalid", 2.0)
    assert not answers("https://wandb.example.invalid", 2.0)
