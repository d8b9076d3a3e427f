"""Bad input to the whole program: one error, no traceback, nothing half-written."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ended import Ended

from .conftest import STEPS, Run, Workplace, review, write_jsonl

pytestmark = pytest.mark.slow

Entry = Callable[..., Ended]


def nothing_was_made(place: Workplace) -> None:
    """No artifact, no run folder, no sweep."""
    assert not place.artifacts()
    assert not (place.folder / "runs").exists()
    assert not list(place.folder.rglob("*.tmp"))


# Data ---------------------------------------------------------------------------------------------


def broken_data(folder: Path, kind: str) -> Path:
    """A data file that cannot be used."""
    rows = [review(number) for number in range(40)]
    path = folder / f"{kind.replace(' ', '_')}.jsonl"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated gzip":
        path = path.with_suffix(".jsonl.gz")
        packed = gzip.compress("\n".join(map(json.dumps, rows)).encode())
        path.write_bytes(packed[: len(packed) // 2])
    elif kind == "wrong encoding":
        text = json.dumps({"text": "café " * 60, "label": 1}, ensure_ascii=False) + "\n"
        path.write_bytes(text.encode("latin-1"))
    elif kind == "lacks a column":
        write_jsonl(path, [{"review": row["text"], "label": row["label"]} for row in rows])
    elif kind == "not JSON":
        path.write_text(json.dumps(rows[0]) + "\n{'text': 1}\n")
    elif kind == "one class":
        write_jsonl(path, [review(2 * number) for number in range(200)])
    elif kind == "unknown labels":
        write_jsonl(path, [{**row, "label": f"stars-{row['label']}"} for row in rows])
    return path


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing", ["dataset.path", "missing.jsonl", "no such file"]),
        ("empty", ["dataset.path", "empty"]),
        ("truncated gzip", ["dataset.path", "truncated"]),
        ("wrong encoding", ["dataset.path", "UTF-8"]),
        ("lacks a column", ["'text'", "'review'", "dataset.text_column"]),
        ("not JSON", ["dataset.path", "line 2", "not JSON"]),
        ("one class", ["dataset", "class", "positive and negative"]),
        ("unknown labels", ["stars-", "dataset.positive"]),
    ],
)
def test_data_that_cannot_be_used(
    entry: Entry, fresh: Workplace, kind: str, named: list[str]
) -> None:
    error = entry(f"dataset.path={broken_data(fresh.folder, kind)}").error()
    for part in named:
        assert part in error
    nothing_was_made(fresh)


def test_data_set_of_the_hub_without_network(entry: Entry, fresh: Workplace) -> None:
    error = entry("dataset=imdb", "dataset.source=hub", "dataset.path=null").error()
    for part in ("dataset.hub", "stanfordnlp/imdb", "network", "dataset.source=package"):
        assert part in error
    nothing_was_made(fresh)


def test_prompt_longer_than_the_context(fresh: Workplace) -> None:
    rows = [
        {"prompt": review(number, length=150)["text"], "completion": " good", "label": number % 2}
        for number in range(60)
    ]
    data = write_jsonl(fresh.folder / "long.jsonl", rows)
    (fresh.folder / "score.py").write_text(
        "def score(prompts, responses): return [0.0] * len(responses)\n"
    )
    error = fresh.train(
        f"dataset.path={data}", "dataset.format=prompt_completion", "judge=function",
        "judge.function=score.py:score", "reward_scheme=sparse", "oracle.enabled=false", "steps=1",
    ).error()  # fmt: skip
    for part in ("prompt", "context", "model.context"):
        assert part in error
    assert not [path for path in fresh.folder.glob("runs/*/*/*") if path.name != ".lock"]


# Models -------------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(first: Run, tmp_path: Path) -> Path:
    """A plain model folder, to be damaged."""
    return Path(shutil.copytree(first.folder / "policy", tmp_path / "model"))


def policy_from(folder: Path) -> list[str]:
    """Overrides for a model in a folder."""
    return ["model.policy.source=path", f"model.policy.path={folder}"]


def test_tokenizer_without_an_end_token(entry: Entry, fresh: Workplace, model_folder: Path) -> None:
    edit_json(model_folder / "tokenizer_config.json", eos_token=None)
    (model_folder / "special_tokens_map.json").unlink(missing_ok=True)
    error = entry(*policy_from(model_folder)).error()
    for part in ("tokenizer", str(model_folder), "end-of-sequence", "eos_token"):
        assert part in error
    nothing_was_made(fresh)


def test_model_folder_without_weights(entry: Entry, fresh: Workplace, model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    error = entry(*policy_from(model_folder)).error()
    for part in ("model.policy.path", str(model_folder), "weights"):
        assert part in error
    (model_folder / "pytorch_model.bin").write_bytes(b"not safe")
    assert "pickle" in entry(*policy_from(model_folder)).error()
    (model_folder / "config.json").unlink()
    assert "config.json" in entry(*policy_from(model_folder)).error()
    shutil.rmtree(model_folder)
    assert "no such folder" in entry(*policy_from(model_folder)).error()
    nothing_was_made(fresh)


def test_model_of_the_hub_without_network(entry: Entry, fresh: Workplace) -> None:
    error = entry("model.policy.source=hub", "model.policy.name=nobody/nothing").error()
    for part in ("model.policy.name", "nobody/nothing", "hub", "model.policy.source"):
        assert part in error
    nothing_was_made(fresh)


def test_longer_context_than_the_model_reads(
    entry: Entry, fresh: Workplace, model_folder: Path
) -> None:
    error = entry(*policy_from(model_folder), "sft.max_length=256", "sft.max_tokens=null").error()
    assert "128" in error
    assert "256" in error
    nothing_was_made(fresh)


def test_conversations_need_a_chat_template(
    entry: Entry, fresh: Workplace, model_folder: Path
) -> None:
    rows = [{"messages": chat(number), "label": number % 2} for number in range(60)]
    data = write_jsonl(fresh.folder / "chat.jsonl", rows)
    error = entry(
        *policy_from(model_folder), f"dataset.path={data}", "dataset.format=messages"
    ).error()
    for part in ("dataset.format", "messages", "chat template"):
        assert part in error
    nothing_was_made(fresh)


# Places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["run_dir", "runs_dir", "store"])
def test_output_that_cannot_be_written(entry: Entry, fresh: Workplace, key: str) -> None:
    (fresh.folder / "file").write_text("in the way")
    error = entry(f"{key}={fresh.folder / 'file' / 'below'}", "steps=1").error()
    for part in (key, "file"):
        assert part in error
    nothing_was_made(fresh)


def test_run_folder_of_another_configuration(own: Workplace, first: Run) -> None:
    before = first.bytes("manifest.json")
    error = own.train(f"run_dir={first.folder}", "reward_scheme.beta=0.5", "seed=3").error()
    for part in ("run_dir", str(first.folder), "reward_scheme.beta", "0.8", "0.5", "seed"):
        assert part in error
    error = own.train(f"run_dir={first.folder}", f"steps={STEPS + 1}", "hardware.threads=2").error()
    for part in ("hardware.threads", "2", "began with 1", "run.resume_inexact"):
        assert part in error
    assert first.bytes("manifest.json") == before


def test_folder_that_is_no_run(own: Workplace) -> None:
    (own.folder / "mine").mkdir()
    (own.folder / "mine" / "thesis.txt").write_text("years of work")
    error = own.train("run_dir=mine", "steps=1").error()
    for part in ("run_dir", "mine", "thesis.txt"):
        assert part in error
    assert [path.name for path in (own.folder / "mine").iterdir()] == ["thesis.txt"]


def test_run_folder_in_use_is_refused_after_ten_seconds(own: Workplace) -> None:
    folder = own.folder / "busy"
    folder.mkdir()
    began = time.monotonic()
    with FileLock(folder / ".lock"):
        error = own.train("run_dir=busy", "steps=1").error()
    assert time.monotonic() - began > 10
    for part in ("run_dir", "busy", "another process"):
        assert part in error
    assert {path.name for path in folder.iterdir()} <= {".lock"}


def test_run_dir_is_no_word_for_a_sweep(own: Workplace) -> None:
    ended = own.train("-m", "seed=0,1", "run_dir=one", "steps=1")
    assert ended.code != 0
    assert "run_dir" in ended.err + ended.out
    assert "Traceback" not in ended.err
    assert not (own.folder / "one").exists()


# Plug-ins and functions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("return [0.0]", ["judge.function", "1", "16"]),
        ("return None", ["judge.function"]),
        ("return ['good' for _ in responses]", ["judge.function"]),
        ("return [float('nan') for _ in responses]", ["judge.function", "finite"]),
        ("return 1 / 0", ["judge.function", "ZeroDivisionError"]),
    ],
)
def test_function_that_answers_wrongly(own: Workplace, body: str, named: list[str]) -> None:
    (own.folder / "bad.py").write_text(f"def score(prompts, responses):\n    {body}\n")
    error = own.train(
        "judge=function", "judge.function=bad.py:score", "reward_scheme=sparse", "oracle.enabled=false",
        "steps=1",
    ).error()  # fmt: skip
    for part in named:
        assert part in error


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ("none.py:score", ["judge.function", "none.py"]),
        ("good.py:scor", ["judge.function", "scor"]),
        ("broken.py:score", ["judge.function", "does not import", "no_such"]),
        ("no_such_module:score", ["judge.function", "no_such_module"]),
    ],
)
def test_function_that_cannot_be_had_is_refused_before_anything_is_trained(
    entry: Entry, fresh: Workplace, function: str, named: list[str]
) -> None:
    (fresh.folder / "good.py").write_text(
        "def score(prompts, responses): return [0.0] * len(prompts)\n"
    )
    (fresh.folder / "broken.py").write_text("import no_such\n")
    error = entry("judge=function", f"judge.function={function}", "reward_scheme=sparse").error()
    for part in named:
        assert part in error
    nothing_was_made(fresh)


def edit_json(path: Path, **values: Any) -> None:
    """Set, or with None remove, keys of a JSON file."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def chat(number: int) -> list[dict[str, str]]:
    """A short conversation."""
    return [
        {"role": "user", "content": f"What did you think of film {number}?"},
        {"role": "assistant", "content": review(number, length=12)["text"]},
    ]
