"""A user's Python function as judge: what it is given, what it may return, what it may not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from builders import EOS_ID, handed, make_rollout, mask_of, speaking, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.panel import SameAsJudge, open_panel, shares_pass
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.tokens.texts import decode, decode_tokens
from tokencredit.rewards.implicit import RTO
from tokencredit.rewards.sparse import Sparse
from tokencredit.rollout import Judgement, Rollout

WORDS = train_tokenizer()


def rows_of(*tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    mask = mask_of([len(row) for row in tokens])
    ids = torch.full(mask.shape, EOS_ID)
    for row, line in zip(ids, tokens, strict=True):
        row[: len(line)] = torch.tensor(line)
    return ids, mask


def encode(text: str) -> list[int]:
    return list(WORDS(text)["input_ids"])


def check_offsets(tokens: list[int], tokenizer: PreTrainedTokenizerFast = WORDS) -> None:
    (text,), (offsets,) = decode_tokens(tokenizer, *rows_of(tokens))
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(offsets) == len(tokens)
    position = 0
    for start, end in offsets:
        assert start == position and end >= start
        position = end
    assert position == len(text)


def test_offsets_by_hand() -> None:
    tokens = [encode("the")[0], *encode(" movie"), *encode("!"), EOS_ID]
    (text,), (offsets,) = decode_tokens(WORDS, *rows_of(tokens))
    assert text == "the movie!"
    assert [text[start:end] for start, end in offsets] == ["the", " movie", "!", ""]
    assert offsets == [(0, 3), (3, 9), (9, 10), (10, 10)]


def test_bytes_of_one_character_belong_to_the_token_that_completes_it() -> None:
    tokens = encode("é☃")  # two and three bytes; neither was in the training texts as a whole
    (text,), (offsets,) = decode_tokens(WORDS, *rows_of(tokens))
    assert text == "é☃" and len(tokens) > 2
    owners = [text[start:end] for start, end in offsets if end > start]
    assert owners == ["é", "☃"] and offsets[-1] == (1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "🎬 the movie",
        " leading",
        "a\ufffdb",
        "ends with \ufffd",
        "two  spaces\n\n",
        "naïve — 日本語 🇩🇪",
        "",
    ],
)
def test_offsets_cover_the_text_without_gaps(text: str) -> None:
    check_offsets(encode(text))
    check_offsets([*encode(text), EOS_ID])
    check_offsets([EOS_ID, *encode(text)])


def test_a_character_cut_by_the_length_limit_is_covered_too() -> None:
    tokens = encode("good 🦖")
    assert len(encode("🦖")) > 2
    for length in range(1, len(tokens) + 1):
        check_offsets(tokens[:length])
    (text,), (offsets,) = decode_tokens(WORDS, *rows_of(tokens[:-1]))
    assert text.endswith("\ufffd") and offsets[-1][1] == len(text)


@given(st.lists(st.integers(2, 299), min_size=1, max_size=12))
def test_offsets_cover_whatever_a_random_policy_says(tokens: list[int]) -> None:
    check_offsets(tokens)


@given(st.text(max_size=20))
def test_offsets_of_any_text(text: str) -> None:
    check_offsets([*encode(text.encode("utf-8", "ignore").decode()), EOS_ID])


def test_decoding_reads_counting_tokens_only() -> None:
    ids, mask = rows_of([*encode("the movie"), EOS_ID], encode("bad"))
    ids = torch.where(mask, ids, encode("x")[0])
    assert decode(WORDS, ids, mask) == ["the movie", "bad"]


def rollout_of(*texts: str) -> Rollout:
    ids, mask = rows_of(*(encode(text) for text in texts))
    rollout = make_rollout(mask.sum(dim=1).tolist())
    prompt = torch.tensor([encode("Q:")[:2]] * len(texts))
    return replace(
        rollout,
        prompt_ids=prompt,
        prompt_mask=torch.ones_like(prompt, dtype=torch.bool),
        response_ids=ids,
        response_mask=mask,
    )


@pytest.fixture
def judge(tmp_path: Path) -> Callable[[str], Callable[[Rollout], Judgement]]:
    """Opens the function `f` of the given source text."""

    def opened(source: str) -> Callable[[Rollout], Judgement]:
        path = tmp_path / "mine.py"
        path.write_text(source)
        return FunctionJudge(function=f"{path}:f").open(handed(scheme=Sparse()), speaking(WORDS))

    return opened


def test_a_scheme_that_reads_evidence_is_not_paid_by_zeros(tmp_path: Path) -> None:
    """Scores alone serve a scorer and the sparse scheme; a scheme that reads tokens is refused."""
    path = tmp_path / "mine.py"
    path.write_text("def f(prompts, responses): return [1.0] * len(responses)\n")
    own, rollout = FunctionJudge(function=f"{path}:f"), rollout_of(*TEXTS)
    for scheme in (None, Sparse()):
        assert (
            own.open(handed(scheme=scheme), speaking(WORDS))(rollout).scores.tolist() == [1.0] * 3
        )
    with pytest.raises(UserError, match=r"RTO pays by evidence of each token.*offsets"):
        own.open(handed(scheme=RTO()), speaking(WORDS))(rollout)


Opener = Callable[[str], Callable[[Rollout], Judgement]]
TEXTS = ("good", "the movie was bad", " ok")


def test_one_score_a_response(judge: Opener) -> None:
    found = judge("def f(prompts, responses): return [len(r) for r in responses]\n")(
        rollout_of(*TEXTS)
    )
    assert found.scores.tolist() == [4, 17, 3] and found.scores.dtype == torch.float32
    assert (found.evidence == 0).all() and found.evidence.dtype == torch.float32


def test_prompts_are_given_too(judge: Opener) -> None:
    found = judge("def f(prompts, responses): return [float(p == 'Q:') for p in prompts]\n")
    assert found(rollout_of(*TEXTS)).scores.tolist() == [1, 1, 1]


def test_evidence_of_each_token(judge: Opener) -> None:
    source = (
        "def f(prompts, responses, offsets):\n"
        "    return [0.0] * len(responses), [[e - s for s, e in row] for row in offsets]\n"
    )
    rollout = rollout_of(*TEXTS)
    found = judge(source)(rollout)
    assert found.evidence.sum(dim=1).tolist() == [4, 17, 3]
    assert (found.evidence[~rollout.response_mask] == 0).all()


@pytest.mark.parametrize("count", [2, 3])
def test_scores_may_come_as_a_tuple(judge: Opener, count: int) -> None:
    found = judge("def f(prompts, responses): return tuple(1.5 for _ in responses)\n")
    assert found(rollout_of(*TEXTS[:count])).scores.tolist() == [1.5] * count


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[1.0]", "scores of shape (1,) for 3 responses"),
        ("1.0", "scores of shape () for 3 responses"),
        ("[[1.0], [1.0], [1.0]]", "scores of shape (3, 1) for 3 responses"),
        ("[1.0, float('nan'), 1.0]", "not finite"),
        ("[1.0, float('inf'), 1.0]", "not finite"),
        ("None", "judge.function"),
        ("['a', 'b', 'c']", "judge.function"),
        ("([1.0] * 3, [[1.0] * len(o) for o in offsets][:1])", "1 of 3 responses"),
        ("([1.0] * 3, [[1.0] * len(o) for o in offsets] + [[1.0]])", "4 of 3 responses"),
        ("([1.0] * 3, [[1.0]] * 3)", "response 0 has"),
        ("([1.0] * 3, [[float('nan')] * len(o) for o in offsets])", "not finite"),
    ],
)
def test_answers_that_do_not_fit(judge: Opener, tmp_path: Path, body: str, said: str) -> None:
    opened = judge(f"def f(prompts, responses, offsets): return {body}\n")
    with pytest.raises(UserError) as caught:
        opened(rollout_of(*TEXTS[1:], "the movie was bad and"))
    assert f"judge.function = '{tmp_path / 'mine.py'}:f'" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", [None, "no_colon", ""])
def test_a_name_without_a_colon(name: str | None) -> None:
    with pytest.raises(UserError, match=r"judge\.function.*path/to/file\.py:name or module:name"):
        FunctionJudge(function=name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such Python file"),
        ("x = 1\n", "has no function 'f'"),
        ("f = 3\n", "has no function 'f'"),
        ("import nowhere_to_be_found\n", "does not import"),
    ],
)
def test_a_function_that_cannot_be_had(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        FunctionJudge(function=f"{path}:f").load()
    assert "judge.function" in str(caught.value) and said in str(caught.value)


def test_a_module_may_hold_the_function() -> None:
    assert FunctionJudge(function="math:sqrt").load()(4) == 2
    with pytest.raises(UserError, match=r"judge\.function = 'nowhere_at_all:f'.*does not import"):
        FunctionJudge(function="nowhere_at_all:f").load()


def test_identity_is_the_content_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(name: str) -> object:
        return FunctionJudge(function=name).identity()

    a, b = tmp_path / "a.py", tmp_path / "judge_module_b.py"
    a.write_text("def f(p, r): return [0] * len(r)\ndef g(p, r): return [1] * len(r)\n")
    b.write_bytes(a.read_bytes())
    assert identity(f"{a}:f") == identity(f"{b}:f") != identity(f"{a}:g")
    monkeypatch.syspath_prepend(tmp_path)
    before = identity(f"{b}:f"), identity("judge_module_b:f")
    b.write_text(b.read_text() + "# another thought\n")
    after = identity(f"{b}:f"), identity("judge_module_b:f")
    assert before[0] != after[0] and before[1] != after[1]


def test_a_panel_asks_two_models_where_there_are_two(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def scores(prompts, responses): return [7.0] * len(responses)\n"
        "def tokens(prompts, responses, offsets):\n"
        "    return [1.0] * len(responses), [[2.0] * len(row) for row in offsets]\n"
    )
    judge: Any = FunctionJudge(function=f"{path}:tokens")
    scorer: Any = FunctionJudge(function=f"{path}:scores")
    rollout = rollout_of(*TEXTS)
    context = handed(scheme=RTO())
    both = open_panel(judge, scorer, context, speaking(WORDS))(rollout)
    assert both.scores.tolist() == [7, 7, 7]
    assert torch.equal(both.evidence, torch.where(rollout.response_mask, 2.0, 0.0))
    alone = open_panel(judge, SameAsJudge(), context, speaking(WORDS))(rollout)
    assert alone.scores.tolist() == [1, 1, 1]


def test_one_pass_serves_both_only_where_they_read_the_same_model() -> None:
    from tokencredit.judges.attention import AttentionJudge

    function = FunctionJudge(function="math:sqrt")
    assert shares_pass(AttentionJudge(), RewardModelJudge())
    assert shares_pass(RewardModelJudge(), RewardModelJudge())
    assert shares_pass(function, SameAsJudge())
    assert not shares_pass(function, RewardModelJudge())
    assert not shares_pass(AttentionJudge(), function)
    with pytest.raises(UserError, match="only a scorer can be the judge"):
        SameAsJudge().open(handed(), speaking(WORDS))
