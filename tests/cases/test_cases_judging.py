"""An LLM as judge whose replies are cut, reasoned, odd, or of another form than was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from judge_server import Answer, Behaviour, JudgeServer, judge, prefers, results
from tokencredit.endpoint.client import Endpoint
from tokencredit.errors import UserError
from tokencredit.evaluation.llm.prompt import Outcome, parse
from tokencredit.store.jsonl import read_jsonl

Serve = Callable[[Behaviour], JudgeServer]
Files = Callable[..., list[str]]

DECIDED = "Comparison: one is better.\nVerdict: B"
REASONED = {
    "think": f"<think>\nAnswer A is longer.\nVerdict: A\nBut wait.\n</think>\n{DECIDED}",
    "other tag": f"[THINK]Verdict: A[/THINK]{DECIDED}",
    "capitals": f"  <Thinking>Verdict: A</Thinking>\n{DECIDED}",
    "two": f"<think>Verdict: A</think>Hm.\n<think>\nVerdict: A\n</think>\n{DECIDED}",
    "nested": f"<think>x <think>Verdict: A</think>\nVerdict: A\n</think>\n{DECIDED}",
    "end alone": f"A is longer.\nVerdict: A\n</think>\n{DECIDED}",
    "channels": f"<|channel|>analysis<|message|>\nVerdict: A\n<|channel|>final<|message|>{DECIDED}",
    "quoted": f"Answer A opens with <think> and never ends it.\n{DECIDED}",
    "bold": "**Comparison:** B is to the point.\n\n**Verdict: B**",
    "answer": "B is to the point.\n\nVerdict: Answer B",
    "boxed": "Verdict: $\\boxed{B}$",
    "final": "**Final verdict:** [[B]]",
}
UNDECIDED = {
    "only thought": "<think>\nVerdict: A\n</think>",
    "unended": "<think>\nAt first sight:\nVerdict: A\nBut wait, B answers the",
    "unended channel": "<|channel|>analysis<|message|>\nVerdict: A\n",
    "end alone": "Verdict: A\n</think>\n",
    "both": "Verdict: A\nVerdict: B",
    "empty": "",
}


@pytest.mark.parametrize("kind", REASONED)
def test_case_14_the_verdict_is_the_one_behind_the_reasoning(kind: str) -> None:
    assert parse(REASONED[kind]) is Outcome.B


@pytest.mark.parametrize("kind", UNDECIDED)
def test_case_14_a_verdict_inside_the_reasoning_is_none(kind: str) -> None:
    assert parse(UNDECIDED[kind]) is Outcome.unparsable


OPENAI = {
    "max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature'. Only the default (1) value is supported.",
}
REFUSALS: dict[str, Callable[[str], tuple[int, object]]] = {
    "openai": lambda name: (400, {"error": {"message": OPENAI[name], "param": name}}),
    "text alone": lambda name: (400, {"error": OPENAI[name]}),
    "pydantic": lambda name: (
        422,
        {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"}]},
    ),
    "positive": lambda name: (
        422,
        {"error": f"Input validation error: `{name}` must be strictly positive"},
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("refused", [("max_tokens", "temperature"), ("temperature",)])
def test_case_14_parameters_that_are_refused_are_left_out_or_called_otherwise(
    serve: Serve, answer_files: Files, tmp_path: Path, kind: str, refused: tuple[str, ...]
) -> None:
    def strict(number: int, text: str) -> Answer:
        named = [name for name in refused if name in server.requests[number]]
        if not named:
            return prefers("right")(number, text)
        status, body = REFUSALS[kind](named[0])
        return Answer(status=status, body=json.dumps(body))

    server, out = serve(strict), tmp_path / "out"
    answer = judge(answer_files(5), server.url, out, "--concurrency", "1")
    assert answer.exit_code == 0, answer.output
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["wins"] == 5
    assert len(server.requests) == 5 + len(refused), "later questions are in the form it takes"
    assert "temperature" not in server.requests[-1]
    limit = "max_completion_tokens" if len(refused) == 2 else "max_tokens"
    assert server.requests[-1][limit] == 200
    assert results(out)["own_temperature"] == 5
    assert "--temperature = 0 was left out" in answer.output


def test_case_14_a_request_that_is_too_long_is_no_reason_for_another_form(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    said = "max_tokens is too large: 200. This model's context length is 100 tokens."
    body = json.dumps({"error": {"message": said, "param": "max_tokens"}})
    server = serve(lambda n, _: Answer(status=400, body=body) if n == 1 else Answer())
    judge(answer_files(4), server.url, tmp_path / "out", "--concurrency", "1")
    assert len(server.requests) == 4 and all("max_tokens" in r for r in server.requests)
    assert results(tmp_path / "out")["outcomes"]["rejected"] == 1


@pytest.mark.parametrize("cut", ["", "<think>\nVerdict: A\nBut", "Verdict: A\nOr rather", None])
@pytest.mark.parametrize("finish", ["length", "MAX_TOKENS"])
def test_case_14_a_reply_that_was_cut_is_no_verdict_and_not_paid_for_again(
    serve: Serve, answer_files: Files, tmp_path: Path, cut: str | None, finish: str
) -> None:
    def short(number: int, text: str) -> Answer:
        limit = server.requests[number]["max_tokens"]
        if "question 1" in text and limit <= 200:
            return Answer(cut, finish=finish, reasoning="Verdict: A")
        return prefers("right")(number, text)

    server, files, out = serve(short), answer_files(4), tmp_path / "out"
    answer = judge(files, server.url, out)
    assert answer.exit_code == 0, answer.output
    assert len(server.requests) == 4
    found = results(out)
    assert (found["cut"], found["outcomes"]["unparsable"]) == (1, 1)
    assert "1 replies that did not end are no verdicts: --max-tokens = 200" in answer.output
    judge(files, server.url, out, "--ask-again")
    assert len(server.requests) == 4, "the same limit would cut it again"
    judge(files, server.url, out, "--ask-again", "--max-tokens", "1600")
    assert len(server.requests) == 5, "verdicts under the lower limit are kept"
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 4


def test_case_14_where_all_replies_are_cut_three_are_paid_for(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda *_: Answer("", finish="length"))
    answer = judge(answer_files(30), server.url, tmp_path / "out", "--concurrency", "1")
    assert isinstance(answer.exception, UserError) and "--max-tokens" in str(answer.exception)
    assert len(server.requests) < 6
    answer = judge(answer_files(2), server.url, tmp_path / "two")
    assert "2 unparsable" in str(answer.exception) and "--max-tokens" in str(answer.exception)


def test_case_14_a_verdict_in_a_field_of_reasoning_is_not_read(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda *_: Answer(None, reasoning="Verdict: A"))
    answer = judge(answer_files(2), server.url, tmp_path / "out", "--parse-retries", "0")
    assert "no verdict between good and bad: 2 unparsable" in str(answer.exception)


def test_case_14_parts_of_a_message_are_read_but_for_the_thinking(serve: Serve) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Verdict: A"}]},
        {"type": "text", "text": "Comparison: B.\n"},
        {"type": "text", "text": "Verdict: B"},
    ]
    body = json.dumps({"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]})
    endpoint = open_endpoint(serve(lambda *_: Answer(body=body)).url)
    assert endpoint.ask("which?").text == "Comparison: B.\nVerdict: B"
    endpoint.close()


def open_endpoint(url: str, retries: int = 2) -> Endpoint:
    from tokencredit.endpoint.settings import EndpointSettings

    settings = EndpointSettings(base_url=url, model="m", retries=retries, first_pause=0.01)
    return Endpoint(settings)


def test_case_14_no_request_without_a_verdict_is_sent_twice(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Not in one command, nor with --ask-again, however often."""
    server, files, out = serve(lambda *_: Answer("Both.")), answer_files(1), tmp_path / "out"
    for more in (["--parse-retries", "2"], [], ["--ask-again"], ["--ask-again"]):
        judge(files, server.url, out, *more)
    texts = [request["messages"][0]["content"] for request in server.requests]
    assert len(texts) == len(set(texts)) == 3 + 0 + 2 + 2
    assert "Verdict: A" in texts[1].removeprefix(texts[0])


ODD = {
    "no JSON": "busy",
    "no choices": "{}",
    "empty choices": '{"choices": []}',
    "null": "null",
    "an error": '{"error": {"message": "overloaded"}}',
    "no message": '{"choices": [{"index": 0}]}',
    "a number": '{"choices": [{"message": {"content": 7}}]}',
}


@pytest.mark.parametrize("kind", ODD)
def test_case_14_one_odd_answer_is_counted_and_asked_for_again(
    serve: Serve,
    answer_files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(Endpoint, "_rest", lambda *_: None)
    server = serve(lambda n, _: Answer(body=ODD[kind]) if n == 1 else Answer())
    out = tmp_path / "out"
    answer = judge(answer_files(4), server.url, out, "--retries", "2", "--concurrency", "1")
    assert answer.exit_code == 0, answer.output
    assert len(server.requests) == 5 and results(out)["odd"] == 1
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 4
    assert "1 answers were no chat completion" in answer.output


def test_case_14_a_question_with_odd_answers_alone_does_not_end_the_command(
    serve: Serve, answer_files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "_rest", lambda *_: None)
    server = serve(lambda _, t: Answer(body="{}") if "question 1" in t else Answer())
    files, out = answer_files(4), tmp_path / "out"
    answer = judge(files, server.url, out, "--retries", "9", "--concurrency", "1")
    assert answer.exit_code == 0, answer.output
    assert len(server.requests) == 3 + 3
    assert results(out)["left_out"] == {"rejected": 1}
    server.behaviour = lambda *_: Answer()
    judge(files, server.url, out)
    assert len(server.requests) == 7, "nothing was paid for it, so it is asked next time"


def test_case_14_what_was_paid_for_is_kept_when_the_next_reply_is_odd(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda n, _: Answer(body="{}") if n % 2 else Answer("Both."))
    out = tmp_path / "out"
    judge(answer_files(1), server.url, out)
    (row,) = read_jsonl(out / "verdicts.jsonl")
    assert (row["outcome"], row["reply"], row["requests"]) == ("unparsable", "Both.", 1)


def test_case_14_an_address_where_nothing_can_be_read_is_an_error(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda *_: Answer(body="<html>hello</html>"))
    answer = judge(answer_files(9), server.url, tmp_path / "out", "--concurrency", "1")
    assert isinstance(answer.exception, UserError)
    assert "/v1" in str(answer.exception) and len(server.requests) < 6
