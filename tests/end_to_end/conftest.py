"""Whole programs on a small machine-made data set, with stages that train in seconds and only once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ended import ARCHITECTURE, Ended
from forked import forked
from nursery import nursed

GOOD = (
    "wonderful superb charming brilliant moving delightful gripping clever warm beautiful".split()
)
BAD = "dreadful boring clumsy awful tedious pointless silly lifeless ugly cheap".split()
PLAIN = (
    "the film story cast plot scene music actor camera ending is was and with for in a this".split()
)
STEPS = 16
ALONE = ["algorithm=sft", "oracle.enabled=false"]
RATE = "algorithm.optimizer.learning_rate=3e-4"
SMALL = [*ARCHITECTURE, "model.context=128"]
QUICK = [
    "sft.max_length=64",
    "sft.max_tokens=3000",
    "sft.learning_rate=1e-3",
    "reward_model.learning_rate=1e-3",
    "reward_model.max_length=64",
    "reward_model.max_tokens=3000",
    "evaluation.prompts=16",
    "evaluation.every=6",
    "run.figures=false",
    "tracking=disabled",
]


@dataclass(frozen=True)
class Workplace:
    """A folder to run commands in, with a store of its own."""

    folder: Path
    store: Path
    base: list[str] = field(default_factory=list)
    """Arguments that every command gets, after `train` or `plan`."""
    hash_seed: str = "random"
    """What orders the sets of the command's own process, if it is a new Python."""
    anew: bool = False
    """Whether a command is a new Python, as one that starts others like itself always is; else it
    is a fork of the test's, which is there sooner."""

    def environment(self) -> dict[str, str]:
        """The variables of a command."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONHASHSEED": self.hash_seed,
            "TOKENCREDIT_STORE": str(self.store),
        }

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start `tokencredit ARGUMENTS`."""
        return subprocess.Popen(
            [sys.executable, "-m", "tokencredit.cli", *arguments],
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def run(self, *arguments: str) -> Ended:
        """Run `tokencredit ARGUMENTS` to its end."""
        launched = any(argument.startswith("hydra/launcher") for argument in arguments)
        if not (self.anew or launched):
            return forked(arguments, self.folder, self.environment())
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)

    def train(self, *arguments: str) -> Ended:
        """Run `tokencredit train` with the base arguments and these."""
        return self.run("train", *self.base, *arguments)

    def plan(self, *arguments: str) -> Ended:
        """Run `tokencredit plan` with the base arguments and these."""
        return self.run("plan", *self.base, *arguments).ok()

    def supervised(self) -> Workplace:
        """The same place, for commands that end after SFT, without an evaluation, and have no RL
        numbers to set."""
        base = [argument for argument in self.base if argument != RATE]
        return Workplace(self.folder, self.store, [*base, *ALONE])

    def artifacts(self) -> list[str]:
        """The complete artifacts in the store, as stage/key."""
        found = self.store.glob("*/*/manifest.json") if self.store.is_dir() else []
        return sorted(
            f"{p.parent.parent.name}/{p.parent.name}" for p in found if ".partial" not in str(p)
        )


def review(number: int, length: int = 50) -> dict[str, Any]:
    """A labelled review of more than 200 characters, the same for the same number."""
    draw = random.Random(number)
    opinion = GOOD if number % 2 else BAD
    words = [draw.choice(opinion if draw.random() < 0.35 else PLAIN) for _ in range(length)]
    return {"text": f"{' '.join(words).capitalize()}.", "label": number % 2}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """`path`, with one row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 labelled reviews."""
    path = tmp_path_factory.mktemp("data") / "reviews.jsonl"
    rows = [review(number) for number in range(300)]
    assert all(len(row["text"]) > 200 for row in rows)
    return write_jsonl(path, rows)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, reviews: Path) -> Workplace:
    """The workplace whose stages most tests share."""
    folder = tmp_path_factory.mktemp("work")
    data = ["dataset=file", f"dataset.path={reviews}"]
    return Workplace(folder, folder / "store", [*data, *SMALL, *QUICK, RATE])


@dataclass(frozen=True)
class Run:
    """A finished command and the folder of its run."""

    ended: Ended
    folder: Path

    def rows(self, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
        """The rows of one of its logs."""
        return read_jsonl(self.folder / name)

    def bytes(self, name: str = "metrics.jsonl") -> bytes:
        """The content of one of its files."""
        return (self.folder / name).read_bytes()

    def json(self, name: str) -> dict[str, Any]:
        """One of its JSON files."""
        value: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return value


@pytest.fixture(scope="session")
def first(shared: Workplace) -> Run:
    """A complete run, never interrupted; building it fills the shared store."""
    folder = shared.folder / "first"
    ended = shared.train(
        f"steps={STEPS}",
        "run.save_every=7",
        "run.sample_every=10",
        "run.figures=true",
        f"run_dir={folder}",
    )
    return Run(ended.ok(), folder)


@pytest.fixture
def own(shared: Workplace, first: Run, tmp_path: Path) -> Workplace:
    """An empty folder of the test's own, with the shared store."""
    return Workplace(tmp_path, shared.store, shared.base)


@pytest.fixture
def fresh(shared: Workplace, tmp_path: Path) -> Workplace:
    """An empty folder with an empty store."""
    return Workplace(tmp_path, tmp_path / "store", shared.base)


@pytest.fixture
def plugin(tmp_path: Path) -> list[str]:
    """Flags for a scheme of the user's own, in an empty folder with its YAML."""
    (tmp_path / "halves.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "my_conf" / "reward_scheme").mkdir(parents=True)
    (tmp_path / "my_conf" / "reward_scheme" / "halves.yaml").write_text(
        "# Half of the score on the first token, half on the last.\n"
        "defaults: [Halves, _self_]\nfirst: 0.25\n",
        encoding="utf-8",
    )
    return ["--plugin", "halves.py", "--config-dir", "my_conf"]


@pytest.fixture
def entry(
    fresh: Workplace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """`tokencredit train ARGUMENTS` in the test's own process and `fresh` place, to save a start."""
    from hydra.core.global_hydra import GlobalHydra

    from tokencredit import train
    from tokencredit.sweeps import sweep

    monkeypatch.chdir(fresh.folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("TOKENCREDIT_STORE", str(fresh.store))
    monkeypatch.setattr(sweep, "FOLDERS", [])

    def run(*arguments: str) -> Ended:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["tokencredit train", *fresh.base, *arguments])
        code = 0
        try:
            with nursed():
                train.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    yield run
    GlobalHydra.instance().clear()


PLUGIN = '''\
"""A share of the score on the first token, the rest on the last."""

from dataclasses import dataclass

from tokencredit.config import register_component
from tokencredit.errors import require
from tokencredit.ops import last_token
from tokencredit.rewards.scheme import RewardScheme


@dataclass(slots=True, kw_only=True)
class Halves(RewardScheme):
    """r_0 = first * R, r_last = (1 - first) * R."""

    first: float = 0.5
    """Share of the first token."""

    def __post_init__(self):
        require(0 <= self.first <= 1, "reward_scheme.first", self.first, "must lie in [0, 1]")

    def token_rewards(self, rollout, judgement):
        rewards = last_token(rollout.response_mask) * (1 - self.first) * judgement.scores[:, None]
        rewards[:, 0] += self.first * judgement.scores
        return rewards


register_component("reward_scheme", Halves)
'''

Wait = Callable[[Callable[[], bool], float], bool]


@pytest.fixture(scope="session")
def wait_until() -> Wait:
    """A function that waits until a condition holds, and says whether it came to hold in time."""
    import time

    def wait(condition: Callable[[], bool], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.01)
        return condition()

    return wait
