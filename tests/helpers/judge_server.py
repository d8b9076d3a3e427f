"""A real HTTP server on the loopback that speaks the chat-completions protocol, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tokencredit.cli import app

KEY = "sk-the-very-secret-key-of-this-test"


@dataclass
class Answer:
    """What the server does with one request."""

    text: str | None = "Comparison: one is better.\nVerdict: A"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    refusal: str | None = None
    finish: str = "stop"
    reasoning: str | None = None
    """Beside the text, as servers with a reasoning parser return it."""
    body: str | None = None
    """Sent as it is, in place of a completion or an error."""


Behaviour = Callable[[int, str], Answer]
"""From the request's number, from 0, and its text."""


class JudgeServer:
    """Counts what it is asked; `dropped` after some requests, it no longer accepts connections."""

    def __init__(self, behaviour: Behaviour) -> None:
        """Serve on a free port until `close`."""
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                request = json.loads(self.rfile.read(size))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(request | {"path": self.path})
                    outer.keys.append(self.headers.get("authorization"))
                    outer.times.append(time.monotonic())
                answer = outer.behaviour(number, request["messages"][0]["content"])
                time.sleep(answer.delay)
                payload = (answer.body or json.dumps(content(answer, request))).encode()
                try:
                    self.send_response(answer.status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(payload)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client has given up waiting

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        """Stop listening; what is being answered is answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def content(answer: Answer, request: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a completion, or of an error that quotes the key, as bad servers do."""
    if answer.status != 200:
        return {"error": {"message": f"no: {answer.status} for key {KEY}", "code": "x"}}
    message = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    if answer.reasoning is not None:
        message |= {"reasoning": answer.reasoning, "reasoning_content": answer.reasoning}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"] + "-exact",
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def shown(text: str) -> tuple[str, str]:
    """Answers A and B in a request made with the template `instruction`."""
    first, _, rest = text.partition("=== Answer A ===\n")[2].partition("\n=== Answer B ===\n")
    return first, rest.partition("\n=== End ===")[0]


def prefers(word: str) -> Behaviour:
    """A judge that names the answer that holds `word`, wherever it stands."""

    def behave(number: int, text: str) -> Answer:
        first, _ = shown(text)
        return Answer(f"Comparison: the word decides.\nVerdict: {'A' if word in first else 'B'}")

    return behave


def arguments(files: list[str], url: str, out: Path, *more: str) -> list[str]:
    """The command line of `tokencredit judge llm`, files as in the documentation."""
    fixed = ["judge", "llm", "--answers", *files, "--base-url", url, "--model", "judge-1"]
    return [*fixed, "--out", str(out), "--retries", "0", "--concurrency", "2", *more]


def judge(files: list[str], url: str, out: Path, *more: str) -> Result:
    """What that command says and does."""
    return CliRunner().invoke(app, arguments(files, url, out, *more))


def results(out: Path) -> dict[str, Any]:
    """What it wrote."""
    found: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Behaviour], JudgeServer]]:
    """A function that starts a judge of some behaviour; all are closed at the end."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started: list[JudgeServer] = []

    def start(behaviour: Behaviour) -> JudgeServer:
        started.append(JudgeServer(behaviour))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def answer_files(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that writes answers of `good` and `bad` to n prompts; their paths."""

    def write(count: int = 6) -> list[str]:
        paths = []
        for name, word in (("good", "right"), ("bad", "wrong")):
            rows = [
                {"instruction": f"question {k}", "output": f"{word} answer {k}" + " more" * (k % 3)}
                for k in range(count)
            ]
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            paths.append(str(path))
        return paths

    return write
