"""The ten lines of docs/python.md pay what training has logged, for texts and for ids."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import tokencredit
from tokencredit.models.loading.model import load_tokenizer

from .conftest import Run, Workplace, read_jsonl

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
LINES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
DPO = ["dpo.pairs=sampled", "dpo.prompts=24", "dpo.held_out=4", "dpo.batch_size=8"]
FEW = ["steps=1", "run.samples=32", "run.sample_every=1", "evaluation.prompts=4"]
WORDS = ["sft.max_tokens=100000", "sft.epochs=6", "sft.batch_size=16", "sft.learning_rate=5e-3"]
"""A policy that has learnt to write words: single bytes can be told neither from text nor by ids."""


def ten_lines(prompts: list[Any], responses: list[Any], **given: Any) -> tokencredit.Credit:
    """The page's lines with other texts, models, judge, and scheme in their call."""
    tree = ast.parse(LINES)
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tokencredit.credit"
    ]
    call.args = [ast.parse(repr(each), mode="eval").body for each in (prompts, responses)]
    call.keywords = [
        ast.keyword(name, ast.parse(repr(value), mode="eval").body) for name, value in given.items()
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "docs/python.md", "exec"), names)  # noqa: S102
    found: tokencredit.Credit = names["found"]
    return found


def ids_of(row: dict[str, Any], pieces: dict[str, int]) -> list[int] | None:
    """The ids that were said; None where a piece is no text of its own."""
    found = [pieces.get(token) for token in row["tokens"]]
    return None if None in found or "�" in "".join(row["tokens"]) else found  # type: ignore[return-value]


def prompt_ids(row: dict[str, Any], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The first tokens of a review, as the run took them."""
    whole = tokenizer(text)["input_ids"]
    return next(
        whole[:count]
        for count in range(1, len(whole))
        if tokenizer.decode(whole[:count]) == row["prompt"]
    )


KINDS = {
    "attention": (["reward_scheme=abc"], {"judge": "attention", "scheme": "abc"}),
    "attribution": (["reward_scheme=attribution"], {"judge": "attribution", "scheme": "attribution"}),
    "implicit": (["reward_scheme=rto", *DPO], {"judge": "implicit", "scheme": "rto"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_credit_is_what_training_logs(own: Workplace, reviews: Path, kind: str) -> None:
    arguments, chosen = KINDS[kind]
    run = Run(own.train(*FEW, *WORDS, *arguments, f"run_dir={kind}").ok(), own.folder / kind)
    keys = json.loads((run.folder / "manifest.json").read_text())["parents"]
    models = {"reward_model": str(own.store / "reward_model" / keys["reward_model"])}
    if kind == "implicit":
        models["dpo"] = str(own.store / "dpo" / keys["dpo"])
        models["reference"] = str(own.store / "sft" / keys["sft"])
    tokenizer = load_tokenizer(models["reward_model"])
    pieces = {tokenizer.decode([index]): index for index in range(len(tokenizer))}
    texts = [row["text"] for row in read_jsonl(reviews)]
    logged = [(row, ids_of(row, pieces)) for row in tokencredit.samples(run.folder)]
    rows = [(row, ids) for row, ids in logged if ids is not None]
    assert len(rows) >= 8
    asked = [prompt_ids(row, texts[row["row"]], tokenizer) for row, _ in rows]

    told = ten_lines(asked, [ids for _, ids in rows], **chosen, **models)
    for place, (row, _) in enumerate(rows):
        assert told.rewards[place] == pytest.approx(row["rewards"], abs=1e-5)
        assert told.scores[place] == pytest.approx(row["score"], abs=1e-5)
    assert any(abs(reward) > 1e-4 for each in told.rewards for reward in each)

    ended = [row["tokens"][-1] == tokenizer.eos_token for row, _ in rows]
    said = [[row["prompt"] for row, _ in rows], [row["response"] for row, _ in rows]]
    read = ten_lines(*said, finished=ended, **chosen, **models)
    same = [
        place
        for place, (_, ids) in enumerate(rows)
        if read.ids[place] == ids and tokenizer(said[0][place])["input_ids"] == asked[place]
    ]
    assert len(same) >= 4  # a policy need not write a text as its tokenizer does
    for place in same:
        assert read.rewards[place] == pytest.approx(rows[place][0]["rewards"], abs=1e-5)
