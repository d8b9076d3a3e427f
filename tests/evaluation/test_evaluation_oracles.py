"""Who may score: n-grams, classifiers, functions, and none that a run was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import builders
import compared_runs
from compared_runs import mistake, ok, results, rows_of


def test_a_function_as_oracle(place: Path, tmp_path: Path) -> None:
    """It sees prompts and answers; longer is better, so the win rate is that of lengths."""
    file = tmp_path / "longer.py"
    file.write_text("def score(prompts, responses):\n    return [len(r) for r in responses]\n")
    out = tmp_path / "out"
    ok(place / "sparse", place / "abc", "--prompts", 10, "--oracle", f"{file}:score", "--out", out)
    pairs = zip(rows_of(out, "sparse"), rows_of(out, "abc"), strict=True)
    lengths = [(len(a["output"]), len(b["output"])) for a, b in pairs]
    won = sum(0.5 if a == b else float(a > b) for a, b in lengths)
    assert results(out)["win_rates"]["sparse"]["abc"]["over_prompts"]["mean"] == won / 10


@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_as_oracle(place: Path, tmp_path: Path, labels: int) -> None:
    """Scores are those of each text alone, read at its last token, even if that is the pad id."""
    models = [place / "sparse", place / "abc", "--prompts", 6]
    tokenizer = builders.train_tokenizer()
    ok(*models, "--oracle", "none", "--out", tmp_path / "first")
    row = rows_of(tmp_path / "first", "abc")[0]
    last = tokenizer(row["instruction"] + row["output"])["input_ids"][-1]
    folder, out = tmp_path / "judge", tmp_path / "out"
    model = builders.tiny_classifier("llama", 5, num_labels=labels)
    compared_runs.save(model, folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"pad_token_id": last}))
    ok(*models, "--oracle", folder, "--out", out)
    for row in rows_of(out, "abc"):
        ids = torch.tensor([tokenizer(row["instruction"] + row["output"])["input_ids"]])
        with torch.no_grad():
            logits = model.score(model.model(input_ids=ids).last_hidden_state[0, -1])
        expected = logits[-1] - (logits[0] if labels == 2 else 0)
        assert row["score"] == pytest.approx(float(expected), abs=1e-5)


def test_long_texts_are_cut_at_their_beginning_and_counted(place: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "judge", tmp_path / "out"
    compared_runs.save(builders.tiny_classifier("llama", 5), folder)
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 6}))
    models = [place / "sparse", place / "abc", "--prompts", 6]
    text = ok(*models, "--oracle", folder, "--max-new-tokens", 30, "--out", out)
    assert "texts whose beginning was cut" in text
    assert results(out)["oracle"]["notes"]["texts whose beginning was cut"] > 0
    tokenizer, model = builders.train_tokenizer(), builders.tiny_classifier("llama", 5)
    for row in rows_of(out, "abc"):
        ids = tokenizer(row["instruction"] + row["output"])["input_ids"][-6:]
        logits = model(input_ids=torch.tensor([ids])).logits[0].tolist()
        assert row["score"] == pytest.approx(logits[1] - logits[0], abs=1e-5)


def test_an_oracle_that_trained_a_run_is_refused(place: Path, tmp_path: Path) -> None:
    """The reward model itself, a copy of it, or the function that was the judge."""
    copy = tmp_path / "innocent"
    shutil.copytree(place / "store" / "reward_model" / "4e3", copy)
    for oracle in (place / "store" / "reward_model" / "4e3", copy):
        said = mistake(
            place / "abc",
            place / "sparse",
            "--prompts",
            4,
            "--oracle",
            oracle,
            "--out",
            tmp_path / "o",
        )
        assert "--oracle" in said and "was trained on it (reward_model 4e3)" in said


def test_a_function_that_trained_a_run_is_refused(place: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from tokencredit import config
    from tokencredit.judges.function import FunctionJudge

    file = tmp_path / "praise.py"
    file.write_text("def score(prompts, responses):\n    return [0.0] * len(responses)\n")
    trained = tmp_path / "run"
    shutil.copytree(place / "sparse", trained)
    own = config.read(trained / "config.yaml")
    judge = FunctionJudge(function=f"{file}:score")
    (trained / "config.yaml").write_text(config.dump(replace(own, scorer=judge)), "utf-8")
    copy = shutil.copy(file, tmp_path / "other.py")
    said = mistake(
        trained, place / "abc", "--prompts", 4, "--oracle", f"{copy}:score", "--out", tmp_path
    )
    assert "was trained on it" in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return [float('nan')] * len(responses)", "a number that is not finite"),
        ("return [1.0]", "for 4 responses"),
        ("return 'good'", "returned 'good' where scores are wanted"),
    ],
)
def test_a_bad_function_is_explained(body: str, words: str, place: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(f"def f(prompts, responses):\n    {body}\n")
    said = mistake(
        place / "sparse",
        place / "abc",
        "--prompts",
        4,
        "--oracle",
        f"{file}:f",
        "--out",
        tmp_path / "o",
    )
    assert "--oracle" in said and words in said


def test_a_function_that_reads_places_of_tokens_is_refused_before_any_answer(
    place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "told.py"
    file.write_text("def f(prompts, responses, offsets):\n    return [0.0] * len(responses)\n")
    out = ["--prompts", 4, "--out", tmp_path / "o"]
    said = mistake(place / "sparse", place / "abc", "--oracle", f"{file}:f", *out)
    assert "its parameter offsets" in said and not (tmp_path / "o" / "generations.jsonl").exists()
