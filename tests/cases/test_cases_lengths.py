"""Row 17: responses are as long as the answers that somebody brings, where nobody says otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from case_data import review, write_jsonl
from preferences import furnish_pairs, pair_config
from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source
from tokencredit.data.splits import Splits
from tokencredit.models.decoding.sampling import OPEN, Sampling
from tokencredit.models.loading.model import ModelSource, Pretrained, load_tokenizer
from tokencredit.stages.context import Context
from tokencredit.stages.lengths import quantile

EVEN = Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2)
OPEN_ENDED = Sampling(min_new_tokens=OPEN, max_new_tokens=OPEN)


def filled(config: Config, capsys: pytest.CaptureFixture[str]) -> tuple[list[int | None], str]:
    """The lengths of the run, and what is said of them."""
    Context(config)
    rollout = config.rollout
    found = [rollout.min_new_tokens, rollout.max_new_tokens, rollout.eos_masked_before]
    return found, "".join(
        line for line in capsys.readouterr().err.splitlines() if "rollout" in line
    )


def write_answers(place: Path, words: int = 20) -> Path:
    """One hundred pairs, nine of ten of which have an answer of one word, the others of `words`."""
    rows = [
        {
            "prompt": f"Q{n}? ",
            "chosen": " ".join(["good"] * (words if n % 10 == 0 else 1)),
            "rejected": "bad",
        }
        for n in range(100)
    ]
    return write_jsonl(place / "pairs.jsonl", rows)


def open_config(place: Path, **more: Any) -> Config:
    furnish_pairs(place)
    write_answers(place)
    return replace(
        pair_config(place), store=str(place / "store"), **{"rollout": OPEN_ENDED, **more}
    )


def test_case_17_limits_come_from_the_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = open_config(tmp_path)
    tokenizer = load_tokenizer(tmp_path / "model")
    length = len(tokenizer("good", add_special_tokens=False)["input_ids"]) + 1
    found, said = filled(config, capsys)
    assert found == [length, length + 1, 1]
    assert f"rollout.max_new_tokens = {length + 1}: responses have up to {length} tokens" in said
    assert "by the policy's tokenizer" in said
    assert f"max_new_tokens: {length + 1}" in configuration.dump(config)
    assert filled(config, capsys) == (found, ""), "filled in once"


def test_case_17_explicit_lengths_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lengths(low: int, high: int, ends: int | None = None) -> list[int | None]:
        rollout = Sampling(min_new_tokens=low, max_new_tokens=high, eos_masked_before=ends)
        return filled(open_config(tmp_path, rollout=rollout), capsys)[0]

    assert lengths(OPEN, 16) == [15, 16, 1]
    assert lengths(OPEN, 16, 3) == [15, 16, 3]
    assert lengths(8, 16) == [8, 16, None]
    assert lengths(40, OPEN) == [40, 41, None]


def test_case_17_texts_keep_the_default_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = open_config(tmp_path)
    path = write_jsonl(tmp_path / "a.jsonl", [review(n) for n in range(99)])
    config.dataset = Dataset(source=Source.path, path=str(path), splits=EVEN)
    assert filled(config, capsys) == ([8, 16, None], "")
    config.rollout = Sampling(min_new_tokens=OPEN, max_new_tokens=12)
    assert filled(config, capsys)[0] == [8, 12, None]


def test_case_17_limits_leave_room_for_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = open_config(tmp_path)
    rows = [{"prompt": f"Q{n}? ", "completion": "good " * 500} for n in range(100)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    config.dataset = replace(config.dataset, path=str(path), format="prompt_completion")
    found, said = filled(config, capsys)
    assert found == [48, 49, 1] and "cut to half of model.context = 96" in said


def test_case_17_without_answers_or_tokenizer_it_is_said_what_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = open_config(tmp_path)
    config.model = replace(
        config.model, policy=Pretrained(source=ModelSource.scratch, name=None, path=None)
    )
    found, said = filled(config, capsys)
    assert found == [3, 4, 1] and "1.5 tokens a word" in said  # ceil(1.5 · 1) and the end token
    config = open_config(tmp_path)
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"Q{n}? "} for n in range(100)])
    config.dataset = replace(config.dataset, path=str(path), format="prompt_completion")
    found, said = filled(config, capsys)
    assert found == [15, 16, 1] and "the data has no answers" in said


@pytest.mark.parametrize(
    ("lengths", "found"), [([5], 5), ([1] * 9 + [7], 1), ([1] * 8 + [7] * 2, 7)]
)
def test_case_17_nine_of_ten_answers_fit(lengths: list[int], found: int) -> None:
    assert quantile(lengths) == found
