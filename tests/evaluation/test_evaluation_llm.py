"""`tokencredit judge llm` from its options to its files, against a server on the loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from judge_server import (
    KEY,
    Answer,
    Behaviour,
    JudgeServer,
    judge,
    prefers,
    results,
    shown,
)
from tokencredit.cli import app
from tokencredit.endpoint.client import EndpointFailed
from tokencredit.errors import UserError
from tokencredit.store.jsonl import read_jsonl

Serve = Callable[[Behaviour], JudgeServer]
Files = Callable[..., list[str]]
NONE = ("refusal", "unparsable", "rejected")


def nowhere(key: str, *places: Path) -> None:
    """The key stands in no file below these folders."""
    for place in places:
        for path in place.rglob("*"):
            if path.is_file():
                assert key.encode() not in path.read_bytes(), path


def test_a_judge_that_reads_finds_the_better_model(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server, out = serve(prefers("right")), tmp_path / "out"
    answer = judge(answer_files(6), server.url, out, "--price-in", "2", "--price-out", "10")
    assert answer.exit_code == 0, answer.output
    assert "| good | 0.500 | 1.000 ± 0.000 |" in answer.output
    found = results(out)
    assert found["win_rates"]["good"]["bad"]["over_prompts"]["wins"] == 6
    counts = found["outcomes"]
    assert counts == {"A": 6 - counts["B"], "B": counts["B"]} | dict.fromkeys(NONE, 0)
    cost = {"requests": 6, "prompt_tokens": 600, "completion_tokens": 60, "price": 0.0018}
    assert found["cost"] == {"all": cost, "now": cost}
    assert found["judge"]["seed"] == 0 and found["judge"]["template"] == "instruction"
    rows = json.loads((out / "annotations.json").read_text(encoding="utf-8"))
    assert len(rows) == 6
    assert rows[0] == {
        "instruction": "question 0",
        "output_1": "right answer 0",
        "generator_1": "good",
        "output_2": "wrong answer 0",
        "generator_2": "bad",
        "annotator": "judge-1 (instruction)",
        "preference": 1.0,
    }
    again = CliRunner().invoke(
        app, ["judge", "winrate", "--annotations", str(out / "annotations.json")]
    )
    assert again.output.splitlines()[1].split()[:3] == ["bad", "good", "0.0000"]


def test_field_E17_the_order_is_drawn_by_the_seed(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Each pair is asked once; the same seed draws the same orders, whichever file comes first."""
    server, files = serve(prefers("right")), answer_files(12)
    orders = []
    for number, (seed, order) in enumerate([("0", files), ("0", files[::-1]), ("1", files)]):
        done = len(server.requests)
        assert judge(order, server.url, tmp_path / str(number), "--seed", seed).exit_code == 0
        texts = sorted(r["messages"][0]["content"] for r in server.requests[done:])
        assert len(texts) == 12
        orders.append(["right" in shown(text)[0] for text in texts])
    assert orders[0] == orders[1] != orders[2]
    assert {True, False} == set(orders[0])


def test_papers_7_a_judge_that_always_says_a_is_found_out(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """In both orders it contradicts itself every time, and the win rate is one half."""
    out = tmp_path / "out"
    answer = judge(answer_files(5), serve(lambda *_: Answer()).url, out, "--both-orders")
    assert answer.exit_code == 0, answer.output
    found = results(out)
    assert found["win_rates"]["good"]["bad"]["over_prompts"]["mean"] == 0.5
    assert found["win_rates"]["good"]["bad"]["over_prompts"]["draws"] == 5
    assert (
        found["position"]["a_verdicts"]["share"] == 1 and found["position"]["a_verdicts"]["n"] == 10
    )
    assert (
        found["position"]["consistent"]["share"] == 0 and found["position"]["consistent"]["n"] == 5
    )
    assert found["position"]["consistent"]["high"] == pytest.approx(0.4345, abs=1e-4)
    assert found["position"]["shown_first"]["good"]["share"] == 1
    assert found["position"]["shown_second"]["good"]["share"] == 0
    assert "same winner in both orders | 0.0 % [0.0, 43.4] of 5" in answer.output


def test_a_judge_without_a_favourite_place_is_consistent(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert judge(answer_files(5), serve(prefers("right")).url, out, "--both-orders").exit_code == 0
    found = results(out)["position"]
    assert found["a_verdicts"]["share"] == 0.5 and found["consistent"]["share"] == 1


def test_the_key_is_in_no_file_and_no_output(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Neither after success, nor after errors that quote it, nor in a reply that repeats it."""

    def leaks(number: int, text: str) -> Answer:
        if number == 0:
            return Answer(status=422)
        return Answer(f"Comparison: {KEY}.\nVerdict: A")

    server, files = serve(leaks), answer_files(5)
    good = judge(files, server.url, tmp_path / "good")
    server.behaviour = lambda *_: Answer(status=401)
    bad = judge(files, server.url, tmp_path / "bad")
    assert good.exit_code == 0 and isinstance(bad.exception, EndpointFailed)
    for text in (good.output, bad.output, str(bad.exception)):
        assert KEY not in text
    assert set(server.keys) == {f"Bearer {KEY}"}
    nowhere(KEY, tmp_path)
    replies = [row["reply"] for row in read_jsonl(tmp_path / "good" / "verdicts.jsonl")]
    assert "Comparison: <key>.\nVerdict: A" in replies


def test_refusals_and_nonsense_are_counted_and_left_out(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    """Nonsense is asked again once; a refusal is not. Neither is a verdict, nor asked next time."""

    def behave(number: int, text: str) -> Answer:
        if "question 0" in text:
            return Answer("I'm sorry, but I can't judge that.")
        return Answer("Both have merits.") if "question 1" in text else prefers("right")(0, text)

    server, files, out = serve(behave), answer_files(5), tmp_path / "out"
    answer = judge(files, server.url, out)
    found = results(out)
    assert found["outcomes"]["refusal"] == 1 and found["outcomes"]["unparsable"] == 1
    assert found["left_out"] == {"refusal": 1, "unparsable": 1}
    assert found["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 3
    assert "prompts of a pair left out: 2" in answer.output
    assert len(server.requests) == 3 + 1 + 2
    assert found["cost"]["all"]["requests"] == 6
    judge(files, server.url, out)
    assert len(server.requests) == 6
    server.behaviour = prefers("right")
    judge(files, server.url, out, "--ask-again")
    assert len(server.requests) == 8
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 5


def test_nonsense_that_clears_up_is_a_verdict(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda n, _: Answer("well") if n % 2 == 0 else Answer())
    out = tmp_path / "out"
    assert judge(answer_files(3), server.url, out, "--concurrency", "1").exit_code == 0
    assert results(out)["outcomes"]["unparsable"] == 0
    assert results(out)["cost"]["all"]["requests"] == 6


def test_in_both_orders_one_verdict_is_not_enough(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    def behave(number: int, text: str) -> Answer:
        odd = "question 0" in text and "right" in shown(text)[0]
        return Answer("hm") if odd else prefers("right")(0, text)

    out = tmp_path / "out"
    judge(answer_files(4), serve(behave).url, out, "--both-orders", "--parse-retries", "0")
    assert results(out)["left_out"] == {"unparsable": 1}
    assert results(out)["win_rates"]["good"]["bad"]["over_prompts"]["n"] == 3


def test_an_endpoint_that_rejects_everything_is_not_asked_long(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    server = serve(lambda *_: Answer(status=400))
    answer = judge(answer_files(30), server.url, tmp_path / "out", "--concurrency", "1")
    assert isinstance(answer.exception, UserError)
    assert "none of the first three requests" in str(answer.exception)
    assert len(server.requests) < 8


def test_no_verdict_at_all_is_an_error(serve: Serve, answer_files: Files, tmp_path: Path) -> None:
    server = serve(lambda *_: Answer("hm"))
    answer = judge(answer_files(2), server.url, tmp_path / "out")
    assert isinstance(answer.exception, UserError)
    assert "no verdict between good and bad: 2 unparsable" in str(answer.exception)


def test_equal_answers_are_a_draw_nobody_is_asked_about(serve: Serve, tmp_path: Path) -> None:
    server, files = serve(lambda *_: Answer()), []
    for name in ("x", "y"):
        rows = [{"prompt": "p", "response": "same"}, {"prompt": "q", "response": f"by {name}"}]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files.append(str(path))
    assert judge(files, server.url, tmp_path / "out").exit_code == 0
    found = results(tmp_path / "out")
    assert len(server.requests) == 1 and found["identical_answers"] == 1
    assert found["win_rates"]["x"]["y"]["over_prompts"]["draws"] == 1


def test_three_models_make_three_pairs(serve: Serve, answer_files: Files, tmp_path: Path) -> None:
    files = answer_files(4)
    third = tmp_path / "third.jsonl"
    third.write_text(Path(files[1]).read_text("utf-8").replace("wrong", "poor"), "utf-8")
    server, out = serve(prefers("right")), tmp_path / "out"
    answer = judge([*files, str(third)], server.url, out, "--limit", "2")
    assert answer.exit_code == 0, answer.output
    assert len(server.requests) == 6
    assert set(results(out)["win_rates"]) == {"good", "bad", "third"}
    assert "infinite" in results(out)["strengths"]["none"]  # good lost to nobody


def test_progress_has_a_time_left(serve: Serve, answer_files: Files, tmp_path: Path) -> None:
    answer = judge(answer_files(4), serve(prefers("right")).url, tmp_path / "out")
    assert re.search(r"judge +4/4 +0:00 left", answer.output)


def test_the_parts_of_a_mistake_name_their_option(
    serve: Serve, answer_files: Files, tmp_path: Path
) -> None:
    files, url = answer_files(2), "http://127.0.0.1:9/v1"
    for more, option in [
        (["--price-in", "1"], "--price-in"),
        (["--template", "absent"], "--template"),
        (["--names", "one"], "--names"),
        (["--temperature", "3"], "--temperature"),
        (["--parse-retries", "-1"], "--parse-retries"),
        (["--concurrency", "0"], "--concurrency"),
    ]:
        answer = judge(files, url, tmp_path / "out", *more)
        assert isinstance(answer.exception, UserError) and option in str(answer.exception)
    single = judge(files[:1], url, tmp_path / "out")
    assert "answers of two models are needed" in str(single.exception)
