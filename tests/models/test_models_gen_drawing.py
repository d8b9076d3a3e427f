"""Drawing ids: the argmax of logits plus noise, found without most of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from tokencredit.models.decoding import gumbel as drawing
from tokencredit.models.decoding.gumbel import OFFSET, SLOPE, Drawer
from tokencredit.streams import gumbel, gumbels, seeds, stream_key, unit

CPU = torch.device("cpu")


def keys_of(name: str, count: int) -> Tensor:
    return stream_key(name) + torch.arange(count)


def some_logits(rows: int, width: int, scale: float, seed: int = 0) -> Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 300, 8192])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 100.0])
def test_ids_are_the_argmax_of_logits_and_noise(width: int, scale: float) -> None:
    logits, keys = some_logits(40, width, scale), keys_of("argmax", 40)
    expected = (logits.double() + gumbels(keys, width)).argmax(dim=1)
    assert torch.equal(Drawer(40, width, CPU).draw(logits, seeds(keys)), expected)


@given(st.integers(0, 10**6), st.integers(2, 200), st.floats(0, 30), st.floats(-1e4, 1e4))
def test_any_logits_give_the_argmax(seed: int, width: int, scale: float, shift: float) -> None:
    logits, keys = some_logits(6, width, scale, seed) + shift, keys_of(f"any{seed}", 6)
    logits[:, seed % width] = -torch.inf
    expected = (logits.double() + gumbels(keys, width)).argmax(dim=1)
    assert torch.equal(Drawer(6, width, CPU).draw(logits, seeds(keys)), expected)


def test_bounds_hold_for_every_kind_of_word() -> None:
    """|word| as the bits of a float32 bounds the exact noise, closely where the noise is large."""
    generator = torch.Generator().manual_seed(0)
    exponents = 2.0 ** (31 * torch.rand(200_000, generator=generator, dtype=torch.double))
    powers = torch.tensor([2**n + d for n in range(1, 31) for d in (-1, 0, 1)])
    words = torch.cat([powers, exponents.long() - 1, torch.tensor([0, 1, 2**31 - 1])])
    bits = words.to(torch.int32).float().view(torch.int32).double()
    slack = OFFSET - SLOPE * bits - gumbel(unit(words.to(torch.int32)))
    assert slack.min() > -1e-6
    likely = (words > 1000) & (words < 0.01 * 2**31)
    assert slack[likely].max() < 0.07


def test_too_low_a_bound_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were bounds not bounds, other ids would come out."""
    monkeypatch.setattr(drawing, "OFFSET", OFFSET - 0.5)
    logits, keys = some_logits(2000, 200, 1.0), keys_of("low", 2000)
    expected = (logits.double() + gumbels(keys, 200)).argmax(dim=1)
    assert not torch.equal(Drawer(2000, 200, CPU).draw(logits, seeds(keys)), expected)


def test_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, names = some_logits(50, 300, 2.0), seeds(keys_of("pieces", 50))
    whole = Drawer(50, 300, CPU).draw(logits, names)
    monkeypatch.setattr(drawing, "CELLS", 320 * 7)
    drawer = Drawer(50, 300, CPU)
    assert len(drawer.words) == 7
    assert torch.equal(drawer.draw(logits, names), whole)
    monkeypatch.setattr(drawing, "CELLS", 1)
    assert torch.equal(Drawer(50, 300, CPU).draw(logits, names), whole)


def test_fewer_rows_than_room_and_rows_in_any_order() -> None:
    logits, names = some_logits(9, 100, 2.0), seeds(keys_of("order", 9))
    drawer = Drawer(30, 100, CPU)
    drawer.draw(some_logits(30, 100, 50.0), seeds(keys_of("earlier", 30)))  # leaves its traces
    whole = drawer.draw(logits, names)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawer.draw(logits[order], names[order]), whole[order])
    assert torch.equal(drawer.draw(logits[4:5], names[4:5]), whole[4:5])


def test_logits_are_left_alone() -> None:
    logits = some_logits(5, 100, 2.0)
    before = logits.clone()
    Drawer(5, 100, CPU).draw(logits, seeds(keys_of("alone", 5)))
    assert torch.equal(logits, before)


def test_the_impossible_is_never_drawn() -> None:
    logits = torch.full((500, 130), -torch.inf)
    logits[:, 3] = logits[:, 128] = -50.0
    drawn = Drawer(500, 130, CPU).draw(logits, seeds(keys_of("impossible", 500)))
    assert set(drawn.tolist()) == {3, 128}
    logits[:, 3] = -torch.inf
    drawn = Drawer(500, 130, CPU).draw(logits, seeds(keys_of("impossible", 500)))
    assert set(drawn.tolist()) == {128}


@pytest.mark.parametrize("bad", [math.nan, math.inf, "none possible"])
def test_field_B21_logits_that_are_no_numbers_are_refused(bad: float | str) -> None:
    logits = some_logits(4, 200, 1.0)
    if isinstance(bad, str):
        logits[2] = -torch.inf
    else:
        logits[2, 150] = bad
    with pytest.raises(FloatingPointError, match="finite"):
        Drawer(4, 200, CPU).draw(logits, seeds(keys_of("bad", 4)))


def draws(logits: Tensor, count: int) -> np.ndarray:
    """How often each id is drawn."""
    names = seeds(keys_of("frequencies", count))
    drawn = Drawer(count, len(logits), CPU).draw(logits.expand(count, -1).contiguous(), names)
    return np.bincount(drawn.numpy(), minlength=len(logits))


def softmax_p(counts: np.ndarray, logits: Tensor) -> float:
    """Chi-square against softmax(logits); ids expected less than 5 times are one."""
    expected = logits.double().softmax(0).numpy() * counts.sum()
    often = expected >= 5
    if not often.all():
        counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
    return float(stats.chisquare(counts, expected).pvalue)


def test_frequencies_are_the_softmax_rare_ids_included() -> None:
    """Probabilities from 1/2 to 1/40,000, the rare ones at both ends of the vocabulary."""
    logits = -torch.cat([torch.arange(8.0, 0, -1), torch.arange(9.0)]) * math.log(2) * 1.8
    assert logits.softmax(0).min() < 2.6e-5
    counts = draws(logits, 200_000)
    assert softmax_p(counts, logits) > 1e-3
    assert softmax_p(counts, logits + 0.4 * (logits < -6)) < 1e-6
    assert softmax_p(counts, logits / 1.05) < 1e-6


def test_frequencies_are_the_softmax_over_a_large_vocabulary() -> None:
    logits = some_logits(1, 8192, 2.0)[0]
    counts = draws(logits, 4_000)
    assert softmax_p(counts, logits) > 1e-3
    assert softmax_p(counts, logits / 1.3) < 1e-6


def test_the_tail_of_the_noise_is_fine_grained() -> None:
    """An id of probability 1e-6 is won as often as it should be: 15 times of 15 million."""
    count, wins = 0, 0
    logit = math.log(1e-6 / (1 - 1e-6))
    for n in range(75):
        noise = gumbels(torch.tensor([stream_key("tail", n)]), 400_000).view(-1, 2)
        count += len(noise)
        wins += int((noise[:, 0] < noise[:, 1] + logit).sum())
    assert stats.binomtest(wins, count, 1e-6).pvalue > 1e-3
    assert stats.binomtest(wins, count, 4e-6).pvalue < 1e-6


def test_draws_of_neighbouring_rows_and_positions_are_independent() -> None:
    logits = torch.linspace(0, 2, 8).expand(20_000, 8).contiguous()
    keys = keys_of("independent", 20_000)
    drawer = Drawer(20_000, 8, CPU)
    first = drawer.draw(logits, seeds(keys)).numpy()
    second = drawer.draw(logits, seeds(keys + 1)).numpy()

    def joint_p(a: np.ndarray, b: np.ndarray) -> float:
        table = np.histogram2d(a, b, bins=8, range=((0, 8), (0, 8)))[0]
        return float(stats.chi2_contingency(table).pvalue)

    assert joint_p(first[:-1], first[1:]) > 1e-3
    assert joint_p(first, second) > 1e-3
    assert joint_p(first, first) < 1e-6
