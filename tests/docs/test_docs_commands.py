"""Every command that a page shows is run: training as its plan, the small tools for real."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ended import Ended
from forked import forked
from paper_runs import write_run_folder
from tokencredit.composing.chosen import composed
from tokencredit.stages.context import Context

pytestmark = pytest.mark.xdist_group("pages")  # one process, which trains what they share once

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
TINY = (
    "model=scratch model.architecture.vocab_size=300 model.architecture.hidden_size=32 "
    "model.architecture.layers=2 model.architecture.heads=2 model.architecture.mlp_size=64 "
    "model.context=128 sft.max_tokens=2000 reward_model.max_tokens=2000 reward_model.held_out=20 "
    "evaluation.prompts=8 steps=2 tracking=disabled oracle.buckets=2048 oracle.epochs=1"
).split()


def blocks(language: str) -> list[tuple[str, str]]:
    """Page name and text of every fenced block in that language."""
    return [
        (page.relative_to(ROOT).as_posix(), text)
        for page in PAGES
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands() -> list[tuple[str, str]]:
    """Page name and command, comments removed, one a line; the first of those that are run alike."""
    found: dict[str, tuple[str, str]] = {}
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tokencredit"] and words[1:]:
                alike = shlex.join(as_run(words[1:]))
                found.setdefault(alike, (page, shlex.join(words)))
    return list(found.values())


def as_run(words: list[str]) -> list[str]:
    """What is run of a command: of long work its plan alone, of an experiment's sweep one seed."""
    if words[0] == "train" and "--help" not in words:
        swept = "-m" in words and any(word.startswith("experiment=") for word in words)
        seeded = any(word.startswith("seed=") for word in words)
        return ["plan", *words[1:], *["seed=0"] * (swept and not seeded)]
    if words[0] == "tune" and "--plan" not in words:
        return [*words, "--plan"]
    if words[0] == "revise" and "reviser.backend=local" in words:
        return [*words, "--dry-run"]  # the model writes for minutes
    return words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the files that the pages show, a small data file, and some runs.

    Of a CSV the first line, which names it, is kept: whoever copies the example copies it too.
    """
    place = tmp_path_factory.mktemp("pages")
    assert Context(composed(["experiment=main_job", "scale=cpu"])).corpus  # for all forks, once
    for language, mark in (("python", "#"), ("yaml", "#"), ("csv", "#")):
        for _, text in blocks(language):
            first, _, rest = text.partition("\n")
            if first.startswith(f"{mark} ") and first.endswith((".py", ".yaml", ".csv")):
                path = place / first.removeprefix(mark).strip()
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text if language == "csv" else rest, encoding="utf-8")
    for part in ("abc", "dae", "rto", "slides", "tlcr", "main_job"):
        shutil.copytree(ROOT / "experiments" / part, place / "experiments" / part)
    shutil.copy(ROOT / "experiments" / "main_job.md.j2", place / "experiments")
    words = (("awful dull boring waste", 0), ("good great wonderful charming", 1))
    lines = [
        f'{{"text": "review {n} says it was a {text} film, {" ".join([text] * 9)} {n}", "label": {label}}}'
        for n in range(60)
        for text, label in words
    ]
    (place / "reviews.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pairs = [f'{{"prompt": "Q{n}: ", "chosen": "yes", "rejected": "no"}}' for n in range(90)]
    for number, (scheme, seed) in enumerate((s, n) for s in ("abc", "sparse") for n in range(3)):
        key, curve = f"{number:016x}", [0.1 * step + seed for step in range(60)]
        run = place / "runs" / scheme / key
        write_run_folder(run, curve, key=key, scheme=scheme, seed=seed, experiment=None)
    (place / "pairs.jsonl").write_text("\n".join(pairs), encoding="utf-8")
    shutil.copy(ROOT / "docs" / "images" / "credit.csv", place / "said.csv")
    said = '"answers": [{"text": "Twice.", "votes": 7}, {"text": "No.", "votes": 1}]'
    questions = [f'{{"question": "Q{n}", {said}}}' for n in range(90)]
    (place / "questions.jsonl").write_text("\n".join(questions), encoding="utf-8")
    turns = '"turns": ["Write a poem.", "Make it shorter."]'
    asked = f'{{"question_id": 81, "category": "writing", {turns}}}'
    (place / "question.jsonl").write_text(asked, encoding="utf-8")
    said = '"instruction": "Q", "generator_1": "b", "output_1": "no", "generator_2": "m"'
    verdict = f'[{{{said}, "output_2": "yes", "preference": 2}}]'
    (place / "annotations.json").write_text(verdict, encoding="utf-8")
    for name in ("ours", "theirs"):
        answers = [f'{{"instruction": "Q{n}", "output": "{name} {n}"}}\n' for n in range(20)]
        (place / f"{name}.jsonl").write_text("".join(answers), encoding="utf-8")
    return place


def run(arguments: list[str], folder: Path) -> Ended:
    """`tokencredit` with these arguments in the folder."""
    return forked(tuple(arguments), folder, os.environ)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), commands())
def test_a_shown_command_is_accepted(
    page: str, command: str, folder: Path, finished: Path, request: pytest.FixtureRequest
) -> None:
    """Training commands are planned; files that stand for a user's own are supplied.

    One for a GPU is refused where there is none, for that reason and no other.
    """
    if command.startswith("tokencredit judge compare runs/rto/win_rates"):
        request.getfixturevalue("paid")
    if "store/dpo/KEY" in command:
        request.getfixturevalue("paid")
    command = command.replace("runs/abc/KEY", str(finished))
    if "$TOKENCREDIT_DATA" in command and not Path(os.environ.get("TOKENCREDIT_DATA", "")).is_dir():
        pytest.skip("needs TOKENCREDIT_DATA")
    command = os.path.expandvars(command)
    command = re.sub(r"store/(\w+)/KEY", lambda stage: str(made(folder, stage[1])), command)
    words = as_run(shlex.split(command)[1:])
    answer = run(words, folder)
    if "hydra/sweeper=optuna" in words and find_spec("optuna") is None:
        assert answer.code == 2 and "tokencredit[optuna]" in answer.err
        return
    if "hardware=gpu" in words and not torch.cuda.is_available():
        assert answer.code == 2, answer.err
        assert "error: hardware.device = 'cuda': torch finds no such device" in answer.err
        return
    if "there is no advantages.csv" in answer.err:  # of an experiment without results
        assert answer.code == 2 and not list(folder.glob("experiments/dae/**/advantages.csv"))
        return
    assert answer.code == 0, f"{page}: {command}\n{answer.err}"


def made(folder: Path, stage: str) -> Path:
    """What that stage of some run left in the store."""
    return min((folder / "store" / stage).glob("*/manifest.json")).parent


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """A finished run of the smallest kind."""
    arguments = ["train", "dataset=file", "dataset.path=reviews.jsonl", *TINY, "run_dir=finished"]
    answer = run(arguments, folder)
    assert answer.code == 0, answer.err
    return folder / "finished"


@pytest.fixture(scope="module")
def paid(folder: Path) -> None:
    """Two runs of the smallest kind in runs/rto/win_rates, one paid by a DPO model."""
    small = "dpo.prompts=12 dpo.held_out=4 algorithm.batch_size=4 algorithm.minibatches=2".split()
    data = ["dataset=file", "dataset.path=reviews.jsonl", "run.figures=false"]
    for method in ("rto", "ppo"):
        own = ["train", "experiment=rto/win_rates", "scale=cpu", f"method={method}"]
        answer = run([*own, *data, *TINY, *small], folder)
        assert answer.code == 0, answer.err


@pytest.mark.slow
def test_the_scheme_of_the_how_to_page_trains(folder: Path) -> None:
    """The plug-in of docs/write-a-scheme.md, from an empty directory, to the end."""
    arguments = [
        "train",
        "--plugin",
        "fading.py",
        "reward_scheme=Fading",
        "reward_scheme.decay=0.5",
    ]
    answer = run([*arguments, "dataset=file", "dataset.path=reviews.jsonl", *TINY], folder)
    assert answer.code == 0, answer.err
    assert len(list(folder.glob("runs/Fading/*/results.json"))) == 1


@pytest.mark.slow
def test_the_function_judge_of_the_how_to_page_trains(folder: Path) -> None:
    """praise.py pays its own scores."""
    arguments = [
        "train",
        "judge=function",
        "judge.function=praise.py:score",
        "reward_scheme=sparse",
    ]
    answer = run([*arguments, "dataset=file", "dataset.path=reviews.jsonl", *TINY], folder)
    assert answer.code == 0, answer.err


def test_what_shares_a_folder_runs_in_one_process(request: pytest.FixtureRequest) -> None:
    """Else each process trains anew what a group shares, and only the clock tells."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("one process, or no groups are asked for")
    assert request.node.nodeid.endswith("@pages")


def test_pages_show_commands() -> None:
    """The extraction finds them; a page without any would make the tests above empty."""
    assert len(commands()) >= 15
    pages = {page for page, _ in commands()}
    assert {"README.md", "docs/write-a-scheme.md", "docs/your-data.md"} <= pages


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of a page names a file of the repository."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_reference_is_current() -> None:
    """docs/config.md is what the schemas say."""
    from tokencredit.commands.reference import reference

    said = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert said == reference(), "run `make docs`"
