"""Row 17 as whole commands: prompts with reference answers, and what plan and train refuse alike."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ended import Ended

from .conftest import Workplace, read_jsonl

PAID = [
    "dataset.format=prompt_completion",
    "dataset.label_column=null",
    "oracle.enabled=false",
    "judge=function",
    "reward_scheme=sparse",
    "sft.train=false",
]
SCORE = """\
def score(prompts, responses, answer):
    pairs = zip(prompts, answer, strict=True)
    assert all(sum(map(int, p.split()[:3:2])) == int(a) for p, a in pairs)
    return [float(len(r)) for r in responses]
"""


def sums(place: Workplace) -> list[str]:
    """The overrides of a run on sums, whose results are in a column."""
    rows = [{"prompt": f"{n} plus {n % 7} is", "answer": str(n + n % 7)} for n in range(300)]
    (place.folder / "sums.json").write_text(json.dumps(rows), encoding="utf-8")
    (place.folder / "mine.py").write_text(SCORE, encoding="utf-8")
    (place.folder / "truth.py").write_text(SCORE.replace("answer", "truth"), encoding="utf-8")
    return [*PAID, f"dataset.path={place.folder / 'sums.json'}"]


@pytest.mark.slow
def test_case_17_reference_answers_reach_the_function_in_a_run(fresh: Workplace) -> None:
    mine = f"judge.function={fresh.folder / 'mine.py'}:score"
    ended = fresh.train(*sums(fresh), mine, "steps=2", "run_dir=run", "run.sample_every=1").ok()
    rows = read_jsonl(fresh.folder / "run" / "metrics.jsonl")
    assert len(rows) == 2, ended.err
    assert "rollout.max_new_tokens = 16: the data has no answers" in ended.err


def refusals(place: Workplace) -> dict[str, list[str]]:
    """What is said, and the arguments that are refused with it."""
    overrides = sums(place)
    mine, truth = (f"judge.function={place.folder / name}.py:score" for name in ("mine", "truth"))
    return {
        "from which supervised fine-tuning cannot learn": [*overrides, mine, "sft.train=true"],
        "the data has no column for its parameter 'truth'": [*overrides, truth],
        "no file matches this pattern": [*overrides, mine, "dataset.path=none*.parquet"],
        "dataset.source = package does not read it": [*overrides, mine, "dataset.source=package"],
    }


def test_case_17_train_refuses_before_any_work(
    fresh: Workplace, entry: Callable[..., Ended]
) -> None:
    for said, arguments in refusals(fresh).items():
        ended = entry(*arguments)
        assert ended.code == 2 and said in ended.error()
    assert fresh.artifacts() == []


@pytest.mark.slow
def test_case_17_plan_refuses_in_the_same_words(
    fresh: Workplace, entry: Callable[..., Ended]
) -> None:
    for arguments in list(refusals(fresh).values())[:2]:
        planned, trained = fresh.run("plan", *fresh.base, *arguments), entry(*arguments)
        assert planned.code == trained.code == 2 and planned.error() == trained.error()
