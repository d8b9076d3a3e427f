"""The decode loop: what it reads at each step, greedy responses, and the state of the model."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from builders import (
    ARCHITECTURES,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    make_prompts,
    tiny_causal,
    tiny_policy,
)
from tokencredit.models.actors import unscored
from tokencredit.models.decoding import generation
from tokencredit.models.decoding.cache import RoomyLayer
from tokencredit.models.decoding.generation import Reader, evaluating, generate
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.trunk import checkpoint
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.ops import gather_logp
from tokencredit.rollout import Prompts
from tokencredit.streams import fold, gumbels, stream_key

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
SIZES = [2, 7, 4, 5, 3, 6, 7, 2]
LIMITS = [6, 9, 12, 3, 8, 15, 10, 7]


def speak(
    model: PreTrainedModel,
    prompts: Prompts,
    sampling: Sampling | None = None,
    *,
    greedy: bool = False,
    stream: str = "loop",
) -> list[list[int]]:
    said = generate(model, prompts, sampling or Sampling(), IDS, (stream,), greedy=greedy)
    return [row[:n].tolist() for row, n in zip(said.ids, said.lengths, strict=True)]


@torch.no_grad()
def slowly(
    model: PreTrainedModel,
    prompts: Prompts,
    temperature: float = 1.0,
    *,
    greedy: bool = False,
) -> list[list[int]]:
    """One row at a time, the whole sequence read anew for every token, no cache, no padding."""
    texts = []
    for row in range(len(prompts)):
        start, said = prompts.ids[row][prompts.mask[row]].tolist(), []
        key = torch.tensor([stream_key("loop", int(prompts.rows[row]), int(prompts.samples[row]))])
        for t in range(int(prompts.max_new[row])):
            logits = model(input_ids=torch.tensor([start + said])).logits[0, -1].double()
            logits = logits / temperature
            if t < int(prompts.min_new[row]):
                logits[EOS_ID] = -torch.inf
            logits[PAD_ID] = -torch.inf
            noise = 0 if greedy else gumbels(fold(key, t), VOCABULARY)[0]
            said.append(int((logits + noise).argmax()))
            if said[-1] == EOS_ID:
                break
        texts.append(said)
    return texts


def ending(architecture: str, boost: float = 5.0) -> PreTrainedModel:
    """A model that often says the end token."""
    model = tiny_causal(architecture)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    head.bias.data[EOS_ID] = boost
    return model


def mixed() -> Prompts:
    """Lengths, limits, and minimal lengths that differ from row to row."""
    prompts = make_prompts(SIZES, max_new=LIMITS)
    return replace(prompts, min_new=torch.tensor([0, 4, 1, 3, 0, 9, 2, 7]))


@architectures
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_loop_says_what_one_row_at_a_time_says(
    architecture: str, greedy: bool, temperature: float
) -> None:
    """Padding, cache, rows that leave, and a minimal length of each row's own change nothing."""
    model = ending(architecture)
    texts = speak(model, mixed(), Sampling(temperature=temperature), greedy=greedy)
    assert texts == slowly(model, mixed(), temperature, greedy=greedy)
    lengths = [len(text) for text in texts]
    assert len(set(lengths)) > 3 and any(text[-1] == EOS_ID for text in texts)
    assert all(
        EOS_ID not in text[:least] for text, least in zip(texts, mixed().min_new, strict=True)
    )


@architectures
def test_one_length_of_prompts_needs_no_mask(architecture: str) -> None:
    """Rows of one length are read without a mask; beside a longer one, with one."""
    model = ending(architecture, 3.0)
    alike = replace(make_prompts([5] * 6, max_new=10), min_new=torch.arange(6))
    texts = speak(model, alike)
    assert texts == slowly(model, alike)
    wider = replace(
        make_prompts([5] * 6 + [9], max_new=10), min_new=torch.tensor([0, 1, 2, 3, 4, 5, 0])
    )
    wider.ids[:6, -5:] = alike.ids
    assert speak(model, wider)[:6] == texts


@architectures
def test_a_prompt_of_several_rows_is_read_once(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = ending(architecture), mixed()
    order = torch.tensor([3, 0, 0, 5, 3, 3, 1, 7])
    prompts = replace(
        prompts[order], samples=torch.arange(8), min_new=prompts.min_new, max_new=prompts.max_new
    )
    read: list[tuple[int, int]] = []
    forward = Reader._read

    def noted(self: Reader, ids: Tensor, *rest: Tensor) -> Tensor:
        read.append(tuple(ids.shape))
        return forward(self, ids, *rest)

    monkeypatch.setattr(Reader, "_read", noted)
    texts = speak(model, prompts)
    assert texts == slowly(model, prompts)
    assert read[0] == (5, 7) and read[1][1] == 1 and read[1][0] > 5
    alike = [texts[1], texts[2]]
    assert alike[0] != alike[1]


def test_positions_from_the_width_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ending("gpt2")
    texts = speak(model, mixed())
    monkeypatch.setattr(
        generation, "position_ids", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
    )
    assert speak(model, mixed()) != texts


def test_rows_that_take_the_wrong_place_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ending("llama")
    texts = speak(model, mixed())
    select = RoomyLayer.batch_select_indices
    monkeypatch.setattr(
        RoomyLayer, "batch_select_indices", lambda self, chosen: select(self, chosen.sort().values)
    )
    assert speak(model, mixed()) != texts


@pytest.mark.parametrize(
    ("going", "chosen"),
    [
        ([1, 1, 1], [0, 1, 2]),
        ([0, 1, 1], [2, 1]),
        ([1, 1, 0], [0, 1]),
        ([0, 1, 0, 0, 1, 1], [4, 1, 5]),
        ([0, 0, 0, 1], [3]),
        ([0, 0], []),
    ],
)
def test_the_last_rows_fill_the_gaps(going: list[int], chosen: list[int]) -> None:
    assert generation._compacted(torch.tensor(going).bool()).tolist() == chosen


@architectures
def test_greedy_responses_know_no_seed(architecture: str) -> None:
    model, prompts = tiny_causal(architecture), make_prompts(SIZES, max_new=LIMITS)
    texts = speak(model, prompts, greedy=True)
    assert speak(model, prompts, greedy=True, stream="other") == texts
    others = replace(prompts, rows=prompts.rows + 50, samples=prompts.samples + 1)
    assert speak(model, others, greedy=True) == texts
    assert speak(model, prompts) != texts and speak(model, prompts, stream="other") != texts
    alone = replace(prompts, rows=torch.zeros_like(prompts.rows))
    assert speak(model, alone, Sampling(chunk=3), greedy=True) == texts


def test_greedy_responses_ignore_top_k_and_top_p_and_keep_nothing() -> None:
    model, prompts = tiny_causal(), make_prompts(SIZES, max_new=LIMITS)
    sampling = Sampling(top_k=3, top_p=0.5)
    said = generate(model, prompts, sampling, IDS, ("x",), greedy=True)
    assert said.kept is None
    assert torch.equal(said.ids, generate(model, prompts, Sampling(), IDS, ("y",), greedy=True).ids)


def test_top_k_of_one_is_greedy() -> None:
    model, prompts = tiny_causal(), make_prompts(SIZES, max_new=LIMITS)
    assert speak(model, prompts, Sampling(top_k=1)) == speak(model, prompts, greedy=True)


@architectures
@pytest.mark.filterwarnings("error")
def test_gradient_checkpointing_and_training_mode_change_nothing(architecture: str) -> None:
    model, prompts = ending(architecture), mixed()
    texts = speak(model, prompts)
    checkpoint(model)
    model.train()
    model.get_output_embeddings().eval()
    assert speak(model, prompts) == texts
    modes = {name: module.training for name, module in model.named_modules()}
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    assert not modes.pop(head) and all(modes.values())


@architectures
def test_a_cache_that_is_switched_off_is_noticed(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training mode gradient checkpointing would leave each token alone with itself."""
    model = ending(architecture)
    checkpoint(model)
    model.train()
    monkeypatch.setattr(generation, "evaluating", nullcontext)
    with pytest.raises(AssertionError, match="cache"):
        speak(model, mixed())


def test_the_model_is_put_back_after_an_error() -> None:
    model = tiny_causal()
    model.train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=5)])
def test_field_B21_weights_that_are_no_numbers_stop_generation(
    sampling: Sampling, greedy: bool
) -> None:
    model = tiny_causal()
    next(iter(model.parameters())).data[:] = torch.nan
    with pytest.raises(FloatingPointError, match="finite"):
        speak(model, make_prompts([3]), sampling, greedy=greedy)


def test_responses_carry_no_gradient() -> None:
    said = generate(tiny_causal(), make_prompts([3, 4]), Sampling(), IDS, ("x",))
    assert not said.ids.requires_grad and not torch.is_inference(said.ids)


@architectures
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.7),
        Sampling(top_k=20, temperature=1.4),
        Sampling(top_p=0.7),
        Sampling(top_k=150, top_p=0.8, temperature=0.7),
    ],
    ids=["plain", "temperature", "top-k", "top-p", "all"],
)
@torch.no_grad()
def test_field_B41_scores_of_the_loop_are_those_of_the_training_forward(
    architecture: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probabilities under which the loop drew, against those the policy computes afterwards."""
    policy, prompts = tiny_policy(architecture, sampling), mixed()
    drawn = torch.zeros(len(prompts), int(prompts.max_new.max()))
    choose = generation._Responses.choose

    def noted(self: generation._Responses, logits: Tensor, rows: Tensor, t: int) -> Tensor:
        token = choose(self, logits, rows, t)  # leaves the processed logits behind
        drawn[rows, t] = gather_logp(logits, token)[0]
        return token

    monkeypatch.setattr(generation._Responses, "choose", noted)
    said = generate(policy.model, prompts, sampling, IDS, ("B41",))
    scored = policy(unscored(prompts, said)).logp
    assert (drawn[:, : said.ids.shape[1]] - scored)[said.mask].abs().max() < 1e-4
    colder = tiny_policy(architecture, replace(sampling, temperature=0.9))
    colder.load_state_dict(policy.state_dict())
    assert (colder(unscored(prompts, said)).logp - scored)[said.mask].abs().max() > 1e-2
