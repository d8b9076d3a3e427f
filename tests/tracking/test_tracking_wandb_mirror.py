"""The W&B mirror against wandb itself: offline files, a local server, and every way to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokencredit.errors import UserError
from tokencredit.tracking.outgoing import one_line, wandb_id, without_secrets
from tokencredit.tracking.tracking import Tracking, WandbMode
from tokencredit.tracking.wandb_mirror import WandbMirror

Read = Callable[[Path], dict[str, Any]]


def _sample(step: int, text: str = " fine film") -> dict[str, Any]:
    tokens = [" fine", " film"]
    return {
        "step": step,
        "row": 7,
        "prompt": "A",
        "response": text,
        "score": 0.5,
        "tokens": tokens,
        "rewards": [0.25, -0.125],
    }


def _open(mode: str, run_dir: Path, history: Any = (), **fields: Any) -> WandbMirror:
    tracking = Tracking(mode=WandbMode(mode), **fields)
    config = {"beta": 0.8, "judge": {"api_key": "sk-secret"}}
    return WandbMirror.open(tracking, run_dir, "abc-tiny", "abc", config, history)


def _steps(rows: list[dict[str, Any]]) -> list[int]:
    return [row["_step"] for row in rows]


def test_offline_holds_each_step_once_with_config_and_summary(
    tmp_path: Path, own_wandb: None, read_offline: Read, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = _open("offline", tmp_path)
    for step in range(3):
        mirror.log(step, {"score/mean": step / 4})
        mirror.samples(step, [_sample(step)])
    mirror.finish({"score": 0.5})
    found = read_offline(tmp_path)
    assert _steps(found["rows"]) == [0, 1, 2]
    assert [row["score/mean"] for row in found["rows"]] == [0.0, 0.25, 0.5]
    assert (found["id"], found["name"]) == ("abc-tiny", "abc")
    assert found["config"]["beta"] == 0.8
    assert found["summary"]["score"] == 0.5
    tables = sorted(found["folder"].glob("files/media/table/*.json"))
    assert len(tables) == 3
    table = json.loads(tables[0].read_text())
    assert table["data"] == [[0, 7, "A", " fine film", 0.5, "fine:+0.250 film:-0.125"]]
    assert capfd.readouterr() == ("", "")


def test_field_B27_an_offline_resume_has_each_step_once_in_one_folder(
    tmp_path: Path, own_wandb: None, read_offline: Read
) -> None:
    killed = f"""
import os, signal
from pathlib import Path
from tokencredit.tracking.tracking import Tracking, WandbMode
from tokencredit.tracking.wandb_mirror import WandbMirror
tracking = Tracking(mode=WandbMode.offline)
mirror = WandbMirror.open(tracking, Path({str(tmp_path)!r}), "abc-tiny", "abc", {{}})
for step in range(5):
    mirror.log(step, {{"score/mean": -1.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1
    history = [{"step": step, "score/mean": step / 4} for step in range(3)]
    history[1]["samples"] = [_sample(1)]  # type: ignore[assignment]
    mirror = _open("offline", tmp_path, history)
    for step in range(3, 6):
        mirror.log(step, {"score/mean": step / 4})
    mirror.finish({})
    found = read_offline(tmp_path)
    assert found["id"] == "abc-tiny"
    assert _steps(found["rows"]) == [0, 1, 2, 3, 4, 5]
    assert [row["score/mean"] for row in found["rows"]] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert len(list(found["folder"].glob("files/media/table/*.json"))) == 1


def test_auto_without_a_key_is_offline_and_says_so_in_one_line(
    tmp_path: Path, own_wandb: None, read_offline: Read, capfd: pytest.CaptureFixture[str]
) -> None:
    mirror = _open("auto", tmp_path)
    mirror.log(0, {"x": 1.0})
    mirror.finish({})
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"W&B: offline (no API key is configured), in {tmp_path / 'wandb'}\n"
    assert _steps(read_offline(tmp_path)["rows"]) == [0]


def test_a_key_in_netrc_counts(tmp_path: Path, serve: Any, monkeypatch: Any) -> None:
    server = serve("works")
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    Path(os.environ["NETRC"]).write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    mirror = _open("online", tmp_path)
    mirror.log(0, {"x": 1.0})
    mirror.finish({})
    assert _steps(server.rows) == [0]


@pytest.mark.parametrize("behaviour", ["closed", "silent", "401", "500"])
def test_auto_falls_back_to_offline_in_time_whatever_the_server_does(
    behaviour: str,
    tmp_path: Path,
    serve: Any,
    read_offline: Read,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = serve("works" if behaviour == "closed" else behaviour)
    if behaviour == "closed":
        server.close()
    start = time.monotonic()
    mirror = _open("auto", tmp_path, timeout_seconds=1.5)
    opened = time.monotonic() - start
    mirror.log(0, {"x": 1.0})
    mirror.finish({})
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("W&B: offline (")
    assert "kkkk" not in err
    assert _steps(read_offline(tmp_path)["rows"]) == [0]
    assert not list((tmp_path / "wandb").glob("run-*"))
    assert opened < 1.5 + 4.0  # starting wandb's service twice on a busy machine


def test_online_sends_the_history_and_hides_the_key(
    tmp_path: Path, serve: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb" / "offline-run-20260101_000000-abc-tiny").mkdir(parents=True)
    server = serve("works")
    mirror = _open("auto", tmp_path, [{"step": 0, "x": 1.0}, {"step": 1, "x": 2.0}])
    mirror.log(2, {"x": 3.0})
    mirror.finish({})
    assert [(row["_step"], row["x"]) for row in server.rows] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert capfd.readouterr() == ("", "")
    assert not list((tmp_path / "wandb").glob("offline-run-*"))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3
    for path in written:
        content = path.read_bytes()
        assert b"k" * 40 not in content
        assert b"sk-secret" not in content


def test_field_B27_an_online_resume_sends_only_what_the_server_lacks(
    tmp_path: Path, serve: Any
) -> None:
    server = serve("works", logged_steps=2)
    history: list[dict[str, Any]] = [{"step": step, "x": float(step)} for step in range(3)]
    history[0]["samples"] = [_sample(0)]
    mirror = _open("online", tmp_path, history)
    mirror.log(3, {"x": 3.0})
    mirror.finish({})
    assert [(row["_step"], row["x"]) for row in server.rows] == [(2, 2.0), (3, 3.0)]
    assert not list(tmp_path.rglob("*.table.json"))  # nor are samples made ready that it has


def test_a_server_that_falls_silent_does_not_keep_a_finished_run_waiting(
    tmp_path: Path, serve: Any
) -> None:
    server = serve("works")
    mirror = _open("online", tmp_path, timeout_seconds=1.5)
    server.behaviour = "silent"
    mirror.log(0, {"x": 1.0})
    start = time.monotonic()
    mirror.finish({"x": 1.0})
    assert time.monotonic() - start < 1.5 + 4.0


@pytest.mark.parametrize(("key", "obstacle"), [("", "no API key"), ("k" * 40, "not answer")])
def test_online_without_key_or_network_is_an_error_that_names_the_remedy(
    key: str, obstacle: str, tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve("works").close()
    if not key:
        monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(UserError, match=obstacle) as raised:
        _open("online", tmp_path, timeout_seconds=2.0)
    assert "tracking.mode = 'online'" in str(raised.value)
    assert "set WANDB_API_KEY" in str(raised.value)
    assert not (tmp_path / "wandb").exists()


def test_the_first_failure_ends_the_mirror_with_one_line(tmp_path: Path, own_wandb: None) -> None:
    program = f"""
import os, time
from pathlib import Path
from tokencredit.tracking.tracking import Tracking, WandbMode
from tokencredit.tracking.wandb_mirror import WandbMirror
tracking = Tracking(mode=WandbMode.offline)
mirror = WandbMirror.open(tracking, Path({str(tmp_path)!r}), "abc-tiny", "abc", {{}})
mirror.log(0, {{"x": 0.0}})
files = Path("/proc/self/task").glob("*/children")
pids = [pid for file in files for pid in file.read_text().split()]
(core,) = [pid for pid in pids if b"wandb-core" in Path(f"/proc/{{pid}}/cmdline").read_bytes()]
os.kill(int(core), 9)
time.sleep(0.3)
for step in range(1, 4):
    mirror.log(step, {{"x": 1.0}})
    mirror.samples(step, [])
mirror.finish({{"x": 1.0}})
print("finished")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "finished\n"
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("W&B: off (")
    assert done.stderr.endswith("the run goes on\n")


def test_wandb_own_setting_disabled_is_respected(
    tmp_path: Path,
    own_wandb: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror = _open("auto", tmp_path)
    mirror.log(0, {"x": 1.0})
    mirror.finish({})
    assert not (tmp_path / "wandb").exists()
    assert capfd.readouterr() == ("", "")


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
sys.modules["wandb"] = None
from tokencredit.tracking.tracking import Tracking, WandbMode
from tokencredit.tracking.wandb_mirror import WandbMirror
tracking = Tracking(mode=WandbMode.disabled)
mirror = WandbMirror.open(tracking, Path({str(tmp_path)!r}), "a", "a", {{}}, [{{"step": 0}}])
mirror.log(1, {{"x": 1.0}})
mirror.samples(1, [])
mirror.finish({{}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_wandb_refuses_is_made_acceptable_and_stays_unique() -> None:
    assert wandb_id("abc_1-x") == "abc_1-x"
    assert wandb_id("a/b") != wandb_id("a:b")
    assert wandb_id("a/b").startswith("a-b-")
    assert len(wandb_id("x" * 200)) == 64
    assert wandb_id("x" * 200) != wandb_id("x" * 201)


def test_secrets_are_hidden_by_key_and_pad_tokens_are_not() -> None:
    config = {
        "judge": {"api_key": "s", "openai_api_key": "s", "pad_token": "<pad>"},
        "hubs": [{"hf_token": "s", "max_tokens": 3}],
        "password": "",
    }
    assert without_secrets(config) == {
        "judge": {"api_key": "(hidden)", "openai_api_key": "(hidden)", "pad_token": "<pad>"},
        "hubs": [{"hf_token": "(hidden)", "max_tokens": 3}],
        "password": "",
    }


def test_an_error_is_told_in_one_line_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    line = one_line(ValueError("bad key\n 0123456789abcdef"))
    assert line == "ValueError: bad key $WANDB_API_KEY"
