"""Sampling: lengths, end tokens, and noise that belongs to a row and to nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from builders import (
    ARCHITECTURES,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    make_prompts,
    tiny_causal,
    train_tokenizer,
)
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Record
from tokencredit.models.decoding.generation import Generated, generate
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.rollout import Prompts
from tokencredit.streams import fold, gumbels, stream_key

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
SIZES = [2, 7, 4, 5, 3, 6, 7, 2, 5, 4, 6, 3, 2, 7, 5, 4]
LIMITS = [6, 9, 12, 3, 8, 15, 10, 7] * 2


def eager_to_end(model: PreTrainedModel, boost: float = 5.0) -> PreTrainedModel:
    """The model, more likely to say the end token."""
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    with torch.no_grad():
        head.bias[EOS_ID] = boost
    return model


def texts_of(said: Generated) -> list[list[int]]:
    return [row[:n].tolist() for row, n in zip(said.ids, said.lengths, strict=True)]


def say(
    model: PreTrainedModel, prompts: Prompts, sampling: Sampling | None = None, stream: str = "test"
) -> tuple[list[list[int]], list[bool]]:
    said = generate(model, prompts, sampling or Sampling(), IDS, (stream,))
    assert said.ids.shape[1] == int(said.lengths.max()) and not said.stopped.any()
    return texts_of(said), said.finished.tolist()


def thousand_prompts() -> Prompts:
    """Prompts of 1 to 12 tokens, limits of 1 to 12, the end token masked for 0 to 3 of them."""
    number = torch.arange(1000)
    prompts = make_prompts((1 + number * 7 % 12).tolist(), max_new=(1 + number * 5 % 12).tolist())
    return replace(prompts, min_new=number % 4)


@architectures
def test_field_B38_rollout_chunks_do_not_matter(architecture: str) -> None:
    """Only rounding of matrix products may differ, so a row in a thousand at most."""
    model, prompts = eager_to_end(tiny_causal(architecture), 3.0), thousand_prompts()
    whole, ends = say(model, prompts, Sampling(chunk=100))
    assert 50 < sum(ends) < 950
    for chunk in (64, 250, 1000):
        other, others_ends = say(model, prompts, Sampling(chunk=chunk))
        equal = sum(a == b for a, b in zip(whole, other, strict=True))
        print(f"{architecture}: {equal} of 1000 rows equal in chunks of 100 and of {chunk}")
        assert equal >= 999
        assert sum(a != b for a, b in zip(ends, others_ends, strict=True)) <= 1


@architectures
def test_field_B38_a_chunk_is_the_same_alone_and_in_any_order(architecture: str) -> None:
    """Bit for bit, which is what lets processes share the chunks of a step."""
    model = eager_to_end(tiny_causal(architecture), 3.0)
    prompts = thousand_prompts()[torch.arange(80)]
    whole, ends = say(model, prompts, Sampling(chunk=16))
    for start in (48, 0, 64, 16, 32):
        rows = torch.arange(start, start + 16)
        alone, alone_ends = say(model, prompts[rows], Sampling(chunk=16))
        assert alone == whole[start : start + 16] and alone_ends == ends[start : start + 16]


ELSEWHERE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from test_models_generation import Sampling, eager_to_end, say, thousand_prompts, tiny_causal
model = eager_to_end(tiny_causal("gpt2"), 3.0)
print(say(model, thousand_prompts()[torch.arange(64, 128)], Sampling(chunk=64))[0])
"""


@pytest.mark.slow
def test_field_B38_another_process_says_the_same() -> None:
    model = eager_to_end(tiny_causal("gpt2"), 3.0)
    whole, _ = say(model, thousand_prompts(), Sampling(chunk=64))
    here = Path(__file__).parent
    said = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(here)],
        cwd=here.parent,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(here.parent / "helpers"), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert said.stdout.strip() == str(whole[64:128])


@architectures
def test_field_B38_order_and_company_do_not_matter(architecture: str) -> None:
    model = eager_to_end(tiny_causal(architecture))
    prompts = make_prompts(SIZES, max_new=LIMITS, min_new=2)
    texts, ends = say(model, prompts)
    assert True in ends and False in ends
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled, shuffled_ends = say(model, prompts[order])
    assert shuffled == [texts[i] for i in order] and shuffled_ends == [ends[i] for i in order]
    for row in range(0, 16, 5):
        assert say(model, prompts[torch.tensor([row])])[0] == [texts[row]]


def test_field_B38_shared_noise_would_depend_on_the_order() -> None:
    """Were the noise named by the place in the batch, another order would say other things."""
    model = tiny_causal()
    prompts = make_prompts(SIZES, max_new=LIMITS)
    places = torch.arange(16)
    order = places.flip(0)
    texts, _ = say(model, replace(prompts, rows=places))
    shuffled, _ = say(model, replace(prompts[order], rows=places))
    assert shuffled != texts[::-1]


def test_seed_step_row_and_sample_name_the_noise() -> None:
    model, prompts = tiny_causal(), make_prompts([4])
    same = Prompts.concatenate([prompts] * 3)
    said = {tuple(say(model, prompts, stream=name)[0][0]) for name in ("a", "b", "c")}
    assert len(said) == 3 and say(model, prompts) == say(model, prompts)
    assert len({tuple(t) for t in say(model, replace(same, rows=torch.arange(3)))[0]}) == 3
    assert len({tuple(t) for t in say(model, replace(same, samples=torch.arange(3)))[0]}) == 3
    assert len({tuple(t) for t in say(model, same)[0]}) == 1


def test_a_prompt_repeated_in_a_batch_is_answered_anew() -> None:
    records = [Record(row=n, text="Q: A", prompt="Q: ", completion="A") for n in range(2)]
    source = PromptStream(records, train_tokenizer(), PromptSpec(), Sampling(), 96)
    texts, _ = say(tiny_causal(), source.batch(0, 0, 8))
    assert len({tuple(text) for text in texts}) == 8


@architectures
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_field_B11_tokens_are_the_argmax_of_logits_and_noise(
    architecture: str, temperature: float
) -> None:
    model = tiny_causal(architecture)
    prompts = make_prompts([5, 3], max_new=8, min_new=3)
    texts, _ = say(model, prompts, Sampling(temperature=temperature))
    for row, text in enumerate(texts):
        ids = prompts.ids[row][prompts.mask[row]].tolist()
        key = torch.tensor([stream_key("test", int(prompts.rows[row]), 0)])
        for t, token in enumerate(text):
            logits = model(input_ids=torch.tensor([ids + text[:t]])).logits[0, -1].double()
            if t < 3:
                logits[EOS_ID] = -torch.inf
            logits[PAD_ID] = -torch.inf
            noisy = logits / temperature + gumbels(fold(key, t), VOCABULARY)[0]
            assert int(noisy.argmax()) == token


def test_lengths_and_ends() -> None:
    model = eager_to_end(tiny_causal())
    prompts = make_prompts(SIZES, max_new=LIMITS, min_new=2)
    texts, ends = say(model, prompts)
    for text, ended, limit in zip(texts, ends, LIMITS, strict=True):
        assert 3 <= len(text) <= limit or len(text) == limit
        assert ended == (text[-1] == EOS_ID)
        assert EOS_ID not in text[:-1] and PAD_ID not in text
        assert ended or len(text) == limit


def test_field_B7_end_token_as_the_first_and_as_the_last_possible() -> None:
    model = eager_to_end(tiny_causal(), boost=1e4)
    free = make_prompts([3, 4], max_new=5, min_new=0)
    assert say(model, free) == ([[EOS_ID], [EOS_ID]], [True, True])
    texts, ends = say(model, make_prompts([3, 4], max_new=5, min_new=4))
    assert [len(text) for text in texts] == [5, 5] and ends == [True, True]
    assert all(EOS_ID not in text[:4] for text in texts)
    texts, ends = say(model, make_prompts([3, 4], max_new=5, min_new=5))
    assert [len(text) for text in texts] == [5, 5] and ends == [False, False]


def test_rows_are_filled_with_the_end_id_behind_their_end() -> None:
    model = eager_to_end(tiny_causal())
    prompts = make_prompts(SIZES, max_new=LIMITS, min_new=2)
    said = generate(model, prompts, Sampling(), IDS, ("test",))
    behind = torch.arange(said.ids.shape[1])[None] >= said.lengths[:, None]
    assert behind.any() and (said.ids[behind] == EOS_ID).all()
    assert torch.equal(said.mask, ~behind)


@torch.no_grad()
def test_sampled_frequencies_are_the_softmax() -> None:
    model = tiny_causal()
    one, count = make_prompts([4], max_new=1, min_new=1), 20_000
    prompts = replace(one[torch.zeros(count, dtype=torch.long)], rows=torch.arange(count))
    ids = generate(model, prompts, Sampling(chunk=2000), IDS, ("frequencies",)).ids
    logits: Tensor = model(input_ids=one.ids).logits[0, -1].double()
    logits[[EOS_ID, PAD_ID]] = -torch.inf

    def p_value(probabilities: np.ndarray) -> float:
        likely = probabilities * count >= 5  # the rest is one bin
        counts = np.bincount(ids[:, 0].numpy(), minlength=VOCABULARY)
        observed = [*counts[likely], counts[~likely].sum()]
        expected = [*probabilities[likely] * count, probabilities[~likely].sum() * count]
        return float(stats.chisquare(observed, expected).pvalue)

    assert p_value(logits.softmax(0).numpy()) > 1e-3
    assert p_value((logits / 1.1).softmax(0).numpy()) < 1e-6
