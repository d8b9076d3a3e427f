"""Models that revise: what is asked, kept, asked again, and never paid for twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders import tiny_causal
from dpo_places import place, saved
from judge_server import KEY, Answer, Behaviour, JudgeServer
from tokencredit.data.revisions import BEGINS, ENDS
from tokencredit.endpoint.kept import ReplyFile
from tokencredit.endpoint.messages import Reply
from tokencredit.errors import UserError
from tokencredit.reviser_settings import Backend, Reviser, RevisingEndpoint
from tokencredit.settings import DPO
from tokencredit.stages.context import Context
from tokencredit.stages.revisions import RevisionsStage
from tokencredit.store.artifacts import Artifact
from tokencredit.store.jsonl import read_jsonl

Serve = Callable[[Behaviour], JudgeServer]
OTHER = re.compile(r"=== Other answer ===\n(.*)\n=== End", re.DOTALL)
ENDPOINT = RevisingEndpoint(model="reviser-1", retries=0, concurrency=2, price_in=10, price_out=100)


def rejected(text: str) -> str:
    """The answer that a request asks to be revised."""
    found = OTHER.search(text)
    assert found is not None
    return found[1]


def revising(number: int, text: str) -> Answer:
    """A model that does as it is asked."""
    better = rejected(text).replace("bad", "good").replace("awful", "fine")
    return Answer(f"Reason: the first is kinder.\n{BEGINS}\n{better}\n{ENDS}")


def asking(folder: Path, url: str, **settings: Any) -> Context:
    found = place(folder, DPO(learning_rate=1e-3))
    endpoint = replace(settings.pop("endpoint", ENDPOINT), base_url=url)
    defaults: dict[str, Any] = {"limit": 6, "held_out": 2, "max_edit_ratio": 1.0}
    found.config.reviser = Reviser(
        backend=Backend.endpoint, endpoint=endpoint, **(defaults | settings)
    )
    return found


def build(found: Context) -> Artifact:
    return found.store.build(RevisionsStage(found))


def test_an_endpoint_revises_and_the_figures_say_what_it_cost(serve: Serve, tmp_path: Path) -> None:
    server = serve(revising)
    artifact = build(asking(tmp_path, server.url))
    rows = read_jsonl(artifact.path / "revisions.jsonl")
    assert [row["revised"] for row in rows[:3]] == [
        " good and fine",
        " good and fine",
        " the plot was good",
    ]
    assert {row["reason"] for row in rows} == {"the first is kinder."}
    figures = artifact.manifest["figures"]
    assert (figures["revisions/kept"], figures["held_out/kept"]) == (6, 2)
    # six and two pairs, each another prompt: 8 × (100 × 10 + 10 × 100) / 10⁶
    assert len(server.requests) == figures["requests"] == 8
    assert figures["price"] == pytest.approx(8 * 2000 / 1e6)
    assert any("movie 0 was" in each["messages"][0]["content"] for each in server.requests)
    assert KEY not in "".join(p.read_text("utf-8") for p in tmp_path.rglob("*.jsonl"))


def test_what_was_answered_is_not_paid_for_twice(serve: Serve, tmp_path: Path) -> None:
    server = serve(revising)
    build(asking(tmp_path, server.url))
    figures = build(asking(tmp_path, server.url, max_edit_ratio=0.5)).manifest["figures"]
    assert len(server.requests) == 8 and figures["requests"] == 0
    figures = build(asking(tmp_path, server.url, limit=7)).manifest["figures"]
    assert len(server.requests) == 9 and figures["requests"] == 1


def test_an_endpoint_gets_what_the_settings_say(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "another key")
    server = serve(lambda *_: Answer("It was good."))
    endpoint = replace(ENDPOINT, key_variable="OTHER_KEY", requests_per_minute=600.0)
    settings = {"limit": 1, "held_out": 0, "reminders": 2, "temperature": 0.5, "max_tokens": 77}
    with pytest.raises(UserError, match="'no start marker': 1"):
        build(asking(tmp_path, server.url, endpoint=endpoint, **settings))
    asked = [(each["model"], each["temperature"], each["max_tokens"]) for each in server.requests]
    assert asked == [("reviser-1", 0.5, 77)] * 3
    assert server.keys == ["Bearer another key"] * 3
    texts = [each["messages"][0]["content"] for each in server.requests]
    assert ["This is request" in text for text in texts] == [False, True, True]


def test_requests_begin_as_often_as_they_may(serve: Serve, tmp_path: Path) -> None:
    server = serve(revising)
    build(asking(tmp_path, server.url, endpoint=replace(ENDPOINT, requests_per_minute=600.0)))
    begun = sorted(server.times)
    # Half of it: on a busy machine the first may arrive late, and unpaced all come at once.
    assert begun[-1] - begun[0] > 0.5 * 0.1 * (6 - 1 + 2 - 1)


def test_a_reply_without_markers_is_asked_for_again_and_never_a_revision(
    serve: Serve, tmp_path: Path
) -> None:
    def behave(number: int, text: str) -> Answer:
        again = "This is request 2" in text
        if "movie 0 " in text:
            return revising(number, text) if again else Answer("the plot was nice")
        return Answer("Reason: x") if "movie 1 " in text else revising(number, text)

    server = serve(behave)
    artifact = build(asking(tmp_path, server.url, limit=4, held_out=0))
    assert len(server.requests) == 4 + 2
    rows = read_jsonl(artifact.path / "revisions.jsonl")
    assert [row["row"] for row in rows] == [0, 2, 3]
    assert artifact.manifest["figures"]["revisions/dropped"] == {"reason alone": 1}


def test_replies_that_were_cut_or_refused_are_not_asked_for_again(
    serve: Serve, tmp_path: Path
) -> None:
    def behave(number: int, text: str) -> Answer:
        if "movie 0 " in text:
            return Answer(f"Reason: x\n{BEGINS}\nthe plot", finish="length")
        if "movie 1 " in text:
            return Answer(None, refusal="I will not")
        return Answer(None, status=400) if "movie 2 " in text else revising(number, text)

    server = serve(behave)
    figures = build(asking(tmp_path, server.url, limit=5, held_out=0)).manifest["figures"]
    assert len(server.requests) == 5
    assert figures["revisions/dropped"] == {"cut off": 1, "refused": 1, "request rejected": 1}


def test_an_endpoint_that_goes_down_keeps_what_was_paid_for(serve: Serve, tmp_path: Path) -> None:
    down = True

    def behave(number: int, text: str) -> Answer:
        return Answer(status=500) if down and number >= 3 else revising(number, text)

    server = serve(behave)
    one = replace(ENDPOINT, concurrency=1)
    with pytest.raises(UserError, match=r"reviser\.endpoint\.base_url.*no answer.*nothing is"):
        build(asking(tmp_path, server.url, endpoint=one))
    asked = len(server.requests)
    down = False
    figures = build(asking(tmp_path, server.url, endpoint=one)).manifest["figures"]
    assert figures["requests"] == 8 - 3 == len(server.requests) - asked


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(status=401), r"key was not accepted.*OPENAI_API_KEY"),
        (Answer(status=404), r"check reviser\.endpoint\.base_url and reviser\.endpoint\.model"),
        (Answer(body="<html>Sign in</html>"), r"something else than a chat completion|first 3"),
        (Answer(status=400), r"took none of the first 3 requests"),
        (Answer("Reason: so", finish="length"), r"none of the first 3 replies ended.*2048"),
    ],
)
def test_an_endpoint_that_is_of_no_use_is_one_error(
    serve: Serve, tmp_path: Path, answer: Answer, said: str
) -> None:
    server = serve(lambda *_: answer)
    with pytest.raises(UserError, match=said) as found:
        build(asking(tmp_path, server.url))
    assert KEY not in str(found.value)
    assert len(server.requests) < 8  # of eight pairs: some were on their way


def test_a_slow_endpoint_is_given_up(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda *_: Answer(delay=1.0))
    hasty = replace(ENDPOINT, timeout=0.1, concurrency=1)
    with pytest.raises(UserError, match=r"no answer after 1 attempts.*imed out"):
        build(asking(tmp_path, server.url, endpoint=hasty))


def test_a_missing_key_is_named(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve(lambda *_: Answer(status=401))
    with pytest.raises(UserError, match="OPENAI_API_KEY, which is not set"):
        build(asking(tmp_path, server.url))


def replies(folder: Path) -> Path:
    (found,) = (folder / "store" / "replies").glob("*.jsonl")
    return found


def test_a_cache_that_was_cut_within_a_line_loses_that_line_alone(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(revising)
    build(asking(tmp_path, server.url))
    file = replies(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    figures = build(asking(tmp_path, server.url, max_edit_ratio=0.9)).manifest["figures"]
    assert figures["requests"] == 1 and len(server.requests) == 9
    assert len(read_jsonl(file)) == 8


@pytest.mark.parametrize("line", [b"no json\n", b'{"key": "a", "word": 1}\n'])
def test_a_cache_that_was_damaged_is_an_error_that_names_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "replies" / "a.jsonl"
    with ReplyFile(path) as file:
        file.add("one", Reply("text", prompt_tokens=3))
        file.add("two", Reply("no", rejected=400))
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(UserError, match=r"a\.jsonl"):
        ReplyFile(path)
    path.write_bytes(path.read_bytes().removeprefix(line))
    with ReplyFile(path) as file:
        assert len(file) == 1 and file.get("one") == Reply("text", prompt_tokens=3)
        with pytest.raises(UserError, match="another process"):
            ReplyFile(path)


def speaking(folder: Path, **settings: Any) -> Context:
    """A run whose reviser is a tiny chat model, which says nothing of use."""
    found = place(folder, DPO(learning_rate=1e-3))
    model = tiny_causal(max_position_embeddings=2048)
    local = saved(model, folder / "chat", chat=True)
    found.config.reviser = Reviser(
        backend=Backend.local, local=local, limit=3, held_out=0, max_tokens=16, **settings
    )
    return found


def test_a_local_model_is_asked_in_its_template_and_kept(tmp_path: Path) -> None:
    found = speaking(tmp_path, chunk=2)
    stage = RevisionsStage(found)
    with stage.open() as reviser:
        made = reviser.revise(stage.contests("revisions"), "revise")
        assert reviser.asked is not None and reviser.asked.spent.requests >= 3
        assert reviser.asked.spent.completion_tokens >= 3
    rows = read_jsonl(replies(tmp_path))
    assert len(rows) == reviser.asked.spent.requests
    again = RevisionsStage(speaking(tmp_path, chunk=1))
    with again.open() as reviser:
        assert reviser.revise(again.contests("revisions"), "revise") == made
        assert reviser.cost()["requests"] == 0


def test_a_local_model_says_the_same_in_any_company(tmp_path: Path) -> None:
    texts = []
    for name, chunk in (("one", 1), ("three", 3)):
        found = speaking(tmp_path / name, chunk=chunk, temperature=0.7, reminders=0)
        stage = RevisionsStage(found)
        with stage.open() as reviser:
            reviser.revise(stage.contests("revisions"), "revise")
        texts.append(sorted(row["text"] for row in read_jsonl(replies(tmp_path / name))))
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_a_request_longer_than_the_context_is_counted(tmp_path: Path) -> None:
    found = speaking(tmp_path)
    found.config.reviser.context = 64
    with pytest.raises(UserError, match="'longer than the context': 3"):
        build(found)
