"""The passes are those that an iteration makes, and their FLOPs those that torch counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Model, LlamaModel

from bench_work import small, uneven
from tokencredit.bench import plan as planning
from tokencredit.bench.build import actors_of, classifier, prompts_of
from tokencredit.bench.configuration import config_of
from tokencredit.bench.iteration import Loop
from tokencredit.bench.plan import PHASES, Pass, executed, flops, padding, plan, unpadded
from tokencredit.bench.workload import Work
from tokencredit.models.loading.trunk import backbone, head_of

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])


def counted(model: Any, work: Work, one: Pass, ids: torch.Tensor) -> int:
    """FLOPs that torch counts in a pass of trunk and heads; attention is eager, hence counted."""
    model.set_attn_implementation("eager")
    heads = [head_of(model)] + [nn.Linear(work.size.width, n) for _, n in one.heads[1:]]
    with FlopCounterMode(display=False) as counter:
        states = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        outputs = [head(states[:count]) for head, (count, _) in zip(heads, one.heads, strict=True)]
        if one.backward:
            sum(output.sum() for output in outputs).backward()
    return int(counter.get_total_flops())


@ARCHITECTURES
@pytest.mark.parametrize("backward", [False, True])
def test_flops_of_a_reading_pass_are_torchs(architecture: str, backward: bool) -> None:
    work = small(architecture)
    phase = "optimisation" if backward else "scoring"
    one = plan(work, executed(work, 0))[phase][0]
    assert one.backward is backward
    rows = 3 if backward else 6
    assert one == Pass(rows, 8, 8, ((rows * 4, 50), (rows * 4, 1)), backward)
    model = actors_of(work, config_of(work)).policy.model
    ids = torch.randint(2, 50, (rows, 8))
    assert flops(work.size, [one]) == counted(model, work, one, ids)


@ARCHITECTURES
def test_flops_of_a_step_of_generation_are_torchs(architecture: str) -> None:
    work = small(architecture)
    first, second, *_ = plan(work, executed(work, 0))["generation"]
    model = actors_of(work, config_of(work)).policy.model.eval()
    model.set_attn_implementation("eager")
    prompts = prompts_of(work)
    cache = None
    for one, ids in ((first, prompts.ids), (second, prompts.ids[:, :1])):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            found = backbone(model)(input_ids=ids, past_key_values=cache, use_cache=True)
            head_of(model)(found.last_hidden_state[:, -1])
        cache = found.past_key_values
        assert flops(work.size, [one]) == counter.get_total_flops()


@ARCHITECTURES
def test_flops_of_the_reward_model_are_torchs(architecture: str) -> None:
    work = small(architecture)
    one = plan(work, executed(work, 0))["scoring"][-1]
    model: Any = classifier(work.size, work.context)
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        trunk = getattr(model, model.base_model_prefix)
        hidden = trunk(input_ids=torch.randint(2, 50, (6, 9)), use_cache=False).last_hidden_state
        model.score(hidden[:, -1])
    assert flops(work.size, [one]) == counter.get_total_flops()


def test_flops_by_hand() -> None:
    """One layer of GPT-2 has 12 d² weights; 5 tokens see 5; one head of V numbers for 3 tokens."""
    size = replace(small().size, layers=1)
    one = Pass(1, 5, 5, ((3, 50),))
    expected = 2 * 12 * 32 * 32 * 5 + 2 * 2 * 5 * 5 * 32 + 2 * 3 * 32 * 50
    assert flops(size, [one]) == expected
    assert flops(size, [replace(one, backward=True)]) == 3 * expected


@contextmanager
def watching() -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """The shapes of what every trunk and every value head gives, in order."""
    seen: list[tuple[str, tuple[int, ...]]] = []

    def look(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, GPT2Model | LlamaModel):
            seen.append(("trunk", tuple(output.last_hidden_state.shape[:2])))
        elif isinstance(module, nn.Linear) and module.out_features == 1:
            seen.append(("values", (len(output),)))

    handle = register_module_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def told(passes: list[Pass]) -> list[tuple[str, tuple[int, ...]]]:
    """What `watching` sees of these passes."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for one in passes:
        found.append(("trunk", (one.rows, one.queries)))
        if len(one.heads) == 2:
            found.append(("values", (one.heads[1][0],)))
    return found


MANY = small(
    prompt_lengths=tuple(3 + n % 5 for n in range(70)),
    response_lengths=tuple(1 + n % 3 for n in range(70)),
    minibatch=35,
    epochs=1,
)


@pytest.mark.usefixtures("contained")
@pytest.mark.parametrize(
    "work", [small(), uneven(), uneven("llama")], ids=["equal", "uneven", "llama"]
)
def test_an_iteration_makes_the_planned_passes(work: Work) -> None:
    loop = Loop(work)
    for step in (0, 5):
        planned = plan(work, executed(work, step))
        with watching() as seen:
            loop.iterate(step)
        assert seen == told([one for phase in PHASES for one in planned[phase]])


@pytest.mark.usefixtures("contained")
def test_an_iteration_of_several_chunks_makes_the_planned_passes() -> None:
    """Chunks take turns: each is generated and scored before the next."""
    planned = plan(MANY, executed(MANY, 0))
    with watching() as seen:
        Loop(MANY).iterate(0)
    assert sorted(seen) == sorted(told([one for phase in PHASES for one in planned[phase]]))


@pytest.mark.usefixtures("contained")
def test_another_order_of_minibatches_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    work = uneven()
    loop = Loop(work)
    with watching() as seen:
        loop.iterate(0)
    monkeypatch.setattr(planning, "stream_key", lambda *_: 1)
    planned = plan(work, executed(work, 0))
    assert seen != told([one for phase in PHASES for one in planned[phase]])


def test_equal_rows_have_no_padding() -> None:
    work = small()
    passes = plan(work, executed(work, 0))
    assert padding(work, passes) == dict.fromkeys([*PHASES, "whole"], 0.0)
    needed = plan(work, unpadded(work))
    assert all(flops(work.size, passes[p]) == flops(work.size, needed[p]) for p in PHASES)


def test_padding_by_hand() -> None:
    """Rows of 2 + 2 and 4 + 4 tokens: together they are read at a width of 7 instead of 3 and 7."""
    work = small(prompt_lengths=(2, 4), response_lengths=(2, 4), epochs=1, minibatch=2)
    found = padding(work, plan(work, executed(work, 0)))
    assert found["optimisation"] == pytest.approx(1 - 10 / 14)
    assert found["generation"] == pytest.approx(1 - (3 + 7) / (2 * 4 + 2 + 1 + 1))
    assert found["scoring"] == pytest.approx(1 - (10 + 10 + 12) / (14 + 14 + 16))


def test_padding_is_work_that_is_not_needed() -> None:
    work = uneven()
    passes, needed = plan(work, executed(work, 0)), plan(work, unpadded(work))
    assert all(flops(work.size, passes[p]) > flops(work.size, needed[p]) for p in PHASES)
