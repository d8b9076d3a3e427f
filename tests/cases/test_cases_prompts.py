"""Row 17: prompts without answers, and columns for a reward function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import make_rollout, speaking, train_tokenizer
from case_data import review, write_jsonl
from case_models import CHATML, make_tokenizer
from preferences import furnish_pairs, pair_config
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.prompts import PromptStream
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge, further
from tokencredit.judges.panel import SameAsJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.pipeline.pipeline import plan
from tokencredit.rewards.sparse import Sparse
from tokencredit.settings import SFT, Oracle
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context

EVEN = Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2)


def dataset(path: Path, layout: str, **more: Any) -> Dataset:
    settings = {"label_column": None, "splits": EVEN, **more}
    return Dataset(source=Source.path, path=str(path), format=layout, **settings)


# Prompts alone ----------------------------------------------------------------------------------

PROMPTS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "prompts": (
        "prompt_completion",
        [{"prompt": f"{n} plus {n % 7} is", "answer": str(n + n % 7)} for n in range(100)],
    ),
    "null completions": (
        "prompt_completion",
        [{"prompt": f"{n} plus 1 is", "completion": None, "answer": "x"} for n in range(100)],
    ),
    "turns": (
        "prompt_completion",
        [{"prompt": [{"role": "user", "content": f"Film {n}?"}], "answer": "x"} for n in range(99)],
    ),
    "messages": (
        "messages",
        [{"messages": [{"role": "user", "content": f"Film {n}?"}], "answer": "x"} for n in range(99)],
    ),
}  # fmt: skip


def paid(place: Path, kind: str, body: str = "prompts, responses, answer", **more: Any) -> Config:
    """A run on prompts that is paid by a function with these parameters."""
    layout, rows = PROMPTS[kind]
    furnish_pairs(place, chat=True)
    path = write_jsonl(place / "prompts.jsonl", rows)
    function = place / f"score_{len(list(place.glob('score_*')))}.py"  # modules are kept by path
    function.write_text(f"def score({body}): return [1.0] * len(responses)\n", encoding="utf-8")
    return replace(
        pair_config(place),
        store=str(place / "store"),
        runs_dir=str(place / "runs"),
        dataset=dataset(path, layout),
        judge=FunctionJudge(function=f"{function}:score"),
        scorer=SameAsJudge(),
        reward_scheme=Sparse(),
        **{"sft": SFT(train=False), "oracle": Oracle(enabled=False), **more},
    )


@pytest.mark.parametrize("kind", PROMPTS)
def test_case_17_prompts_alone_serve_a_reward_function(kind: str, tmp_path: Path) -> None:
    config = paid(tmp_path, kind)
    assert [each.name for each in plan(config)] == ["sft", "rl"]
    corpus = Context(config).corpus
    assert not corpus.dropped.counts
    stream = PromptStream(
        corpus.parts["rl"],
        make_tokenizer(template=CHATML),
        PromptSpec(),
        Sampling(min_new_tokens=2, max_new_tokens=4),
        96,
    )
    batch = stream.batch(0, 0, 4)
    by_row = {record.row: record for record in stream.records}
    for row, ids, mask in zip(batch.rows.tolist(), batch.ids, batch.mask, strict=True):
        text = stream.token_ids.tokenizer.decode(ids[mask].tolist())
        record = by_row[row]
        if record.prompt is not None:
            assert text == record.prompt
        else:
            assert text == (
                f"<|im_start|>user\nFilm {row}?<|im_end|>\n<|im_start|>assistant\n"
            )  # the whole conversation is the prompt


@pytest.mark.parametrize(
    ("more", "said_what"),
    [
        ({"sft": SFT()}, r"supervised fine-tuning cannot learn; .*sft\.train=false"),
        ({"oracle": Oracle()}, r"the oracle cannot learn; set oracle\.enabled=false"),
    ],
)
@pytest.mark.parametrize("kind", ["prompts", "messages"])
def test_case_17_what_needs_answers_is_refused_in_plan(
    more: dict[str, Any], said_what: str, kind: str, tmp_path: Path
) -> None:
    config = paid(tmp_path, kind, **more)
    with pytest.raises(UserError, match=f"(100 of 100|99 of 99) records are prompts.*{said_what}"):
        plan(config)


def test_case_17_a_reward_model_needs_answers_too(tmp_path: Path) -> None:
    base = pair_config(tmp_path)
    config = replace(paid(tmp_path, "prompts"), judge=base.judge, scorer=base.scorer)
    with pytest.raises(UserError, match=r"a reward model cannot learn; use a finished one"):
        plan(config)


def test_case_17_among_answers_a_prompt_without_one_is_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "a"} for n in range(99)] + [{"prompt": "R"}]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", rows), "prompt_completion").read()
    assert corpus.dropped.counts == {"empty prompt or completion": 1}
    corpus.check_answers("anything", "-")


# Columns for a reward function ------------------------------------------------------------------


def test_case_17_columns_reach_the_function_by_name(tmp_path: Path) -> None:
    config = paid(tmp_path, "prompts")
    path = tmp_path / "truth.py"
    config.judge = FunctionJudge(function=f"{path}:score")
    path.write_text(
        "def score(prompts, responses, answer, prompt, scale=2.0):\n"
        "    assert len(prompt) == len(answer) == len(responses)\n"
        "    assert all(int(a) >= int(p.split()[0]) for a, p in zip(answer, prompt))\n"
        "    return [scale * float(a) for a in answer]\n",
        encoding="utf-8",
    )
    judge = config.judge.open(given_of(Context(config)), speaking(train_tokenizer()))
    rollout = replace(make_rollout([2, 3, 1]), rows=torch.tensor([7, 7, 30]))
    assert judge(rollout).scores.tolist() == [14.0 * 1, 14.0, 2.0 * 32]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("prompts, responses", {}),
        ("prompts, responses, answer", {"answer": True}),
        ("prompts, responses, offsets, answer, scale=1", {"answer": True, "scale": False}),
        ("prompts, responses, *more, answer, **others", {"answer": True}),
    ],
)
def test_case_17_what_a_function_asks_for(body: str, wanted: dict[str, bool]) -> None:
    space: dict[str, Any] = {}
    exec(f"def score({body}): pass", space)  # noqa: S102
    assert further(space["score"]) == wanted


def test_case_17_a_parameter_without_a_column_is_refused_in_plan(tmp_path: Path) -> None:
    config = paid(tmp_path, "prompts", "prompts, responses, answer, truth")
    with pytest.raises(UserError, match=r"no column for its parameter 'truth'; it has 'prompt', "):
        plan(config)
    config = paid(tmp_path, "prompts", "prompts, responses, answer, truth=None, **more")
    assert len(plan(config)) == 2


def test_case_17_columns_enter_the_key_of_the_run_alone(tmp_path: Path) -> None:
    def keys(config: Config) -> dict[str, str]:
        return {each.name: each.key for each in plan(config)}

    plain = keys(paid(tmp_path, "prompts", "prompts, responses"))
    read = keys(paid(tmp_path, "prompts"))
    assert read["sft"] == plain["sft"] and read["rl"] != plain["rl"]
    config = paid(tmp_path, "prompts")
    rows = [row | {"answer": "other", "note": 1} for row in PROMPTS["prompts"][1]]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    assert keys(config)["rl"] != read["rl"]
    config.judge = FunctionJudge(function=f"{tmp_path / 'score_0.py'}:score")
    assert keys(config)["rl"] == plain["rl"], "columns that nobody reads change nothing"


def test_case_17_a_comparison_has_no_columns(tmp_path: Path) -> None:
    from tokencredit.evaluation.compare.oracles import _function

    path = tmp_path / "score.py"
    path.write_text("def score(prompts, responses, answer): return 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"--oracle = .*parameter answer takes columns of data"):
        _function(f"{path}:score", [])


def test_case_17_short_texts_are_refused_in_plan(tmp_path: Path) -> None:
    place = furnish_pairs(tmp_path)
    path = write_jsonl(tmp_path / "short.jsonl", [review(n, 10) for n in range(100)])
    config = replace(pair_config(place), store=str(tmp_path / "store"))
    config.dataset = dataset(path, "text", label_column="label")
    with pytest.raises(UserError, match=r"dataset\.prompt\.min_characters = 200: none of"):
        plan(config)
