"""`tokencredit judge compare`: models answer the same prompts, an oracle scores, all is kept."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import builders
from compared_runs import mistake, ok, results, rows_of
from tokencredit.cli import app
from tokencredit.stages.oracle import load_oracle
from tokencredit.store.jsonl import read_jsonl


def test_two_runs_and_their_sft_model(place: Path, tmp_path: Path) -> None:
    """A 3 × 3 matrix of the runs' own oracle, from answers that can be rated again."""
    text = ok(place / "sparse", place / "abc", "--with-sft", "--prompts", 12, "--out", tmp_path)
    assert "| Win Rate | sparse | abc | sft |" in text
    assert f"12 prompts, held out by {place / 'sparse'}; scored by the run's n-gram oracle" in text
    matrix = list(csv.reader((tmp_path / "win_matrix.csv").read_text("utf-8").splitlines()))
    assert [row[0] for row in matrix] == ["Win Rate", "sparse", "abc", "sft"]
    assert [matrix[k][k] for k in (1, 2, 3)] == ["0.500"] * 3
    for i in (1, 2, 3):
        for j in (1, 2, 3):
            assert float(matrix[i][j]) + float(matrix[j][i]) == pytest.approx(1, abs=2e-3)
    (folder,) = (place / "store" / "oracle").glob("*/")
    oracle = load_oracle(folder)
    answers = {name: rows_of(tmp_path, name) for name in ("sparse", "abc", "sft")}
    won = 0.0
    for a, b in zip(answers["sparse"], answers["abc"], strict=True):
        assert a["instruction"] == b["instruction"] and a["row"] == b["row"]
        x, y = oracle.rate([a["output"], b["output"]]).tolist()
        assert a["score"] == pytest.approx(x)
        won += 0.5 if x == y else float(x > y)
    found = results(tmp_path)
    rate = found["win_rates"]["sparse"]["abc"]["over_prompts"]
    assert rate["mean"] == pytest.approx(won / 12) and rate["n"] == 12
    assert found["sampling"]["temperature"] == 1.0 and found["sampling"]["top_p"] == 0.9
    assert [m["name"] for m in found["models"]] == ["sparse", "abc", "sft"]
    assert found["models"][0]["run"] == "key0" and found["models"][1]["seed"] == 1


def test_prompts_are_held_out_and_lengths_the_runs(place: Path, tmp_path: Path) -> None:
    """Prompts begin reviews of the evaluation split; answers have 3 to 8 tokens."""
    from tokencredit import config
    from tokencredit.stages.context import Context

    ok(place / "sparse", place / "abc", "--out", tmp_path)
    corpus = Context(config.read(place / "sparse" / "config.yaml")).corpus
    texts = {record.row: record.text for record in corpus.parts["eval"]}
    rows = rows_of(tmp_path, "sparse")
    assert len(rows) == len(texts)  # fewer than 400: all of them
    for row in rows:
        assert texts[row["row"]].startswith(row["instruction"])
        assert 3 <= row["tokens"] <= 8
    assert len({row["row"] for row in rows}) == len(rows)


def test_field_E10_answers_do_not_depend_on_the_batch(place: Path, tmp_path: Path) -> None:
    models = [place / "sparse", place / "abc"]
    for batch in (1, 5, 32):
        ok(*models, "--prompts", 10, "--batch", batch, "--out", tmp_path / str(batch))
    texts = [(tmp_path / str(batch) / "answers.jsonl").read_bytes() for batch in (1, 5, 32)]
    assert texts[0] == texts[1] == texts[2]


def test_answers_depend_on_seed_temperature_and_nucleus(place: Path, tmp_path: Path) -> None:
    models = [place / "sparse", place / "abc", "--prompts", 10]
    said = {}
    for change in ((), ("--temperature", 0.2), ("--top-p", 0.3), ("--max-new-tokens", 20)):
        ok(*models, *change, "--out", tmp_path / str(len(said)))
        said[change] = [row["output"] for row in rows_of(tmp_path / str(len(said)), "sparse")]
    assert len({tuple(texts) for texts in said.values()}) == 4
    ok(*models, "--seed", 1, "--out", tmp_path / "seed")
    assert rows_of(tmp_path / "seed", "sparse") != rows_of(tmp_path / "0", "sparse")


def test_a_model_against_itself_is_a_draw(place: Path, tmp_path: Path) -> None:
    """Same prompts, same noise, same answers: ½ exactly, and generated once."""
    copy = tmp_path / "copy"
    shutil.copytree(place / "sparse" / "policy", copy)
    out = tmp_path / "out"
    ok(place / "sparse", copy, "--prompts", 8, "--out", out)
    rate = results(out)["win_rates"]["sparse"]["copy"]["over_prompts"]
    assert rate["mean"] == 0.5 and rate["draws"] == 8
    assert len(read_jsonl(out / "generations.jsonl")) == 8


def test_what_was_generated_is_found_by_content(place: Path, tmp_path: Path) -> None:
    """Half the file and a torn line: only the rest is generated; another name changes nothing."""
    models = [place / "sparse", place / "abc", "--prompts", 10, "--out", tmp_path]
    ok(*models)
    whole = (tmp_path / "generations.jsonl").read_bytes()
    first = (tmp_path / "results.json").read_bytes()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "generations.jsonl").write_bytes(b"".join(lines[:13]) + b'{"key": "to')
    ok(*models)
    again = (tmp_path / "generations.jsonl").read_bytes()
    assert again == whole
    assert (tmp_path / "results.json").read_bytes() == first
    ok(*models, "--names", "one,two")
    ok(place / "sparse", place / "abc", "--with-sft", "--prompts", 10, "--out", tmp_path)
    keys = Counter(row["key"] for row in read_jsonl(tmp_path / "generations.jsonl"))
    assert len(keys) == 30 and set(keys.values()) == {1}


def test_one_name_twice_means_two_seeds(place: Path, tmp_path: Path) -> None:
    sft = place / "store" / "sft" / "5f7"
    text = ok(
        place / "sparse",
        place / "abc",
        sft,
        "--names",
        "ppo,ppo,sft",
        "--prompts",
        9,
        "--out",
        tmp_path,
    )
    cell = results(tmp_path)["win_rates"]["ppo"]["sft"]
    assert cell["over_prompts"]["n"] == 9 and cell["over_seeds"]["n"] == 2
    assert "| ppo against sft | 2 |" in text
    assert {row["generator"] for row in read_jsonl(tmp_path / "answers.jsonl")} == {
        "ppo",
        "ppo#2",
        "sft",
    }


def test_answers_alone_need_no_oracle(place: Path, tmp_path: Path) -> None:
    ok(place / "sparse", place / "abc", "--prompts", 3, "--oracle", "none", "--out", tmp_path)
    assert "score" not in read_jsonl(tmp_path / "answers.jsonl")[0]
    assert not (tmp_path / "results.json").exists()


def test_field_E17_answers_can_be_exported_for_both_benchmarks(place: Path, tmp_path: Path) -> None:
    ok(place / "sparse", place / "abc", "--prompts", 3, "--out", tmp_path)
    for form in ("alpaca_eval", "mt_bench"):
        answer = CliRunner().invoke(
            app,
            [
                "judge",
                "export",
                str(tmp_path / "answers.jsonl"),
                "--format",
                form,
                "--out",
                str(tmp_path / form),
            ],
        )
        assert answer.exit_code == 0, answer.output
    rows = rows_of(tmp_path, "abc")
    outputs = json.loads((tmp_path / "alpaca_eval" / "abc.json").read_text("utf-8"))
    assert outputs == [
        {"instruction": r["instruction"], "output": r["output"], "generator": "abc"} for r in rows
    ]
    turns = read_jsonl(tmp_path / "mt_bench" / "abc.jsonl")
    assert [t["question_id"] for t in turns] == [r["row"] for r in rows]
    assert [t["choices"] for t in turns] == [[{"index": 0, "turns": [r["output"]]}] for r in rows]
    assert {t["model_id"] for t in turns} == {"abc"}
    assert len({t["answer_id"] for t in turns}) == 3 and turns[0]["tstamp"] > 1e9


def test_prompts_of_a_file(place: Path, tmp_path: Path) -> None:
    """Instructions go through a chat template where a model has one; prompts never do."""
    chat = tmp_path / "chat"
    builders.tiny_causal("llama", 9).save_pretrained(chat)
    builders.train_tokenizer(chat=True).save_pretrained(chat)
    from tokencredit.evaluation.compare.prompts import from_file
    from tokencredit.models.loading.model import load_tokenizer

    file = tmp_path / "prompts.json"
    asked: list[dict[str, Any]] = [
        {"instruction": "Say it"},
        {"question_id": 81, "turns": ["Write", "Again"]},
        {"prompt": "the movie"},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ]
    file.write_text(json.dumps(asked), encoding="utf-8")
    prompting = from_file(file, None, 5)
    tokenizer = load_tokenizer(chat)
    texts = [tokenizer.decode(ids) for ids in prompting.encode(tokenizer)]
    assert texts == [
        "<user>Say it\n<assistant>",
        "<user>Write\n<assistant>",
        "the movie",
        "<user>Hi\n<assistant>",
    ]
    plain = load_tokenizer(place / "abc" / "policy")
    assert [plain.decode(ids) for ids in prompting.encode(plain)] == [
        "Say it",
        "Write",
        "the movie",
        "Hi",
    ]
    function = tmp_path / "f.py"
    function.write_text("def f(prompts, responses):\n    return [len(p) for p in prompts]\n")
    out = tmp_path / "out"
    ok(
        chat, place / "store" / "sft" / "5f7", "--prompts-file", file, "--max-new-tokens", 5,
        "--oracle", f"{function}:f", "--out", out,
    )  # fmt: skip
    assert [row["row"] for row in rows_of(out, "chat")] == [0, 81, 2, 3]
    assert all(row["tokens"] <= 5 for row in rows_of(out, "sft"))


def test_a_prompt_that_comes_twice_is_answered_twice(place: Path, tmp_path: Path) -> None:
    """Each row has noise of its own."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the movie"}\n' * 2, encoding="utf-8")
    models = [place / "sparse", place / "abc", "--prompts-file", file, "--max-new-tokens", 12]
    ok(*models, "--out", tmp_path / "out")
    first, second = rows_of(tmp_path / "out", "sparse")
    assert first["output"] != second["output"]
    assert len(read_jsonl(tmp_path / "out" / "generations.jsonl")) == 4


def test_prompts_without_room_are_left_out_for_all(place: Path, tmp_path: Path) -> None:
    """The context is 96: a prompt of 90 tokens has no room for 20 more."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "the movie"}, {"prompt": "the movie was good " * 40}, {"prompt": "I loved"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    models = [place / "sparse", place / "abc", "--prompts-file", file, "--out", tmp_path / "out"]
    text = ok(*models, "--max-new-tokens", 20)
    assert "1 prompts leave no room" in text and results(tmp_path / "out")["left_out"] == 1
    assert "none leaves room" in mistake(*models, "--max-new-tokens", 96)


def test_another_tokenizer_reads_the_text(place: Path, tmp_path: Path) -> None:
    """Ids are shared only between equal vocabularies."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    other = tmp_path / "other"
    builders.tiny_causal("llama", 4).save_pretrained(other)
    words = tokenizers.Tokenizer.from_str(builders.train_tokenizer().backend_tokenizer.to_str())
    kept = {
        "eos_token": builders.EOS,
        "pad_token": builders.PAD,
        "additional_special_tokens": ["<x>"],
    }
    PreTrainedTokenizerFast(tokenizer_object=words, **kept).save_pretrained(other)
    ok(place / "sparse", other, "--prompts", 5, "--out", tmp_path / "out")
    assert [r["instruction"] for r in rows_of(tmp_path / "out", "other")] == [
        r["instruction"] for r in rows_of(tmp_path / "out", "sparse")
    ]


def test_a_run_with_other_data_is_pointed_out(place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(place / "abc", moved)
    manifest = json.loads((moved / "manifest.json").read_text("utf-8"))
    (moved / "manifest.json").write_text(json.dumps(manifest | {"fingerprints": {"eval": "2"}}))
    text = ok(place / "sparse", moved, "--prompts", 4, "--out", tmp_path / "out")
    assert f"{moved}: its data is split otherwise" in text
    assert results(tmp_path / "out")["other_data"] == [str(moved)]


def test_mistakes_are_explained_before_any_work(place: Path, tmp_path: Path) -> None:
    a, b, out = place / "sparse", place / "abc", ["--out", tmp_path / "out"]
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(a / "config.yaml", unfinished)
    bare = tmp_path / "bare"
    bare.mkdir()
    for arguments, words in [
        ([a], "name at least two models"),
        ([a, tmp_path / "absent"], "there is no such folder"),
        ([a, unfinished], "holds no finished policy"),
        ([a, bare], "no config.json"),
        ([a, a], "two models are called 'sparse'"),
        ([a, b, "--names", "one"], "--names"),
        ([a, b, "--names", "x,x"], "--names = 'x': all 2 models are seeds of one method"),
        ([a, b, "--prompts", 4000], "--prompts = 4000: the evaluation split of"),
        ([a, b, "--oracle", "nowhere"], "--oracle = 'nowhere'"),
        ([a, b, "--oracle", "absent.py:f"], "--oracle"),
        ([a, b, "--store", tmp_path], "name the store with --store"),
        ([a, b, "--temperature", 0], "--temperature"),
        ([a, b, "--top-p", 0], "--top-p"),
        ([a, b, "--prompts-file", tmp_path / "absent.json"], "--prompts-file"),
        ([b / "policy", place / "store" / "sft" / "5f7", "--oracle", "none"], "--prompts-file"),
        ([b / "policy", place / "store" / "sft" / "5f7"], "no run is compared"),
        ([b / "policy", b / "policy", "--with-sft", "--names", "x,y"], "--with-sft"),
        ([a, "hub:nobody/nothing"], "can be loaded neither from the hub"),
    ]:
        assert words in mistake(*arguments, *out), arguments
    assert not (tmp_path / "out" / "generations.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "holds no prompts"),
        ("{", "is no JSON"),
        ('[{"text": "x"}]', "row 1: needs instruction"),
        ('[{"question_id": 1, "prompt": "a"}, {"question_id": 1, "prompt": "b"}]', "repeats"),
    ],
)
def test_a_bad_file_of_prompts_is_explained(
    text: str, words: str, place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    file.write_text(text, encoding="utf-8")
    models = [place / "sparse", place / "abc", "--prompts-file", file]
    assert words in mistake(*models, "--out", tmp_path / "o")
