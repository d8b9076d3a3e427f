"""Shell scripts: nothing that shellcheck warns of, and a SLURM job that saves and is queued again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """\
#!/usr/bin/env bash
echo "$@" >arguments
trap 'exit CODE' USR1 TERM
touch running
while true; do sleep 0.05; done
"""
"""Stands for a run that saves when it is asked to, and ends with a code."""


def test_shell_scripts_pass_shellcheck() -> None:
    scripts = [ROOT / ".ci" / "run", ROOT / ".ci" / "setup", *(ROOT / "launch").glob("*.sh")]
    assert len(scripts) > 2
    checker = Path(sys.executable).parent / "shellcheck"
    ended = subprocess.run([checker, *scripts], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def program(path: Path, text: str) -> None:
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "code", "requeued"),
    [
        (signal.SIGUSR1, 75, True),
        (signal.SIGUSR1, 2, False),
        (signal.SIGTERM, 75, False),
    ],
)
def test_a_slurm_job_passes_signals_on_and_is_queued_again_once_the_run_is_saved(
    tmp_path: Path, number: int, code: int, requeued: bool
) -> None:
    """SLURM signals the script alone; `scontrol` is SLURM's."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "slurm.sh", tmp_path / "launch" / "slurm.sh")
    program(tmp_path / ".ci" / "setup", "#!/usr/bin/env bash\n")
    program(tmp_path / ".venv" / "bin" / "tokencredit", COMMAND.replace("CODE", str(code)))
    program(tmp_path / "bin" / "scontrol", f'#!/usr/bin/env bash\necho "$@" >{tmp_path}/queued\n')
    paths = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}
    job = subprocess.Popen(
        ["bash", tmp_path / "launch" / "slurm.sh", "steps=5"],
        env={**os.environ, **slurm, "PATH": paths},
        start_new_session=True,
    )
    try:
        while not (tmp_path / "running").exists():
            assert job.poll() is None
        job.send_signal(number)
        assert job.wait(30) == code
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    assert (tmp_path / "arguments").read_text() == "train steps=5 seed=3\n"
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.exists() else "") == "requeue 7\n" * requeued
