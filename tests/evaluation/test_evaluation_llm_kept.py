"""Verdicts that were paid for are kept, whatever happens, and never asked for again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from judge_server import KEY, Answer, Behaviour, JudgeServer, arguments, judge, prefers, results
from tokencredit.endpoint.client import EndpointFailed
from tokencredit.errors import UserError
from tokencredit.store.jsonl import read_jsonl

Serve = Callable[[Behaviour], JudgeServer]
Files = Callable[..., list[str]]


def test_field_E17_what_was_answered_is_never_asked_again(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """The same command asks nothing; both orders ask the other one only; a new model asks all."""
    server, files, out = serve(prefers("right")), answer_files(6), tmp_path / "out"
    assert judge(files, server.url, out).exit_code == 0
    first = results(out)
    again = judge(files, server.url, out)
    assert len(server.requests) == 6
    assert "6 questions, 6 of them answered before" in again.output
    assert results(out) | {"cost": 0} == first | {"cost": 0}
    assert results(out)["cost"]["now"]["requests"] == 0
    judge(files, server.url, out, "--both-orders")
    assert len(server.requests) == 12
    for change in (["--temperature", "0.5"], ["--template", "dialogue"], ["--max-tokens", "50"]):
        before = len(server.requests)
        judge(files, server.url, out, *change)
        assert len(server.requests) == before + 6, change


def test_another_answer_or_prompt_is_another_question(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server, files, out = serve(prefers("right")), answer_files(4), tmp_path / "out"
    judge(files, server.url, out)
    path = Path(files[1])
    path.write_text(path.read_text("utf-8").replace("wrong answer 2", "wrong reply 2"), "utf-8")
    judge(files, server.url, out)
    assert len(server.requests) == 5


def test_renaming_the_models_asks_nothing(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Orders are drawn with the names, so at most the other order of a pair is new."""
    server, files, out = serve(prefers("right")), answer_files(6), tmp_path / "out"
    judge(files, server.url, out, "--both-orders")
    answer = judge(files, server.url, out, "--both-orders", "--names", "ours,theirs")
    assert len(server.requests) == 12
    assert "| ours | 0.500 | 1.000 ± 0.000 |" in answer.output


def test_a_server_that_is_lost_half_way_loses_nothing(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Five verdicts, then no connection: a clear error; a new server is asked the rest."""
    files, out = answer_files(9), tmp_path / "out"
    server = serve(lambda *_: Answer())

    def dies(number: int, text: str) -> Answer:
        return Answer() if number < 5 else Answer(status=503)

    server.behaviour = dies
    answer = judge(files, server.url, out, "--concurrency", "1")
    assert isinstance(answer.exception, EndpointFailed)
    assert "give the same command again" in str(answer.exception)
    assert len(read_jsonl(out / "verdicts.jsonl")) == 5
    server.behaviour = lambda *_: Answer()
    asked = len(server.requests)
    assert judge(files, server.url, out).exit_code == 0
    assert len(server.requests) - asked == 4
    assert len(read_jsonl(out / "verdicts.jsonl")) == 9


def test_a_killed_run_continues(serve: Serve, answer_files: Files, tmp_path: Path) -> None:
    """SIGKILL in the middle, a torn line at the end: only the unanswered questions are asked."""
    files, out = answer_files(12), tmp_path / "out"
    server = serve(lambda *_: Answer(delay=0.15))
    command = [sys.executable, "-m", "tokencredit.cli"]
    command += arguments(files, server.url, out, "--concurrency", "1")
    process = subprocess.Popen(
        command, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while len(server.requests) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    written = b"".join(process.communicate())
    kept = len(read_jsonl(out / "verdicts.jsonl"))
    assert 3 <= kept <= 5 and KEY.encode() not in written
    with (out / "verdicts.jsonl").open("ab") as file:
        file.write(b'{"key": "torn')
    asked = len(server.requests)
    answer = judge(files, server.url, out)
    assert answer.exit_code == 0, answer.output
    assert len(server.requests) - asked == 12 - kept
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 12


def test_a_refused_key_stops_at_once_and_keeps_what_was_paid(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    server = serve(lambda n, _: Answer() if n < 2 else Answer(status=401))
    answer = judge(answer_files(20), server.url, out, "--concurrency", "1", "--retries", "6")
    assert isinstance(answer.exception, UserError)
    assert "the key was not accepted" in str(answer.exception)
    assert len(server.requests) <= 4
    assert len(read_jsonl(out / "verdicts.jsonl")) == 2


def test_a_rejected_request_is_asked_again_next_time(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda _, t: Answer(status=413) if "question 2" in t else Answer())
    files, out = answer_files(4), tmp_path / "out"
    judge(files, server.url, out, "--concurrency", "1")
    assert results(out)["outcomes"]["rejected"] == 1
    server.behaviour = lambda *_: Answer()
    judge(files, server.url, out)
    assert len(server.requests) == 5
    assert results(out)["outcomes"]["rejected"] == 0


def test_only_one_process_judges_into_a_folder(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    from tokencredit.evaluation.llm.verdicts import VerdictFile

    with VerdictFile(tmp_path / "out"):
        answer = judge(answer_files(2), serve(prefers("right")).url, tmp_path / "out")
    assert isinstance(answer.exception, UserError)
    assert "another process is judging" in str(answer.exception)


def test_a_damaged_row_is_named(serve: Serve, answer_files: Files, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "verdicts.jsonl").write_text('{"key": "x", "outcome": "Z"}\n', encoding="utf-8")
    answer = judge(answer_files(2), serve(prefers("right")).url, out)
    assert isinstance(answer.exception, UserError) and "verdicts.jsonl" in str(answer.exception)
