"""The closing summary and the report, from files alone."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tokencredit.errors import UserError
from tokencredit.reports.summary import closing_summary, write_report


def test_the_summary_tells_then_and_now(complete_run: Path) -> None:
    text = closing_summary(complete_run)
    assert text.startswith("abc: 24 steps, seed 3, complete, 2 min 30 s of RL\n")
    # Ten values, five of each kind: variance 10 * 0.25 / 9, so se 1/6; t(0.975, 9) = 2.262157.
    half = 2.262157 / 6
    assert f"first 10 steps   +0.500   [{0.5 - half:+.3f}, {0.5 + half:+.3f}]   2.25" in text
    assert f"last 10 steps    +4.500   [{4.5 - half:+.3f}, {4.5 + half:+.3f}]   9.25" in text
    assert f"+4.000, {4 / (math.sqrt(2) / 6):+.1f} standard errors apart" in text


def test_the_summary_compares_policy_and_sft(complete_run: Path) -> None:
    lines = [" ".join(line.split()) for line in closing_summary(complete_run).splitlines()]
    assert "score 0.500 ± 0.400 1.500 ± 0.300 +2.0" in lines
    assert "distinct_2 0.900 0.700 -" in lines
    assert "kl - 9.500 ± 0.200 -" in lines


def test_the_summary_and_the_report_say_how_right_the_scorers_are(
    complete_run: Path, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    text, title = closing_summary(complete_run), "scorers on held-out texts"
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "reward model 0.750 ± 0.027 [0.693, 0.799] 256 19.5" in lines
    assert title in text and title in write_report(complete_run).read_text()
    older = write_run(tmp_path / "older", score__mean=[1.0, 2.0])
    assert title not in closing_summary(older) + write_report(older).read_text()


def test_the_summary_adds_up_time_by_phase(complete_run: Path) -> None:
    lines = [line.split() for line in closing_summary(complete_run).splitlines()]
    assert ["update", "1", "min", "36", "s"] in lines
    assert ["generate", "48", "s"] in lines
    assert ["loading,", "evaluation,", "files", "6", "s"] in lines
    assert ["together", "2", "min", "30", "s"] in lines  # 96 + 48 + 6 = 150
    assert not any("peak" in word for words in lines for word in words)


def test_places_are_relative_to_where_the_user_is(
    complete_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(complete_run.parent.parent)
    text = closing_summary(complete_run)
    assert f"  {Path('abc', 'key', 'policy')} " in text
    assert str(Path("abc", "key", "samples.jsonl")) in text
    assert "report.html" not in text
    write_report(complete_run)
    assert str(Path("abc", "key", "report.html")) in closing_summary(complete_run)


def test_a_run_under_way_is_summarised_from_its_metrics(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    run = write_run(tmp_path / "sparse" / "key", score__mean=[0.0, 1.0, 5.0, 6.0, 7.0])
    text = closing_summary(run)
    assert text.startswith("sparse: 5 steps\n")
    assert "first 2 steps   +0.500" in text
    assert "last 2 steps    +6.500" in text
    assert "held-out" not in text
    assert "nan" not in text


def test_one_step_is_not_compared(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    text = closing_summary(write_run(tmp_path / "a" / "b", score__mean=[2.0], kl__k1=[0.0]))
    assert "first 1 step   +2.000   unknown (n = 1)   0.00" in text
    assert "too few steps to compare" in text


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        closing_summary(tmp_path)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_one_file_with_numbers_figures_and_samples(complete_run: Path) -> None:
    path = write_report(complete_run)
    html = path.read_text()
    assert path == complete_run / "report.html"
    assert html.count('src="data:image/png;base64,iVBOR') == 2
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"https?://|url\(|@import", html)
    for shown in ("abc · key", "+4.500", "0.500 ± 0.400", "1 min 36 s", "seed 3"):
        assert shown in html, shown
    assert not list(complete_run.glob("*.tmp"))


def test_field_B27_everything_is_built_with_wandb_absent(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
sys.modules["wandb"] = None
from tokencredit.reports.summary import closing_summary, write_report
from tokencredit.tracking.tracker import Tracker
from tokencredit.tracking.tracking import Tracking, WandbMode
run_dir = Path(sys.argv[1])
tracking = Tracking(mode=WandbMode(sys.argv[2]))
with Tracker(run_dir, tracking, "a", "abc", {}, None, 3, 0) as tracker:
    for step in range(3):
        tracker.log(step, {"score/mean": step / 2, "kl/k1": 0.0}, {"time/a_seconds": 1.0})
write_report(run_dir)
print(closing_summary(run_dir))
"""
    command = [sys.executable, "-c", program]
    contents = []
    for mode in ("disabled", "auto"):
        run_dir = tmp_path / mode / "abc"
        done = subprocess.run(
            [*command, str(run_dir), mode], capture_output=True, text=True, check=True
        )
        assert "last 1 step" in done.stdout
        assert ("W&B: off (" in done.stderr) == (mode == "auto")
        assert (run_dir / "figures" / "kl.png").exists()
        assert len((run_dir / "report.html").read_bytes()) > 10_000
        contents.append((run_dir / "metrics.jsonl").read_bytes())
    assert contents[0] == contents[1]
    assert [json.loads(line)["step"] for line in contents[0].splitlines()] == [0, 1, 2]
