"""docs/python.md: its signatures are the code's, its snippets run, its picture is of its lines."""

from __future__ import annotations

import ast
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tokencredit
from builders import tiny_classifier, train_tokenizer
from paper_runs import write_run_folder
from tokencredit import functional
from tokencredit.algorithms.advantages import GroupBaseline, to_go
from tokencredit.commands.python_page import with_signatures
from tokencredit.errors import UserError
from tokencredit.rewards.redistribute import Redistribute

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_the_signatures_are_those_of_the_code() -> None:
    assert with_signatures(PAGE) == PAGE, "run `make docs`"


def test_every_public_name_is_there_and_described() -> None:
    for name in tokencredit.__all__:
        assert getattr(tokencredit, name) is not None and name in dir(tokencredit)
        assert name in {"__version__", "UserError"} or f"## {name}" in PAGE or f".{name}" in PAGE
    with pytest.raises(AttributeError, match="has no attribute 'credits'"):
        _ = tokencredit.credits  # type: ignore[attr-defined]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page names: a reward model, and a run."""
    model = tmp_path / "store" / "reward_model" / "KEY"
    tiny_classifier().save_pretrained(model)
    train_tokenizer().save_pretrained(model)
    run = write_run_folder(tmp_path / "runs" / "abc" / "KEY", [0.1, 0.2])
    row = {"step": 0, "row": 0, "prompt": "a", "score": 1.0, "tokens": ["b"], "rewards": [1.0]}
    (run / "samples.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_of_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for source in SNIPPET.findall(PAGE):
        exec(compile(source, "docs/python.md", "exec"), names)  # noqa: S102 - the page's own
    shown = capsys.readouterr().out
    assert "wonderful" in shown and str(Path("runs/abc/KEY")) in shown
    assert names["ids"].finished == [True] and names["most"]["rewards"] == [1.0]
    assert names["rewards"].sum(dim=1).tolist() == pytest.approx([1.0, -2.0])
    assert names["loss"].isfinite() and names["in_groups"].shape == (2, 3)


def test_the_ten_lines_stand_in_the_first_two_screens_of_the_readme() -> None:
    lines = SNIPPET.findall(PAGE)[0]
    assert len(lines.strip().splitlines()) <= 10 and lines in README
    top = "\n".join(README.splitlines()[:60])
    assert lines in top and "](docs/images/credit.svg)" in top


def test_the_picture_is_of_the_ten_lines() -> None:
    (call,) = [
        node
        for node in ast.walk(ast.parse(SNIPPET.findall(PAGE)[0]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tokencredit.credit"
    ]
    prompts, responses = map(ast.literal_eval, call.args)
    with (ROOT / "docs" / "images" / "credit.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["prompt"], row["response"]) for row in rows] == list(
        zip(prompts, responses, strict=True)
    )
    picture = (ROOT / "docs" / "images" / "credit.svg").read_text(encoding="utf-8")
    assert "url(http" not in picture and "<script" not in picture
    for text in prompts + responses:
        for word in re.findall(r"\w+", text):
            assert word in picture


def test_token_rewards_are_the_schemes() -> None:
    scores, weights = torch.tensor([1.0, -2.0]), torch.tensor([[0.1, 0.3, 0.1], [0.2, 0.1, 0.0]])
    named = functional.token_rewards(
        "abc", scores, MASK, evidence=weights, overrides=["reward_scheme.beta=0.5"]
    )
    own = functional.token_rewards(Redistribute(beta=0.5), scores, MASK, evidence=weights)
    assert named.tolist() == own.tolist()
    assert own[0].tolist() == pytest.approx([0.1, 0.3, 0.6])
    uniform = functional.token_rewards("uniform", scores, MASK)
    assert uniform[1].tolist() == [-1.0, -1.0, 0.0]
    with pytest.raises(UserError, match="evidence: is missing; Redistribute reads nonnegative"):
        functional.token_rewards("abc", scores, MASK)
    with pytest.raises(UserError, match="ends: is missing; SemiRTO pays where sentences end"):
        functional.token_rewards("semi_rto", scores, MASK, evidence=weights)


def test_group_estimators_are_their_formulas() -> None:
    rewards, groups = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 9.0]]), torch.tensor([7, 7])
    returns = to_go(rewards, MASK, 1.0)
    total = functional.rloo(rewards, MASK, groups, kind=GroupBaseline.total)
    assert total[0].tolist() == (returns[0] - 1.0).tolist()
    assert total[1].tolist() == [-2.0, -2.0, 0.0]
    plain = functional.grpo(rewards, MASK, groups, divide_by_sd=False)
    assert plain[0].tolist() == pytest.approx([1.0, 0.5, 0.5])
    scaled = functional.grpo(rewards, MASK, groups)
    assert scaled[0].tolist() == pytest.approx((plain[0] / 2**0.5).tolist())
