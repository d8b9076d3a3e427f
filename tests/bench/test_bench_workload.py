"""Lengths, sizes, and their limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench_work import small, uneven
from tokencredit.bench.build import causal, prompts_of
from tokencredit.bench.workload import Architecture, Size, Work, drawn_lengths, lengths_of
from tokencredit.errors import UserError
from tokencredit.models.loading.model import parameter_count


def test_equal_lengths() -> None:
    found = lengths_of(3, 8, 32, seed=1, vary=False)
    assert found == {"prompt_lengths": (8, 8, 8), "response_lengths": (32, 32, 32)}


def test_varied_lengths_reach_from_a_part_to_the_whole() -> None:
    found = lengths_of(2000, 64, 128, seed=1, vary=True)
    assert (min(found["prompt_lengths"]), max(found["prompt_lengths"])) == (8, 64)
    assert (min(found["response_lengths"]), max(found["response_lengths"])) == (4, 128)
    assert found == lengths_of(2000, 64, 128, seed=1, vary=True)
    assert found != lengths_of(2000, 64, 128, seed=2, vary=True)


def test_a_drawn_length_is_at_least_one() -> None:
    assert set(drawn_lengths(100, 3, 8, seed=0)) == {1, 2, 3}


@pytest.mark.parametrize("work", [small(), uneven("llama"), small(reward="abc", micro_batch=2)])
def test_work_survives_json(work: Work) -> None:
    assert Work.of(json.loads(json.dumps(work.plain()))) == work


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt_lengths": (), "response_lengths": ()}, "--rows"),
        ({"prompt_lengths": (5,)}, "response_lengths"),
        ({"prompt_lengths": (0,) * 6}, "--prompt-tokens"),
        ({"response_lengths": (0,) * 6}, "--new-tokens"),
        ({"epochs": 0}, "--epochs"),
        ({"minibatch": 0}, "--minibatch"),
        ({"micro_batch": 0}, "--micro-batch"),
        ({"threads": 0}, "--threads"),
    ],
)
def test_values_out_of_range_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        small(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"layers": 0}, "--layers"), ({"width": 100}, "--width"), ({"vocabulary": 2}, "--vocabulary")],
)
def test_sizes_out_of_range_are_named(fields: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Size(**fields)


def test_the_models_have_the_size() -> None:
    """Parameters of GPT-2: (V + P) d + L (12 d² + 13 d) + 2 d; of Llama: V d + L (4 d² + 3 d m + 2 d) + d."""
    size = Size(layers=2, width=32, vocabulary=50)
    assert parameter_count(causal(size, 64)) == (50 + 64) * 32 + 2 * (12 * 1024 + 13 * 32) + 64
    size = Size(architecture=Architecture.llama, layers=2, width=32, vocabulary=50)
    layer = 4 * 1024 + 3 * 32 * size.inner + 2 * 32
    assert parameter_count(causal(size, 64)) == 50 * 32 + 2 * layer + 32


def test_prompts_are_padded_left_and_their_limits_are_exact() -> None:
    work = uneven()
    prompts = prompts_of(work)
    assert prompts.mask.sum(dim=1).tolist() == list(work.prompt_lengths)
    assert bool(prompts.mask[:, -1].all())
    assert prompts.max_new.tolist() == prompts.min_new.tolist() == list(work.response_lengths)
    assert bool((prompts.ids[prompts.mask] >= 2).all())
    assert bool((prompts.ids[~prompts.mask] == 1).all())


def test_work_in_words() -> None:
    assert uneven().text().splitlines() == [
        "gpt2, 2 layers, width 32, vocabulary 50, float32, 1 thread",
        (
            "9 prompts of 2 to 7 tokens, responses of 1 to 9, 2 epochs of 2 minibatches, "
            "sparse reward, micro-batches of 2"
        ),
    ]
