"""What the tracking tests share: a W&B of their own, a reader of its files, a local server."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

_BLOCK = 32768


@pytest.fixture
def own_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A W&B without key, settings, or earlier session, whatever this machine has."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    wandb.teardown()
    yield
    wandb.teardown()


def _records(path: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    data = path.read_bytes()
    at, pending = 7, b""
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(pending)
            pending = b""
            yield record


def _items(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        values[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return values


@pytest.fixture
def read_offline() -> Callable[[Path], dict[str, Any]]:
    """A function that reads the one offline run in a run folder, by wandb's own record format."""

    def read(run_dir: Path) -> dict[str, Any]:
        folders = list((run_dir / "wandb").glob("offline-run-*"))
        assert len(folders) == 1, folders
        (file,) = folders[0].glob("*.wandb")
        found: dict[str, Any] = {"rows": [], "summary": {}, "folder": folders[0]}
        for record in _records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run" and "id" not in found:
                found["id"], found["name"] = record.run.run_id, record.run.display_name
                found["group"], found["job"] = record.run.run_group, record.run.job_type
                found["tags"] = list(record.run.tags)
                found["config"] = _items(record.run.config.update)
            elif kind == "history":
                found["rows"].append(_items(record.history.item))
            elif kind == "summary":
                found["summary"] |= _items(record.summary.update)
        return found

    return read


class Server:
    """A server on this machine that speaks as much of W&B's protocol as a run needs.

    `behaviour` is "works", "silent" (accepts and never answers), or an HTTP status for everything.
    """

    def __init__(self, behaviour: str, logged_steps: int = 0) -> None:
        self.rows: list[dict[str, Any]] = []
        self.runs: list[str] = []
        """The id that each session gave, in their order."""
        self.behaviour = behaviour
        self.logged_steps = logged_steps
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/file_stream"):
            history = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.rows += [json.loads(line) for line in history]
            return {}
        variables = body.get("variables", {})
        if "viewer" in body.get("query", ""):
            viewer = {"id": "u", "name": "me", "username": "me", "entity": "me", "flags": "{}"}
            return {"data": {"viewer": viewer}}
        if "query ArtifactType" in body.get("query", ""):  # of a table
            return {"data": {"project": None}}
        if "createArtifact" in body.get("query", ""):  # it is there, so nothing is uploaded
            artifact = {"id": "a", "state": "COMMITTED", "versionIndex": 0}
            return {"data": {"createArtifact": {"artifact": artifact}}}
        if "RunResumeStatus" in body.get("query", ""):
            return {"data": {"model": {"bucket": self._bucket()}}}
        if "UpsertBucket" in body.get("query", ""):
            self.runs.append(variables["name"])
            entity = {"id": "e", "name": "me"}
            project = {"id": "p", "name": "p", "entity": entity}
            bucket = {"id": "x", "name": variables["name"], "displayName": "n", "project": project}
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "CreateRunFiles" in body.get("query", ""):
            files = [{"name": n, "uploadUrl": f"{self.url}/{n}"} for n in variables["files"]]
            answer = {"runID": "x", "uploadHeaders": [], "files": files}
            return {"data": {"createRunFiles": answer}}
        return {"data": {}}

    def _bucket(self) -> dict[str, Any] | None:
        if not self.logged_steps:
            return None
        tail = json.dumps([json.dumps({"_step": self.logged_steps - 1})])
        return {
            "id": "x",
            "name": "abc",
            "displayName": "n",
            "historyLineCount": self.logged_steps,
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": tail,
            "eventsTail": "[]",
            "summaryMetrics": "{}",
            "config": "{}",
            "wandbConfig": '{"t": 1}',
            "tags": [],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if server.behaviour == "silent":
                    server.released.wait()
                    return
                status = 200 if server.behaviour == "works" else int(server.behaviour)
                is_json = server.behaviour == "works" and body.startswith(b"{")
                reply = server.answer(self.path, json.loads(body)) if is_json else {}
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_POST

        return Handler


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, own_wandb: None) -> Iterator[Callable[..., Server]]:
    """A function that starts a `Server` and points W&B to it, with a key."""
    servers: list[Server] = []

    def start(behaviour: str, logged_steps: int = 0) -> Server:
        server = Server(behaviour, logged_steps)
        servers.append(server)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        return server

    yield start
    wandb.teardown()
    for server in servers:
        server.close()
