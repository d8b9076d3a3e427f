"""`tokencredit judge mt-bench`: two turns really generated, graded one by one, scored by category."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from builders import tiny_causal, train_tokenizer
from judge_server import KEY, Answer, Behaviour, JudgeServer
from mt_bench_files import GOOD, QUESTIONS, jsonl, said
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.evaluation.mt_bench.answer import TEMPERATURES
from tokencredit.evaluation.mt_bench.files import (
    Question,
    read_conversations,
)
from tokencredit.evaluation.mt_bench.grade import rating, request
from tokencredit.models.loading.gguf import PACKAGE, find_packaged_gguf
from tokencredit.models.loading.shipped import shipped_model
from tokencredit.store.jsonl import read_jsonl

Serve = Callable[[Behaviour], JudgeServer]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "question.jsonl", QUESTIONS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model that says anything, of 96 positions."""
    folder = tmp_path_factory.mktemp("models") / "small"
    tiny_causal().save_pretrained(folder)
    train_tokenizer(chat=True).save_pretrained(folder)
    return folder


def mt_bench(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", "mt-bench", *map(str, arguments)])


def grade(asked: Path, answers: list[Path], url: str, out: Path, *more: str) -> Result:
    fixed = ["--base-url", url, "--model", "judge-1", "--retries", "0", "--out", out]
    return mt_bench("grade", "--questions", asked, "--answers", *answers, *fixed, *more)


def told(result: Result) -> dict[str, list[str]]:
    """Rows of the printed tables by their first cell."""
    rows = [line.split("|")[1:-1] for line in result.output.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


# answers


def test_the_second_turn_follows_the_models_own_first_answer(
    asked: Path, model: Path, tmp_path: Path
) -> None:
    """It is what the model says to the whole conversation; without the first turn it is another."""
    out = tmp_path / "out"
    few = ("--max-new-tokens", "8", "--names", "mine", "--out", out)
    result = mt_bench("answer", model, "--questions", asked, *few)
    assert result.exit_code == 0, result.output
    rows = read_jsonl(out / "model_answer" / "mine.jsonl")
    assert [row["question_id"] for row in rows] == [81, 111, 121]
    assert {row["model_id"] for row in rows} == {"mine"}
    kept = {row["response"]: row["prompt"] for row in read_jsonl(out / "generations.jsonl")}
    for row, question in zip(rows, QUESTIONS, strict=True):
        (choice,) = row["choices"]
        first, second = choice["turns"]
        assert first and second and first != second
        assert kept[second] == "\n".join([question["turns"][0], first, question["turns"][1]])
    assert read_conversations([out / "model_answer" / "mine.jsonl"])["mine"].keys() == {
        81,
        111,
        121,
    }

    again = mt_bench("answer", model, "--questions", asked, *few)
    assert again.exit_code == 0
    assert len(read_jsonl(out / "generations.jsonl")) == 6, "nothing is generated again"


def test_temperatures_are_those_of_the_categories(asked: Path, model: Path, tmp_path: Path) -> None:
    """Another seed moves the poem, and neither mathematics nor code, which are greedy."""
    found = []
    for seed in ("0", "1"):
        out = tmp_path / seed
        few = ("--max-new-tokens", "8", "--seed", seed, "--out", out, "--batch", str(2 + int(seed)))
        assert mt_bench("answer", model, "--questions", asked, *few).exit_code == 0
        found.append(read_conversations([out / "model_answer" / "small.jsonl"])["small"])
    assert found[0][81][0] != found[1][81][0]
    assert (found[0][111], found[0][121]) == (found[1][111], found[1][121])
    assert TEMPERATURES["stem"] == 0.1 and len(TEMPERATURES) == 8


def test_a_turn_without_room_is_left_empty_and_said(model: Path, tmp_path: Path) -> None:
    """The model reads 96 tokens, of which the second question alone would take more."""
    turns = ["Write a poem.", "Make it shorter, please. " * 12]
    asked = jsonl(tmp_path / "q.jsonl", [{"question_id": 1, "category": "other", "turns": turns}])
    out = tmp_path / "out"
    result = mt_bench("answer", model, "--questions", asked, "--out", out)
    assert result.exit_code == 0, result.output
    (own,) = read_conversations([out / "model_answer" / "small.jsonl"])["small"].values()
    assert own[0] and not own[1], (
        "the longest answer, 1024 tokens, is cut to what there is room for"
    )
    assert "leave no room for an answer (context 96)" in " ".join(result.output.split())


# grades


def by_words(number: int, text: str) -> Answer:
    """9 for what a good model says, 3 for others; more for a second turn."""
    last = text.rpartition("--- Assistant ---\n")[2]
    grade = (9 if last.startswith("good") else 3) - (2 * text.count("--- Person ---") - 2)
    return Answer(f"Reasons: so it seems, from 1 to 10.\nRating: [[{grade}]]")


def test_every_answer_is_graded_with_what_came_before_it(
    asked: Path, serve: Serve, tmp_path: Path
) -> None:
    """good: 9 and 7, bad: 3 and 1; the judge sees one conversation at a time."""
    server, out = serve(by_words), tmp_path / "out"
    files = [jsonl(tmp_path / f"{name}.jsonl", said(name, name)) for name in ("bad", "good")]
    result = grade(asked, files, server.url, out, "--price-in", "2", "--price-out", "10")
    assert result.exit_code == 0, result.output
    rows = told(result)
    assert rows["good"] == ["9.000 ± 0.000", "7.000 ± 0.000", "8.000 ± 0.000", "6", "0"]
    assert rows["bad"][:3] == ["3.000 ± 0.000", "1.000 ± 0.000", "2.000 ± 0.000"]
    assert rows["category"] == ["good", "bad"] and rows["math"] == ["8.000", "2.000"]
    texts = [request["messages"][0]["content"] for request in server.requests]
    assert len(texts) == 12
    second = [text for text in texts if "good 111 two" in text]
    assert len(second) == 1 and "good 111 one" in second[0] and "What is 2 + 2?" in second[0]
    assert "Right answer to message 2 ---\n8" in second[0]
    first = next(t for t in texts if "good 111 one" in t and "good 111 two" not in t)
    assert "message 1 ---\n4" in first and "message 2" not in first
    poem = next(text for text in texts if "good 81 one" in text)
    assert "Right answer" not in poem and "Reasons:" in poem

    path = out / "model_judgment" / "judge-1_single.jsonl"
    kept = read_jsonl(path)
    assert len(kept) == 12 and KEY not in path.read_text()
    assert kept[0] | {"user_prompt": "", "tstamp": 0} == {
        "question_id": 81, "model": "bad", "judge": ["judge-1", "single"], "user_prompt": "",
        "judgment": "Reasons: so it seems, from 1 to 10.\nRating: [[3]]", "score": 3.0, "turn": 1,
        "tstamp": 0,
    }  # fmt: skip
    assert kept[1]["judge"] == ["judge-1", "single-multi-turn"] and kept[1]["turn"] == 2
    results = json.loads((out / "results.json").read_text())
    assert results["cost"]["all"] == {
        "requests": 12, "prompt_tokens": 1200, "completion_tokens": 120, "price": 0.0036,
    }  # fmt: skip
    assert results["models"][0]["categories"]["coding"]["mean"] == 8.0

    shown = mt_bench("scores", "--questions", asked, "--judgements", path)
    assert told(shown) == rows
    more = grade(asked, files, server.url, out)
    assert more.exit_code == 0 and len(server.requests) == 12, "nothing is paid twice"
    assert "of that now: 0 replies" in more.output


def test_a_rating_that_is_not_found_is_excluded_and_counted(
    asked: Path, serve: Serve, tmp_path: Path
) -> None:
    """Of six answers two have a rating, 8 and 4; one reply was cut, one rejected, two say nothing."""
    replies = [
        Answer("Rating: [[8]]"),
        Answer("A fine poem."),
        Answer("Rating: [[4]]"),
        Answer("Rating: [[9]]", finish="length"),
        Answer("Rating: [[99]]"),
        Answer("too long", status=413),
    ]
    server, out = serve(lambda number, _: replies[number]), tmp_path / "out"
    answers = [jsonl(tmp_path / "a.jsonl", said("m", "x"))]
    result = grade(asked, answers, server.url, out, "--concurrency", "1")
    assert result.exit_code == 0, result.output
    assert told(result)["m"][2:] == ["6.000 ± 2.000", "2", "3"]
    assert "requests that were not taken: 1" in result.output
    kept = read_jsonl(out / "model_judgment" / "judge-1_single.jsonl")
    assert sorted(row["score"] for row in kept) == [-1, -1, -1, 4.0, 8.0]
    results = json.loads((out / "results.json").read_text())
    assert (results["cut"], results["rejected"], results["models"][0]["excluded"]) == (1, 1, 3)
    again = mt_bench(
        "scores", "--questions", asked, "--judgements", out / "model_judgment/judge-1_single.jsonl"
    )
    assert told(again)["m"][2:] == ["6.000 ± 2.000", "2", "3"]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Rating: [[7]]", 7),
        ("Rating: [[ 6.5 ]] of 10", 6.5),
        ("[[7]], I say: [[7]]", 7),
        ("[[7]] or [[8]]", None),
        ("Rating: [5]", 5),
        ("As in [1], rating: [[6]]", 6),
        ("Rating: 7", None),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[-3]]", None),
        ("", None),
        ("<think>perhaps [[3]]</think>Rating: [[9]]", 9),
        ("<think>perhaps [[3]]", None),
        ("Rating: [[<number>]]", None),
    ],
)
def test_what_a_reply_says(reply: str, found: float | None) -> None:
    assert rating(reply) == found


def test_dollar_signs_and_marks_in_answers_stay() -> None:
    question = Question(number=1, category="math", turns=("It costs $which?",))
    text = request(question, ["$100 $$ {x}"])
    assert "It costs $which?" in text and "$100 $$ {x}" in text


def test_what_the_judge_could_echo_is_no_rating() -> None:
    """The request itself holds none, so that a judge that repeats it has not graded."""
    question = Question(number=1, category="math", turns=("a", "b"), reference=("c", "d"))
    assert rating(request(question, ["e", "f"])) is None


def test_mistakes_end_with_one_line(asked: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve(by_words)
    other = jsonl(tmp_path / "other.jsonl", said("m", "x", (7,)))
    path = jsonl(tmp_path / "j.jsonl", [GOOD | {"question_id": 7}])
    cases = [
        (grade(asked, [other], server.url, tmp_path / "o"), "answered none of the questions"),
        (grade(asked, [other], server.url, tmp_path / "o", "--price-in", "1"), "give both"),
        (mt_bench("scores", "--questions", asked, "--judgements", path), "question 7, judged of m"),
    ]
    for result, message in cases:
        assert isinstance(result.exception, UserError) and message in str(result.exception)
    assert not server.requests


def test_answers_of_one_turn_are_graded_as_such(asked: Path, serve: Serve, tmp_path: Path) -> None:
    """As `judge export --format mt_bench` writes them."""
    rows = said("m", "good")
    for row in rows:
        del row["choices"][0]["turns"][1:]
    server = serve(by_words)
    result = grade(asked, [jsonl(tmp_path / "a.jsonl", rows[:2])], server.url, tmp_path / "out")
    assert result.exit_code == 0 and "m: has no answer to 1 questions" in result.output
    assert told(result)["m"] == ["9.000 ± 0.000", "9.000 ± 0.000", "2", "0"]


@pytest.fixture
def speaker(request: pytest.FixtureRequest) -> tuple[Path, bool]:
    """SmolLM2-135M-Instruct, where its package is installed; else the small model that is shipped."""
    try:
        find_packaged_gguf()
    except UserError:
        return shipped_model(), False
    return request.getfixturevalue("smollm2"), True


@pytest.mark.slow
@pytest.mark.xdist_group("smollm2")
def test_a_real_model_speaks_twice(
    speaker: tuple[Path, bool], asked: Path, serve: Serve, tmp_path: Path
) -> None:
    """Three questions, two turns each, graded to the end."""
    folder, chats = speaker
    few = ("--names", "spoken", "--max-new-tokens", "24", "--out", tmp_path)
    result = mt_bench("answer", folder, "--questions", asked, *few)
    assert result.exit_code == 0, result.output
    path = tmp_path / "model_answer" / "spoken.jsonl"
    own = read_conversations([path])["spoken"]
    assert set(own) == {81, 111, 121} and all(len(turns) == 2 for turns in own.values())
    assert all(text.strip() for turns in own.values() for text in turns)
    if chats:
        assert "4" in own[111][0], f"{PACKAGE} can add two and two"
    server = serve(lambda *_: Answer("Rating: [[5]]"))
    graded = grade(asked, [path], server.url, tmp_path)
    assert graded.exit_code == 0 and told(graded)["spoken"][2] == "5.000 ± 0.000"
    assert len(server.requests) == 6
