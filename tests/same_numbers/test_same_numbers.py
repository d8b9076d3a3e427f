"""One number changed by hand is found and named; times may differ; nothing may be reused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from same_numbers import __main__ as program
from same_numbers.compare import Finding, compare_places, first_difference, lines_more
from same_numbers.jobs import JOBS
from same_numbers.parts import Both, tasks
from same_numbers.sides import Side, Told, Wrong, check_fresh

STORED, RUN = "store/sft/aaaa", "runs/sparse/bbbb"


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Two places that differ in seconds and in the commit alone."""
    for number, name in enumerate(("old", "new")):
        place = tmp_path / name
        write(place / STORED / "manifest.json", {"key": "aaaa", "figures": {}, "seconds": number})
        (place / STORED / "model.safetensors").write_bytes(b"weights")
        write(
            place / RUN / "manifest.json", {"key": "bbbb", "git_commit": name, "identity": {"a": 1}}
        )
        write(place / RUN / "metrics.jsonl", {"step": 0, "score/mean": 0.25})
        write(place / RUN / "samples.jsonl", {"text": "good"})
        write(place / RUN / "evaluation.jsonl", {"score": 0.5})
        write(place / RUN / "results.json", {"kl": 0.1, "seconds": number, "steps": 1})
        write(place / RUN / "timings.jsonl", {"seconds": number})
        write(place / RUN / "policy" / "config.json", {"layers": 2})
    return tmp_path / "old", tmp_path / "new"


def differing(both: tuple[Path, Path]) -> list[str]:
    return [finding.line() for finding in compare_places("x", *both) if finding.difference]


def test_equal_sides_are_equal(both: tuple[Path, Path]) -> None:
    found = list(compare_places("x", *both))
    assert differing(both) == []
    assert {f"x {name}" for name in ("keys", "sft/aaaa", "metrics.jsonl", "manifest")} <= {
        finding.what for finding in found
    }


def number_in_metrics(place: Path) -> None:
    write(place / RUN / "metrics.jsonl", {"step": 0, "score/mean": 0.250000001})


def number_in_results(place: Path) -> None:
    write(place / RUN / "results.json", {"kl": 0.2, "seconds": 7, "steps": 1})


def bytes_of_the_same_number(place: Path) -> None:
    path = place / RUN / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.25", "0.250"))


def one_line_more(place: Path) -> None:
    with (place / RUN / "samples.jsonl").open("a") as file:
        file.write("{}\n")


def weights(place: Path) -> None:
    (place / STORED / "model.safetensors").write_bytes(b"weightz")


def exported(place: Path) -> None:
    write(place / RUN / "policy" / "config.json", {"layers": 3})


def evaluated(place: Path) -> None:
    (place / RUN / "evaluation.jsonl").unlink()


def key(place: Path) -> None:
    (place / STORED).rename(place / "store/sft/cccc")


def run_key(place: Path) -> None:
    (place / RUN).rename(place / "runs/sparse/cccc")


def no_run(place: Path) -> None:
    shutil.rmtree(place / "runs")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (number_in_metrics, "x metrics.jsonl: DIFFERS: line 1: /score/mean: 0.25 → 0.250000001"),
    (bytes_of_the_same_number, "x metrics.jsonl: DIFFERS: line 1: b'"),
    (number_in_results, "x results.json: DIFFERS: /kl: 0.1 → 0.2"),
    (one_line_more, "x samples.jsonl: DIFFERS: line 2: only one side has it"),
    (evaluated, "x evaluation.jsonl: DIFFERS: only one side has it"),
    (weights, "x sft/aaaa: DIFFERS: /model.safetensors: "),
    (exported, "x other files: DIFFERS: /policy/config.json: "),
    (key, "x keys: DIFFERS: gone ['sft/aaaa'], new ['sft/cccc']"),
    (run_key, "x run folder: DIFFERS: gone ['sparse/bbbb'], new ['sparse/cccc']"),
    (no_run, "x run folder: DIFFERS: gone ['sparse/bbbb'], new []"),
]


@pytest.mark.parametrize(
    ("change", "line"), CHANGES, ids=lambda item: getattr(item, "__name__", "")
)
def test_one_change_by_hand_is_named(
    both: tuple[Path, Path], change: Callable[[Path], None], line: str
) -> None:
    change(both[1])
    (found,) = differing(both)
    assert found.startswith(line)


def test_what_the_new_side_says_beside_is_named_and_no_difference(both: tuple[Path, Path]) -> None:
    for place, more in zip(both, ({}, {"horizon": "looks ahead"}), strict=True):
        write(place / RUN / "manifest.json", {"key": "bbbb", **more})
    found = [finding.line() for finding in compare_places("x", *both)]
    assert "x manifest (new: horizon): equal" in found
    write(both[1] / RUN / "manifest.json", {"horizon": "looks ahead"})
    assert differing(both)[0] == "x manifest (new: horizon): DIFFERS: /key is gone"


def test_lines_that_the_new_side_says_between_are_found() -> None:
    old = ["hit a", "hit b"]
    assert lines_more(old, ["hit a", "looks ahead", "hit b", "so"]) == ["looks ahead", "so"]
    assert lines_more(old, old) == []
    for new in (["hit a"], ["hit b", "hit a"], ["hit a", "miss b"]):
        assert lines_more(old, new) is None


def test_two_empty_sides_are_no_proof(tmp_path: Path) -> None:
    (found,) = differing((tmp_path / "a", tmp_path / "b"))
    assert found == "x run folder: DIFFERS: there is none"


def test_what_differs_makes_the_program_fail(
    both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    task = ("x", lambda name: compare_places(name, *both), "x")
    assert program.run_all([task], 1) == 0
    number_in_metrics(both[1])
    assert program.run_all([task], 1) == 1
    assert "x metrics.jsonl: DIFFERS: line 1" in capsys.readouterr().out


def test_a_command_that_fails_is_a_difference() -> None:
    def fails(_: str) -> list[Finding]:
        raise Wrong("exit code 1")

    assert program.run_task(("x", fails, "x")) == [Finding("x", "exit code 1")]  # type: ignore[arg-type]


def told(*lines: str) -> Told:
    return Told(0, "", "".join(f"{line}\n" for line in lines), {})


def test_a_stage_that_was_not_computed_here_is_refused() -> None:
    fresh = f"sft {'a' * 16}: running"
    check_fresh(told(fresh, f"sft {'a' * 16}: done in 3 s"), "x")
    for state in ("reused", "complete in runs/sparse/k"):
        with pytest.raises(Wrong, match=state.split(maxsplit=1)[0]):
            check_fresh(told(fresh, f"oracle {'b' * 16}: {state}"), "x")
    with pytest.raises(Wrong, match="no stage says"):
        check_fresh(told("nothing"), "x")


def test_processes_of_another_tree_are_named(tmp_path: Path) -> None:
    side = Side("head", tmp_path / "tree", tmp_path)
    own = f"{tmp_path}/tree/src/tokencredit/__init__.py"
    side.witness.write_text(
        f"-m tokencredit.cli train\t{own}\n-m tokencredit.pipeline.worker sft\t{own}\n"
    )
    assert side.strangers() == []
    side.witness.write_text(f"-m tokencredit.cli train\t{own}\n")
    assert side.strangers() == ["no worker of a stage was seen"]
    side.witness.write_text(
        "-m tokencredit.pipeline.worker sft\t/elsewhere/tokencredit/__init__.py\n"
    )
    assert len(side.strangers()) == 1


def test_places_in_values_are_named() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "/a/1/b: 2 → 3"
    assert first_difference({"a": 1}, {"a": True}) == "/a: 1 → True", "types count"
    assert first_difference({"a": 1}, {}) == "/a is gone"


def test_every_run_is_planned_and_read_again(tmp_path: Path) -> None:
    side = Side("x", tmp_path, tmp_path)
    names = {name for name, _, _ in tasks(Both(side, side), set())}
    assert len(JOBS) == 12
    assert {f"{part} {name}" for part in ("plan", "report") for name in JOBS} <= names
    assert {"table", "compare", "experiments", "resume abc"} <= names
