"""The tracker: each step once in each file, whatever happened to the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tokencredit.errors import UserError
from tokencredit.store.jsonl import read_jsonl
from tokencredit.tracking.tracker import Tracker
from tokencredit.tracking.tracking import Tracking, WandbMode

FILES = ("metrics.jsonl", "timings.jsonl", "samples.jsonl")


def _open(
    run_dir: Path, start: int = 0, state: Mapping[str, int] | None = None, mode: str = "disabled"
) -> Tracker:
    return Tracker(
        run_dir=run_dir,
        tracking=Tracking(mode=WandbMode(mode)),
        run_id="abc",
        name="abc",
        config={"beta": 0.8},
        resume_from=state,
        total_steps=6,
        start_step=start,
    )


def _row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "row": 3,
        "prompt": "It",
        "response": " was",
        "score": step / 7,
        "tokens": [" was"],
        "rewards": [step / 7],
        "shaped": [0.0],
        "kl": [0.1],
        "values": [0.0],
        "advantages": [1.0],
    }


def _log(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last):
        tracker.log(step, {"score/mean": step / 3}, {"time/generate_seconds": 0.5})
        if step % 2 == 0:
            tracker.samples(step, [_row(step), _row(step)])


def _bytes(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in FILES}


def test_metrics_and_timings_go_to_their_own_files(tmp_path: Path) -> None:
    tracker = _open(tmp_path)
    tracker.log(0, {"score/mean": 0.25, "kl/k1": 0.0}, {"time/generate_seconds": 0.5})
    tracker.samples(0, [_row(0)])
    tracker.close({})
    expected = b'{"step":0,"score/mean":0.25,"kl/k1":0.0}\n'
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected
    expected = b'{"step":0,"time/generate_seconds":0.5}\n'
    assert (tmp_path / "timings.jsonl").read_bytes() == expected
    assert read_jsonl(tmp_path / "samples.jsonl") == [_row(0)]


def test_state_is_the_length_of_what_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = _open(tmp_path)
    _log(tracker, 0, 3)
    synced: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
    )
    state = tracker.state()
    assert sorted(synced) == sorted(str(tmp_path / name) for name in FILES)
    assert state == {name: (tmp_path / name).stat().st_size for name in FILES}
    assert min(state.values()) > 0
    tracker.close({})


def test_field_B27_a_killed_and_resumed_run_leaves_the_files_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    straight = _open(tmp_path / "straight")
    _log(straight, 0, 6)
    straight.close({})
    killed = tmp_path / "killed"
    program = f"""
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracking_tracker import _log, _open
tracker = _open(Path({str(killed)!r}))
_log(tracker, 0, 3)
Path({str(tmp_path / "state.json")!r}).write_text(json.dumps(tracker.state()))
_log(tracker, 3, 5)
tracker._files["metrics.jsonl"]._file.write(b'{{"step":5,"sco')
tracker._files["metrics.jsonl"]._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert (killed / "metrics.jsonl").read_bytes().endswith(b'{"step":5,"sco')
    resumed = _open(killed, 3, json.loads((tmp_path / "state.json").read_text()))
    _log(resumed, 3, 6)
    resumed.close({})
    assert [row["step"] for row in read_jsonl(killed / "metrics.jsonl")] == [0, 1, 2, 3, 4, 5]
    assert _bytes(killed) == _bytes(tmp_path / "straight")


def test_without_a_checkpoint_the_files_start_over(tmp_path: Path) -> None:
    first = _open(tmp_path)
    _log(first, 0, 4)
    first.close({})
    complete = _bytes(tmp_path)
    again = _open(tmp_path)
    assert _bytes(tmp_path) == dict.fromkeys(FILES, b"")
    _log(again, 0, 4)
    again.close({})
    assert _bytes(tmp_path) == complete


def test_a_file_that_the_checkpoint_does_not_know_starts_over(tmp_path: Path) -> None:
    first = _open(tmp_path)
    _log(first, 0, 2)
    state = first.state()
    first.close({})
    _open(tmp_path, 2, {name: state[name] for name in FILES[:2]}).close({})
    assert (tmp_path / "samples.jsonl").read_bytes() == b""
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize("step", [0, 2, 5])
def test_a_step_out_of_turn_is_refused(tmp_path: Path, step: int) -> None:
    with _open(tmp_path) as tracker:
        tracker.log(0, {"x": 1.0}, {})
        with pytest.raises(ValueError, match=f"step = {step}: the next step to log is 1"):
            tracker.log(step, {"x": 1.0}, {})


def test_a_checkpoint_of_another_step_is_refused(tmp_path: Path) -> None:
    with _open(tmp_path) as tracker:
        _log(tracker, 0, 3)
        state = tracker.state()
    with pytest.raises(UserError, match="= 3 steps: the checkpoint continues at step 4"):
        _open(tmp_path, 4, state)


def test_files_shorter_than_the_checkpoint_are_refused(tmp_path: Path) -> None:
    with _open(tmp_path) as tracker:
        _log(tracker, 0, 3)
        state = tracker.state()
    (tmp_path / "timings.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"timings\.jsonl = 0 bytes"):
        _open(tmp_path, 3, state)


def test_a_metric_that_is_not_finite_is_named(tmp_path: Path) -> None:
    with _open(tmp_path) as tracker, pytest.raises(ValueError, match="kl/k1 = nan"):
        tracker.log(0, {"kl/k1": float("nan")}, {})


def test_the_mirror_gets_metrics_timings_and_samples_also_after_a_resume(
    tmp_path: Path, own_wandb: None, read_offline: Callable[[Path], dict[str, Any]]
) -> None:
    first = _open(tmp_path, mode="offline")
    _log(first, 0, 3)
    state = first.state()
    _log(first, 3, 5)
    first.close({})
    second = _open(tmp_path, 3, state, mode="offline")
    _log(second, 3, 6)
    second.close({"score": 1.5})
    found = read_offline(tmp_path)
    assert [row["_step"] for row in found["rows"]] == [0, 1, 2, 3, 4, 5]
    assert [row["score/mean"] for row in found["rows"]] == [step / 3 for step in range(6)]
    assert {row["time/generate_seconds"] for row in found["rows"]} == {0.5}
    assert len(list(found["folder"].glob("files/media/table/*.json"))) == 3
    assert found["config"]["beta"] == 0.8
    assert found["summary"]["score"] == 1.5


def test_closing_twice_is_allowed(tmp_path: Path) -> None:
    with _open(tmp_path) as tracker:
        _log(tracker, 0, 1)
        tracker.close({})
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1
