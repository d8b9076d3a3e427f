"""What a machine brings along: ranks of a cluster, characters of a shell, encodings, large seeds."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from case_machine import Place, clean, own_process
from ended import Ended
from policies import plain_config
from tokencredit.composing.grammar import check_grammar, quoted
from tokencredit.console import plain
from tokencredit.errors import UserError
from tokencredit.pipeline import environment
from tokencredit.pipeline.process import rank_environments, stage_environment
from tokencredit.stages.reward_model import member_seed
from tokencredit.streams import integer, permutation, stream_key, torch_seed

CLUSTER = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "4",
    "PMI_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16",
}
KEPT = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "7", "HF_HOME": "/x"}
SHELLS = [
    ("dataset.path", "data#1.jsonl"),
    ("dataset.path", "评论.jsonl"),
    ("dataset.path", "~/reviews.jsonl"),
    ("dataset.path", "my (old) reviews.jsonl"),
    ("dataset.path", "reviews&more;.jsonl"),
    ("dataset.path", "a'b.jsonl"),
    ("dataset.path", 'a"b.jsonl'),
    ("dataset.path", 'a\\"b#.jsonl'),
    ("dataset.path", "back#slash\\"),
    ("dataset.path", "x${y}#.jsonl"),
    ("dataset.path", "{x"),
    ("dataset.path", "x]"),
    ("dataset.path", "a,b.jsonl"),
    ("dataset.path", "choice(a,b)"),
    ("dataset.path", "1e5"),
    ("dataset.path", "1_000"),
    ("dataset.path", "true"),
    ("run_dir", "läufe/erster"),
    ("dataset.text_column", "très bien"),
]


# Row 7: ranks


def test_case_7_no_process_of_a_stage_sees_the_ranks_of_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (CLUSTER | KEPT).items():
        monkeypatch.setenv(name, value)
    for stage in ("sft", "reward_model", "rl"):
        given = stage_environment(plain_config(), stage)
        assert not CLUSTER.keys() & given.keys()
        assert KEPT.items() <= given.items()
    _, ours = rank_environments(2, {"MASTER_PORT": "5"})
    assert ours["RANK"] == "1" and ours["WORLD_SIZE"] == "2"


def test_case_7_the_command_takes_ranks_away_and_says_so_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    variables = CLUSTER | KEPT
    environment.take_over(variables)
    assert variables == KEPT
    (line,) = capfd.readouterr().err.splitlines()
    assert all(name in line for name in CLUSTER) and "hardware.processes" in line
    environment.take_over(variables)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", ["plan", "train"])
@pytest.mark.parametrize(
    ("left", "missing"),
    [
        ({"RANK": "3"}, "LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "node1"}, "RANK, LOCAL_RANK, MASTER_PORT"),
        ({"TORCHELASTIC_RUN_ID": "7", "LOCAL_RANK": "0"}, "RANK, WORLD_SIZE, MASTER_ADDR"),
    ],
)
def test_case_7_half_of_a_launchers_environment_is_refused(
    place: Place, command: str, left: dict[str, str], missing: str
) -> None:
    for name, value in left.items():
        place.monkeypatch.setenv(name, value)
    said = place.command(command, "steps=2").error()
    assert f"error: {missing}" in said and "half of what a launcher sets" in said
    assert all(f"{n}={v}" in said for n, v in left.items() if not n.startswith("TORCHELASTIC"))


def test_case_7_plan_with_ranks_of_a_cluster(place: Place) -> None:
    for name, value in CLUSTER.items():
        place.monkeypatch.setenv(name, value)
    ended = place.plan().ok()
    assert "RANK" in ended.err and "are ignored" in ended.err
    assert "misses" in ended.out


@pytest.mark.slow
def test_case_7_a_run_with_ranks_of_a_cluster_ends(place: Place) -> None:
    for name, value in CLUSTER.items():
        place.monkeypatch.setenv(name, value)
    place.monkeypatch.setenv("PYTHONIOENCODING", "ascii")  # row 19, in the stages' processes
    ended = place.train().ok()
    assert ended.err.count("are ignored") == 1


# Row 15: what a shell and Hydra make of values


@pytest.mark.parametrize(("key", "value"), SHELLS)
def test_case_15_the_override_is_named_and_the_shown_form_works(
    key: str, value: str, place: Place
) -> None:
    said = place.command("plan", "dataset=file", f"{key}={value}").error()
    assert said.startswith(f"error: {key} = ")
    shown = quoted(key, value, multirun=False)[0]
    assert shown in said
    (argument,) = shlex.split(shown)
    composed = place.command("train", "dataset=file", argument, "--cfg", "job").ok().out
    from omegaconf import OmegaConf

    assert OmegaConf.select(OmegaConf.create(composed), key) == value


def test_case_15_a_list_is_quoted_in_its_brackets() -> None:
    with pytest.raises(UserError) as caught:
        check_grammar(["rollout.stop=[a#,b]"], multirun=False)
    assert """'rollout.stop=["a#","b"]'""" in str(caught.value)
    check_grammar(['rollout.stop=["a#","b"]'], multirun=False)


def test_case_15_a_sweep_is_quoted_value_by_value() -> None:
    with pytest.raises(UserError) as caught:
        check_grammar(["dataset.path=a#1.jsonl,b#2.jsonl"], multirun=True)
    assert """'dataset.path="a#1.jsonl","b#2.jsonl"'""" in str(caught.value)
    check_grammar(['dataset.path="a#1.jsonl","b#2.jsonl"'], multirun=True)
    check_grammar(["seed=1,2"], multirun=True)


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("judge.function=a=b.py:f", """'judge.function="a=b.py:f"'"""),
        ("dataset.path", "write dataset.path=VALUE"),
        ("数据=1", "is no key"),
        ("dataset.path=caf\udce9.jsonl", "UTF-8"),
        ("seed=1,2", "--multirun"),
        ("model=null", "is no option"),
        ("dataset=null", "choose one of"),
        ("judge=null", "choose one of"),
        ("experiment=null", "is no option"),
        ("model=5", "is no option"),
    ],
)
def test_case_15_other_mistakes_of_grammar(argument: str, wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        check_grammar([argument], multirun=False)
    said = str(caught.value)
    assert wanted in said and "\n" not in said
    assert argument.partition("=")[0] in said


def test_case_15_what_hydra_reads_rightly_passes() -> None:
    good = ["dataset.path=my data (1)", "dataset.path=a/b-c_d.e+f@g", "seed=5", "~scorer"]
    good += [f"{'k' * 300}=5"]  # longer than the name of a file may be
    with pytest.raises(UserError):
        check_grammar(good[:1], multirun=False)
    check_grammar(good[1:], multirun=False)
    check_grammar(["dataset.path=C:\\x\\y", "dataset.path=my data", "+plugins=[]"], multirun=False)


def test_case_15_a_dollar_that_stands_for_another_key_is_said(place: Place) -> None:
    said = place.plan('dataset.path="x${y}.jsonl"').error()
    assert "'y'" in said and "\\${…}" in said


@pytest.mark.parametrize("content", ["# é\na: 1\n".encode("latin-1"), b"a: " + b"[" * 3000])
def test_case_15_a_yaml_file_of_the_user_s_is_named(place: Place, content: bytes) -> None:
    path = place.folder / "mine" / "reward_scheme" / "odd.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    said = place.command("plan", "--config-dir", "mine", "reward_scheme=odd").error()
    assert said.startswith("error: mine/reward_scheme/odd.yaml: ")


# Row 19: encodings and pipes


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["table"], ["--help"], ["judge", "--help"]]
)
def test_case_19_plain_characters_where_the_encoding_lacks_them(
    tmp_path: Path, encoding: str, arguments: list[str]
) -> None:
    ended = own_process(tmp_path, *arguments, PYTHONIOENCODING=encoding).ok()
    assert ended.out
    if encoding == "ascii":
        assert ended.out.isascii()
    if arguments == ["train", "--help"]:
        assert "SFT -> reward model -> RL" in ended.out


def test_case_19_the_report_of_a_run(tmp_path: Path) -> None:
    rows = [f'{{"step": {step}, "score/mean": 0.5, "kl/k1": 0.1}}\n' for step in range(3)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(rows), encoding="utf-8")
    ended = own_process(tmp_path, "report", "run", PYTHONIOENCODING="ascii").ok()
    assert "3 steps" in ended.out and ended.out.isascii()


def test_case_19_errors_and_paths_without_utf_8(tmp_path: Path) -> None:
    ended = own_process(tmp_path, "report", "läufe→", PYTHONIOENCODING="ascii")
    assert ended.error() == "error: laufe->: is no run folder (it has no metrics.jsonl)"
    posix = own_process(tmp_path, "train", "--help", LC_ALL="C", PYTHONUTF8="0")
    assert posix.ok().out


def test_case_19_each_kind_of_character_has_a_plain_one() -> None:
    text = "±→β█─│┏é…\udce9漢"
    encoded = UnicodeEncodeError("ascii", text, 0, len(text), "no")
    assert plain(encoded) == ("+/-->beta#-|+e...??", len(text))


def test_case_19_a_reader_that_is_gone_ends_a_command_quietly(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tokencredit.cli", "train", "--help"],
        cwd=tmp_path,
        env=clean(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()  # as `| head -0` does
    said = child.stderr.read().decode()
    child.stderr.close()
    assert (child.wait(), said) == (128 + signal.SIGPIPE, "")


def test_case_19_closed_and_full_standard_output(tmp_path: Path) -> None:
    command = f"{sys.executable} -m tokencredit.cli train --help"
    results = {}
    for target in (">&-", "> /dev/full"):
        done = subprocess.run(
            ["sh", "-c", f"{command} {target}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        results[target] = Ended(done.returncode, done.stdout, done.stderr)
    assert results[">&-"].ok().err == ""
    assert "no space left on device" in results["> /dev/full"].error()


# Seeds of any size


@pytest.mark.parametrize(
    "seed", [0, 7, -1, 2**31, 2**63 - 1, 2**64 - 1, -(2**63), 2**64, -(10**30)]
)
def test_seeds_of_any_size_are_deterministic(seed: int) -> None:
    firsts = []
    for _ in range(2):
        torch.manual_seed(torch_seed(seed))
        key = stream_key(seed, "rollout", 1)
        drawn = torch.rand(4).tolist()
        firsts.append((drawn, permutation(key, 9).tolist(), integer(key, 0, 100)))
    assert firsts[0] == firsts[1]
    assert plain_config(seed=seed, stage_seed=seed).seed == seed
    assert member_seed(seed, 1) == member_seed(seed, 1)
    if -(2**63) <= seed < 2**64:
        assert torch_seed(seed) == seed  # as before


def test_large_seeds_differ_and_are_planned(place: Place) -> None:
    assert torch_seed(2**64) != torch_seed(2**65)
    ended = place.plan(f"seed={-(10**25)}", f"stage_seed={2**70}").ok()
    assert "5 misses" in ended.out
