"""Shell scripts: nothing that shellcheck warns of, what they would run, and a SLURM job that saves and is queued again."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ended import Ended

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
    assert len(scripts) > 8
    checker = Path(sys.executable).parent / "shellcheck"
    ended = subprocess.run(
        [checker, *(script.relative_to(ROOT) for script in scripts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def shown() -> list[str]:
    """The commands of launch/README.md that are no `tokencredit` and no `make`, which other tests run or plan."""
    page = (ROOT / "launch" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    found = [
        shlex.join(shlex.split(line, comments=True)) for b in blocks for line in b.splitlines()
    ]
    return [line for line in found if not line.startswith(("tokencredit ", "make "))]


def dry_run(command: str) -> Ended:
    """What a command prints that is not to run anything; `sbatch` would run the script."""
    words = shlex.split(command)
    place = next(number for number, word in enumerate(words) if word.endswith(".sh"))
    variables = dict(word.split("=", 1) for word in words[:place] if "=" in word)
    ended = subprocess.run(
        ["bash", words[place], "--dry-run", *words[place + 1 :]],
        cwd=ROOT,
        env={**os.environ, **variables, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("command", shown())
def test_every_command_of_the_page_prints_its_dry_run(command: str) -> None:
    """The last line is a command with all its arguments; a command of srun stands for itself."""
    if command.startswith("srun "):
        *_, program_, verb, _ = command.split()
        assert (program_, verb) == (".venv/bin/tokencredit", "train")
        return
    ended = dry_run(command)
    assert ended.code == 0, ended.err
    overrides = command.partition(".sh ")[2]
    *_, last = ended.out.splitlines()
    assert last.rstrip().endswith(f" {overrides}"), ended.out
    processes = re.findall(r"--(?:num_processes|nproc_per_node|num_gpus)=(\d+)", last)
    name = re.search(r"hardware=(\w+)", overrides)
    if processes and name:
        nodes = 2 if "NODES=2" in command else 1
        total = int(processes[0]) * (1 if "num_processes" in last else nodes)
        assert total == preset(name[1]).get("processes", 1)


def preset(name: str) -> dict[str, Any]:
    """A file of conf/hardware/."""
    text = (ROOT / "conf" / "hardware" / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@pytest.mark.parametrize("script", ["torchrun.sh", "accelerate.sh", "deepspeed.sh"])
@pytest.mark.parametrize(
    "name",
    [
        p.stem
        for p in (ROOT / "conf" / "hardware").glob("*.yaml")
        if preset(p.stem).get("processes")
    ],
)
def test_every_preset_of_several_processes_has_its_command(script: str, name: str) -> None:
    """Two nodes for what is meant for two."""
    nodes = "NODES=2 MASTER_ADDR=node1 MASTER_PORT=12345 " if "multinode" in name else ""
    ended = dry_run(f"{nodes}launch/{script} hardware={name}")
    assert ended.code == 0, ended.err
    count = preset(name)["processes"]
    per_node = count // 2 if nodes else count
    wanted = f"--num_processes={count}" if "accelerate" in script else f"={per_node} "
    assert wanted in ended.out
    if nodes:
        assert "node1" in ended.out and "12345" in ended.out
    assert ("DS_ACCELERATOR=cpu" in ended.out) == (script == "deepspeed.sh" and "cpu" in name)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("launch/torchrun.sh hardware=nothing", "hardware=nothing: there is no conf/hardware/"),
        ("NODES=3 launch/torchrun.sh hardware=cpu_zero2", "NODES=3: does not divide the 2 processes"),
        ("NODES=2 launch/accelerate.sh hardware=cpu_zero2", "MASTER_ADDR=127.0.0.1: name the first"),
    ],
)  # fmt: skip
def test_what_cannot_be_launched_is_refused(command: str, said: str) -> None:
    ended = dry_run(command)
    assert ended.code == 2 and said in ended.err and not ended.out


def test_the_container_file_copies_what_is_there() -> None:
    text = (ROOT / "launch" / "Containerfile").read_text(encoding="utf-8")
    copied = [
        name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()
    ]
    assert {"pyproject.toml", "constraints.txt", "src", "conf"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    torch = re.search(r"^ARG TORCH=(\S+)", text, re.MULTILINE)
    assert torch is not None and torch[1] in (ROOT / ".ci" / "setup").read_text(encoding="utf-8")


def program(path: Path, text: str) -> None:
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["slurm.sh", "slurm_nodes.sh"])
@pytest.mark.parametrize(
    ("number", "code", "requeued"),
    [
        (signal.SIGUSR1, 75, True),
        (signal.SIGUSR1, 2, False),
        (signal.SIGTERM, 75, False),
    ],
)
def test_a_slurm_job_passes_signals_on_and_is_queued_again_once_the_run_is_saved(
    tmp_path: Path, script: str, number: int, code: int, requeued: bool
) -> None:
    """SLURM signals the script alone, of which it has a copy; `scontrol` and `srun` are SLURM's."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "common.sh", tmp_path / "launch")
    copy = shutil.copy(ROOT / "launch" / script, tmp_path / "slurm_script")
    program(tmp_path / "bin" / "srun", '#!/usr/bin/env bash\nexec "${@:3}"\n')
    program(tmp_path / ".ci" / "setup", "#!/usr/bin/env bash\n")
    program(tmp_path / ".venv" / "bin" / "tokencredit", COMMAND.replace("CODE", str(code)))
    program(tmp_path / "bin" / "scontrol", f'#!/usr/bin/env bash\necho "$@" >{tmp_path}/queued\n')
    paths = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}
    job = subprocess.Popen(
        ["bash", copy, "steps=5"],
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
    assert (
        tmp_path / "arguments"
    ).read_text() == f"train steps=5{' seed=3' * (script == 'slurm.sh')}\n"
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.exists() else "") == "requeue 7\n" * requeued
