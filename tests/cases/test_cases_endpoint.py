"""Malformed answers of an endpoint: one error, and what was answered before is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from case_machine import DEEP
from tokencredit.endpoint.client import Endpoint, EndpointFailed
from tokencredit.endpoint.settings import EndpointSettings

# Answers of an endpoint


class Says(BaseHTTPRequestHandler):
    """Answers every request with the same body."""

    body = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """A server on this machine."""
    server = HTTPServer(("127.0.0.1", 0), Says)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"<html>busy</html>",
        b"7",
        b"[]",
        b'"yes"',
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"choices": null}',
        b'{"choices": "A"}',
        b'{"choices": {"0": 1}}',
        b'{"choices": [1]}',
        b'{"choices": ["A"]}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": "A"}]}',
        b'{"choices": [{"message": {"content": {"text": "A"}}}]}',
        b'{"choices": [{"message": {"content": [{"type": "text"}]}}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        DEEP,
    ],
)
def test_a_malformed_answer_of_an_endpoint_is_one_error(
    address: str, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(Says, "body", body)
    endpoint = Endpoint(EndpointSettings(base_url=address, model="judge", retries=0))
    try:
        with pytest.raises(EndpointFailed) as caught:
            endpoint.ask("which?")
    finally:
        endpoint.close()
    assert str(caught.value).startswith(f"--base-url = {address!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("usage", [b'"many"', b'{"prompt_tokens": "many"}', b"[]", b"null", b"7"])
def test_odd_counts_of_tokens_are_no_reason_to_stop(
    address: str, monkeypatch: pytest.MonkeyPatch, usage: bytes
) -> None:
    body = b'{"choices": [{"message": {"content": "A"}}], "usage": %s}' % usage
    monkeypatch.setattr(Says, "body", body)
    endpoint = Endpoint(EndpointSettings(base_url=address, model="judge", retries=0))
    try:
        reply = endpoint.ask("which?")
    finally:
        endpoint.close()
    assert (reply.text, reply.prompt_tokens) == ("A", 0)
