"""Commands on runs whose files were damaged: one line with the path, exit code 2, whatever it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import compared_runs
from case_machine import Place
from tokencredit.models.loading.place import GENERATION
from tokencredit.store.files import read_json, write_json
from tokencredit.store.run_folder import hash_exports

STEPS = 4
LOGS = {
    "metrics.jsonl": {"score/mean": 0.5, "kl/k1": 0.1, "value/loss": 1.0},
    "timings.jsonl": {"time/generate_seconds": 1.0},
    "samples.jsonl": {
        "row": 0,
        "prompt": "a",
        "response": "b",
        "score": 1.0,
        "tokens": ["b"],
        "rewards": [1.0],
    },
}
DAMAGES = {
    "empty": b"",
    "half": None,
    "list": b"[1, 2]\n",
    "bytes": b"\xff\xfe\x00{\n",
    "zeros": bytes(512) + b"\n",
    "other": b'{"key": "k", "state": "complete", "exports": [1], "parents": [2], "step": "x"}\n',
}
READ = {
    "report": ("manifest.json", "results.json", "metrics.jsonl", "timings.jsonl", "samples.jsonl"),
    "table": ("results.json", "config.yaml", "metrics.jsonl"),
    "claims": ("results.json", "config.yaml"),
    "generate": ("manifest.json", f"policy/{GENERATION}", "policy/tokenizer.json"),
    "judge": (
        "manifest.json",
        "config.yaml",
        "policy/config.json",
        f"policy/{GENERATION}",
        "policy/tokenizer.json",
        "policy/model.safetensors",
    ),
}
"""By command: files that it reads."""
FITS: set[tuple[str, ...]] = {
    ("report", "metrics.jsonl", "half"),
    ("table", "metrics.jsonl", "empty"),
    ("claims", "config.yaml", "other"),
    ("timings.jsonl", "half"),
    ("samples.jsonl", "half"),
    ("timings.jsonl", "empty"),
    ("samples.jsonl", "empty"),
    ("results.json", "other"),
    ("samples.jsonl", "other"),
    ("config.yaml", "other"),
    (f"policy/{GENERATION}", "other"),
}
"""A log without its last lines, and a file without what is asked of it, may be of a shorter run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with models and logs, and the store that they were made from."""
    folder = compared_runs.write(tmp_path_factory.mktemp("whole"))
    for seed, scheme in enumerate(("sparse", "abc")):
        run, seeds = folder / scheme, {"seed": seed, "stage_seed": 0}
        for name, row in LOGS.items():
            lines = [json.dumps({"step": step, **row}) + "\n" for step in range(STEPS)]
            (run / name).write_text("".join(lines), encoding="utf-8")
        manifest = read_json(run / "manifest.json")
        write_json(run / "manifest.json", manifest | {"identity": {"inputs": seeds}})
        names = {"model": "tiny", "dataset": "imdb", "hardware": "cpu"}
        results = {"config_hash": f"key{seed}", "scheme": scheme, "seeds": seeds, "names": names}
        results |= {"experiment": "abc/positive_generation", "status": "complete", "steps": STEPS}
        write_json(run / "results.json", results | {"metrics": {}, "evaluation": {}})
    return folder


@pytest.fixture
def place(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Place:
    """A copy of the runs, in the working folder."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, monkeypatch, capfd)


def arguments(command: str) -> list[str]:
    """A command on the run sparse."""
    return {
        "report": ["report", "sparse"],
        "table": ["table", "abc/table1", "--runs", "sparse", "--points", "2"],
        "claims": ["claims", "abc", "--runs", "sparse", "--points", "2"],
        "generate": ["generate", "sparse", "--prompt", "a film", "--max-new-tokens", "2"],
        "judge": ["judge", "compare", "sparse", "abc", "--prompts", "2", "--max-new-tokens", "2"],
    }[command]


@pytest.mark.parametrize("command", READ)
def test_a_command_on_a_damaged_run_names_the_file(place: Place, command: str) -> None:
    place.command(*arguments(command)).ok()
    for name in READ[command]:
        path = place.folder / "sparse" / name
        content = path.read_bytes()
        for damage, data in DAMAGES.items():
            if {(name, damage), (command, name, damage)} & FITS:
                continue
            path.write_bytes(content[: len(content) // 2] if data is None else data)
            ended = place.command(*arguments(command))
            assert ended.code == 2, (name, damage, ended)
            line = ended.error()
            shown = path.parent if name.startswith("policy") else path  # transformers names none
            place_of = str(shown.relative_to(place.folder))
            assert place_of in line or f"sparse: no step in {name}" in line, (name, damage, line)
        path.write_bytes(content)
    place.command(*arguments(command)).ok()  # the cause is gone


def test_a_table_names_a_log_that_has_changed_or_lost_lines(place: Place) -> None:
    run = place.folder / "sparse"
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
    line = place.command(*arguments("table")).error()
    assert "sparse/metrics.jsonl: has 2 of the 4 steps of a complete run" in line
    (run / "metrics.jsonl").write_bytes(content)
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", manifest | {"exports": hash_exports(run)})
    place.command(*arguments("table")).ok()
    (run / "metrics.jsonl").write_bytes(content.replace(b"0.5", b"0.9"))
    line = place.command(*arguments("table")).error()
    assert line.startswith("error: sparse: metrics.jsonl has changed since the run was complete")


def test_a_comparison_names_what_is_missing_or_cut(place: Place) -> None:
    (oracle,) = place.folder.glob("store/oracle/*/oracle.safetensors")
    store = ["--store", str(place.folder / "store")]
    oracle.write_bytes(oracle.read_bytes()[:-7])
    assert (
        "oracle.safetensors is damaged, or cut off"
        in place.command(*arguments("judge"), *store).error()
    )
    oracle.unlink()
    assert "oracle.safetensors is missing" in place.command(*arguments("judge"), *store).error()
    (place.folder / "sparse" / "manifest.json").unlink()
    line = place.command(*arguments("judge"), *store).error()
    assert line.startswith("error: sparse/manifest.json: is missing")


@pytest.mark.parametrize("ends", ["</s>", [1, None], [True], {"a": 1}, 1.5])
def test_case_8_ends_that_are_no_ids_are_refused(place: Place, ends: object) -> None:
    path = place.folder / "sparse" / "policy" / GENERATION
    write_json(path, read_json(path) | {"eos_token_id": ends})
    line = place.command(*arguments("generate")).error()
    assert f"{GENERATION}: eos_token_id = {ends!r}: must be an id, or a list of ids" in line
