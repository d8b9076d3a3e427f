"""One endpoint, answering well, slowly, wrongly, or not at all; over real connections."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from judge_server import KEY, Answer, Behaviour, JudgeServer
from tokencredit.endpoint.client import Endpoint, EndpointFailed
from tokencredit.endpoint.settings import EndpointSettings, Pace, retry_after, without_user
from tokencredit.errors import UserError

Serve = Callable[[Behaviour], JudgeServer]


OPEN: list[Endpoint] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the connections of every endpoint that the test opens."""
    yield
    while OPEN:
        OPEN.pop().close()


def open_endpoint(url: str, **settings: Any) -> Endpoint:
    quick = {"base_url": url, "model": "judge-1", "first_pause": 0.01}
    OPEN.append(Endpoint(EndpointSettings(**quick | settings)))
    return OPEN[-1]


def first(*answers: Answer) -> Behaviour:
    """These answers, then verdicts."""
    return lambda number, _: answers[number] if number < len(answers) else Answer()


def test_a_reply_with_its_tokens(serve: Serve) -> None:
    server = serve(first())
    reply = open_endpoint(server.url, temperature=0.3, max_tokens=77).ask("which?")
    assert reply.text.endswith("Verdict: A")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.attempts) == (100, 10, 1)
    assert reply.model == "judge-1-exact"
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("judge-1", 0.3, 77)
    assert request["messages"] == [{"role": "user", "content": "which?"}]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_passing_failures_are_tried_again(status: int, serve: Serve) -> None:
    server = serve(first(Answer(status=status), Answer(status=status)))
    assert open_endpoint(server.url).ask("which?").attempts == 3
    assert len(server.requests) == 3


def test_retry_after_is_waited_for(serve: Serve) -> None:
    server = serve(first(Answer(status=429, headers={"retry-after": "0.4"})))
    assert open_endpoint(server.url).ask("which?").attempts == 2
    assert server.times[1] - server.times[0] >= 0.4


def test_pauses_double_and_are_spread(serve: Serve) -> None:
    server = serve(first(*[Answer(status=500)] * 3))
    open_endpoint(server.url, first_pause=0.2).ask("which?")
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    for gap, longest in zip(gaps, (0.2, 0.4, 0.8), strict=True):
        assert longest / 2 <= gap < longest + 0.5


def test_a_slow_answer_is_given_up_and_asked_for_again(serve: Serve) -> None:
    server = serve(first(Answer(delay=1.5)))
    assert open_endpoint(server.url, timeout=0.3).ask("which?").attempts == 2
    assert len(server.requests) == 2


def test_retries_end(serve: Serve) -> None:
    server = serve(lambda *_: Answer(status=503))
    with pytest.raises(EndpointFailed, match=r"no answer after 3 attempts.*status 503"):
        open_endpoint(server.url, retries=2).ask("which?")
    assert len(server.requests) == 3


def test_nobody_listens(serve: Serve) -> None:
    server = serve(first())
    url = server.url
    server.close()
    with pytest.raises(EndpointFailed, match=r"no answer after 2 attempts.*nothing is asked twice"):
        open_endpoint(url, retries=1).ask("which?")
    server._thread.join()


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "OPENAI_API_KEY, which is set"), (403, "may not use"), (404, "--model = 'judge-1'")],
)
def test_a_refused_key_or_model_is_said_at_once(status: int, words: str, serve: Serve) -> None:
    server = serve(lambda *_: Answer(status=status))
    with pytest.raises(EndpointFailed) as caught:
        open_endpoint(server.url).ask("which?")
    assert words in str(caught.value) and "--base-url" in str(caught.value)
    assert len(server.requests) == 1
    assert KEY not in str(caught.value) and "for key <key>" in str(caught.value)


def test_a_missing_key_is_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda *_: Answer(status=401))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(EndpointFailed, match="which is not set"):
        open_endpoint(server.url).ask("which?")
    monkeypatch.setenv("MINE", "another-key")
    with pytest.raises(EndpointFailed, match="MINE, which is set"):
        open_endpoint(server.url, key_variable="MINE").ask("which?")
    assert server.keys[1] == "Bearer another-key"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_turned_down_is_one_items_fault(status: int, serve: Serve) -> None:
    server = serve(first(Answer(status=status)))
    endpoint = open_endpoint(server.url)
    reply = endpoint.ask("which?")
    assert reply.rejected == status and KEY not in reply.text
    assert endpoint.ask("which?").rejected is None


def test_refusals_are_marked(serve: Serve) -> None:
    server = serve(first(Answer(None, refusal="no"), Answer("", finish="content_filter")))
    endpoint = open_endpoint(server.url)
    assert [endpoint.ask("which?").refused for _ in range(3)] == [True, True, False]


def test_a_reply_without_text_is_empty(serve: Serve) -> None:
    server = serve(first(Answer(None)))
    assert open_endpoint(server.url).ask("which?").text == ""


@pytest.mark.parametrize("body", ["{}", '{"choices": null}', "<html>hello</html>", "[]"])
def test_an_address_that_is_no_such_endpoint(body: str, serve: Serve) -> None:
    server = serve(lambda *_: Answer(body=body))
    with pytest.raises(EndpointFailed, match="--base-url"):
        open_endpoint(server.url, retries=0).ask("which?")


def test_a_key_in_a_reply_is_cut_out(serve: Serve) -> None:
    server = serve(first(Answer(f"you sent {KEY}\nVerdict: A")))
    assert open_endpoint(server.url).ask("which?").text == "you sent <key>\nVerdict: A"


def test_requests_keep_their_pace(serve: Serve) -> None:
    server = serve(first())
    endpoint = open_endpoint(server.url, per_minute=600)
    for _ in range(5):  # the first one also opens the connection
        endpoint.ask("which?")
    assert server.times[4] - server.times[1] >= 0.25


def test_a_pause_makes_all_wait() -> None:
    import threading

    pace, began = Pace(None), time.monotonic()
    pace.pause(0.2)
    pace.wait(threading.Event())
    assert time.monotonic() - began >= 0.2
    stop = threading.Event()
    stop.set()
    pace.pause(60)
    pace.wait(stop)
    assert time.monotonic() - began < 10


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "-7"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert retry_after({"retry-after": date}) == pytest.approx(100, abs=3)


def test_an_address_is_shown_without_what_may_be_secret() -> None:
    assert without_user("https://me:pass@host:1/v1?key=x#y") == "https://host:1/v1"


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"base_url": "host/v1"}, "--base-url"),
        ({"base_url": "ftp://me:pass@host"}, "--base-url = 'ftp://host'"),
        ({"model": ""}, "--model"),
        ({"temperature": -1}, "--temperature"),
        ({"max_tokens": 0}, "--max-tokens"),
        ({"timeout": 0}, "--timeout"),
        ({"retries": -1}, "--retries"),
        ({"per_minute": 0}, "--requests-per-minute"),
    ],
)
def test_a_bad_setting_names_its_option(changes: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match=option) as caught:
        EndpointSettings(**{"base_url": "http://h/v1", "model": "m"} | changes)
    assert "pass" not in str(caught.value)
