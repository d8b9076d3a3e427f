"""Judges on the loopback, their key in the environment, and answers to be judged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import compared_runs
from judge_server import KEY, Behaviour, JudgeServer


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


@pytest.fixture
def annotations() -> Path:
    """The folder of real GPT-4 verdicts."""
    root = Path(os.environ.get("TOKENCREDIT_DATA", "../shared/data"))
    folder = root / "pairwise_annotations"
    if not folder.is_dir():
        pytest.skip(f"TOKENCREDIT_DATA = {root}: holds no pairwise_annotations")
    return folder


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a store with an oracle, two runs of it, and an SFT model."""
    return compared_runs.write(tmp_path_factory.mktemp("compared"))
