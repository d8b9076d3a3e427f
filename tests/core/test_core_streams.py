"""Keyed random numbers: the reference algorithm, statistics, and stored values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokencredit import streams
from tokencredit.streams import (
    columns,
    fold,
    gumbel,
    gumbels,
    integer,
    permutation,
    scatter,
    seeds,
    stream_key,
    uniforms,
    unit,
)

MASK, WORD = 2**64 - 1, 2**32 - 1
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(x: int) -> int:
    x = (x ^ x >> 30) * FIRST & MASK
    x = (x ^ x >> 27) * SECOND & MASK
    return x ^ x >> 31


def finalise(x: int) -> int:
    """MurmurHash3's last step, for 32 bits (Appleby 2008)."""
    x = (x ^ x >> 16) * 0x85EBCA6B & WORD
    x = (x ^ x >> 13) * 0xC2B2AE35 & WORD
    return x ^ x >> 16


def reference(key: int, count: int) -> list[float]:
    """The numbers of one row, in plain integers."""
    first, second = mix(key + GOLDEN & MASK), mix(key + 2 * GOLDEN & MASK)
    numbers = []
    for counter in range(1, count + 1):
        column = finalise(counter)
        x = (column ^ first & WORD) * (first >> 32 | 1) & WORD
        x ^= (x >> 15) | (0xFFFE0000 if x >> 31 else 0)  # the shift repeats the sign
        x = x * (second & WORD | 1) & WORD
        numbers.append((min(x, 2**32 - x) + 0.5) / 2**31)
    return numbers


def test_the_mixer_is_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # seed 1234567
    states = [1234567 + n * GOLDEN & MASK for n in (1, 2, 3)]
    assert [mix(state) for state in states] == published
    signed = torch.tensor([state - 2**64 if state >> 63 else state for state in states])
    assert [x & MASK for x in streams._mix(signed).tolist()] == published


@given(st.integers(-(2**63), 2**63 - 1))
def test_uniforms_are_the_reference(key: int) -> None:
    assert uniforms(torch.tensor([key]), 5)[0].tolist() == reference(key & MASK, 5)


def test_the_least_and_the_largest_word_give_finite_noise() -> None:
    words = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31) + 1], dtype=torch.int32)
    u = unit(words)
    assert ((u > 0) & (u < 1)).all() and u[1] == u[2] and u[3] == u[4]
    assert gumbel(u).isfinite().all()
    assert gumbel(u)[0].item() == pytest.approx(-math.log(-math.log1p(-(2.0**-32))))
    assert gumbel(u).max() < 22.2


@pytest.mark.parametrize("seed", range(5))
def test_every_size_of_a_word_is_equally_likely(seed: int) -> None:
    """With 16-bit integers in place of 32-bit ones all inputs can be tried: two for each size."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16)
    rows = torch.randint(-(2**15), 2**15, (1, 3), generator=torch.Generator().manual_seed(seed))
    rows[:, 1:] |= 1
    out = torch.empty((1, len(every)), dtype=torch.int16)
    scatter(rows.to(torch.int16), every, out, torch.empty_like(out))
    sizes = np.bincount(out.long().abs().flatten().numpy())
    assert len(sizes) == 2**15 and (sizes == 2).all()


def test_stored_values() -> None:
    key = stream_key(7, "rollout", 3, 42)
    assert key == STORED_KEY
    keys = torch.tensor([key])
    assert (uniforms(keys, 3)[0] * 2**31 - 0.5).tolist() == STORED_SIZES
    assert fold(keys, 0).item() == STORED_FOLDS[0]
    assert fold(keys, 9).item() == STORED_FOLDS[1]
    assert permutation(key, 8).tolist() == STORED_PERMUTATION
    assert [integer(stream_key("i", n), 2, 8) for n in range(10)] == STORED_INTEGERS


STORED_KEY = 5457360876168910164
STORED_SIZES = [695898536.0, 2022664061.0, 1262307476.0]
STORED_FOLDS = (7203361256509038666, -3952011857712614895)
STORED_PERMUTATION = [7, 4, 1, 6, 3, 5, 2, 0]
STORED_INTEGERS = [4, 5, 7, 4, 6, 2, 5, 6, 7, 7]


def test_row_of_a_batch_is_the_row_alone() -> None:
    keys = torch.tensor([stream_key("k", n) for n in range(6)])
    together = gumbels(fold(keys, 4), 30)
    order = torch.tensor([3, 0, 5, 1])
    assert torch.equal(gumbels(fold(keys[order], 4), 30), together[order])
    assert torch.equal(gumbels(fold(keys, 4), 10), together[:, :10])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_positions_are_folded_in_one_by_one_or_together(numbers: list[int]) -> None:
    keys = torch.tensor(numbers)
    positions = torch.tensor([0, 1, 7, 2**20])
    together = fold(keys[:, None], positions)
    for column, position in enumerate(positions.tolist()):
        assert torch.equal(together[:, column], fold(keys, position))
    assert torch.equal(seeds(together)[:, 1], seeds(together[:, 1]))


def rows(name: str, count: int, width: int) -> np.ndarray:
    """Numbers of rows whose keys are named one after another."""
    keys = torch.tensor([stream_key(name, n) for n in range(count)])
    return uniforms(keys, width).numpy()


def uniform_p(u: np.ndarray) -> float:
    histogram, _ = np.histogram(u, bins=256, range=(0, 1))
    return float(stats.chisquare(histogram).pvalue)


def pairs_p(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of the joint histogram of two columns of numbers, 16 × 16 cells."""
    histogram, _, _ = np.histogram2d(a, b, bins=16, range=((0, 1), (0, 1)))
    return float(stats.chisquare(histogram.flatten()).pvalue)


def crowding_p(u: np.ndarray, share: float = 0.01) -> float:
    """Whether the small numbers of a row, those that win, come as singly as chance has them."""
    counts = (u < share).sum(axis=1)
    width = u.shape[1]
    statistic = ((counts - width * share) ** 2).sum() / (width * share * (1 - share))
    return float(2 * min(stats.chi2.cdf(statistic, len(u)), stats.chi2.sf(statistic, len(u))))


def minima_p(u: np.ndarray) -> float:
    """The smallest of n uniform numbers is n⁻¹ times an exponential one, for large n."""
    return float(stats.kstest(u.min(axis=1), stats.beta(1, u.shape[1]).cdf).pvalue)


def places_p(u: np.ndarray) -> float:
    """Whether each column holds the smallest number equally often."""
    return float(stats.chisquare(np.bincount(u.argmin(axis=1), minlength=u.shape[1])).pvalue)


CHECKS: dict[str, Callable[[], float]] = {
    "one row": lambda: uniform_p(rows("row", 1, 100_000)),
    "one column": lambda: uniform_p(rows("column", 50_000, 1)),
    "many": lambda: uniform_p(rows("many", 500, 1000)),
    "Kolmogorov-Smirnov": lambda: float(stats.kstest(rows("ks", 200, 500).ravel(), "uniform")[1]),
    "low digits": lambda: uniform_p((rows("digits", 200, 500) * 2**16 % 1).ravel()),
    "neighbouring rows": lambda: pairs_p(
        rows("pairs", 501, 200)[:-1].ravel(), rows("pairs", 501, 200)[1:].ravel()
    ),
    "neighbouring columns": lambda: pairs_p(
        rows("next", 500, 201)[:, :-1].ravel(), rows("next", 500, 201)[:, 1:].ravel()
    ),
    "two columns": lambda: pairs_p(*rows("two", 50_000, 2).T),
    "columns in pairs": lambda: min(
        1, 30 * min(map(pairs_p, *(rows("in pairs", 10_000, 60).T[n::2] for n in (0, 1))))
    ),
    "crowding": lambda: crowding_p(rows("crowd", 400, 8192)),
    "crowding, rarer": lambda: crowding_p(rows("crowds", 400, 8192), 0.001),
    "minima": lambda: minima_p(rows("minima", 2000, 500)),
    "places of minima": lambda: places_p(rows("places", 4000, 100)),
}


@pytest.mark.parametrize("name", CHECKS)
def test_uniforms_pass(name: str) -> None:
    assert CHECKS[name]() > 1e-3


def lattice(
    seeds: torch.Tensor, column: torch.Tensor, out: torch.Tensor, spare: torch.Tensor
) -> torch.Tensor:
    """Multiples of an odd number, as a generator that forgets to scatter its columns makes them."""
    return torch.mul(torch.arange(column.shape[-1], dtype=torch.int32), seeds[:, 1:2], out=out)


def test_weak_words_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "scatter", lattice)
    assert CHECKS["neighbouring columns"]() < 1e-6
    assert CHECKS["crowding"]() < 1e-6


def test_words_without_the_products_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def scattered(
        rows: torch.Tensor, column: torch.Tensor, out: torch.Tensor, spare: torch.Tensor
    ) -> torch.Tensor:
        return torch.bitwise_xor(column, rows[:, :1], out=out)

    monkeypatch.setattr(streams, "scatter", scattered)
    assert CHECKS["two columns"]() < 1e-6
    assert CHECKS["columns in pairs"]() < 1e-6


def test_rows_of_one_key_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    one = seeds(torch.tensor([5]))
    monkeypatch.setattr(streams, "seeds", lambda keys: one.expand(len(keys), 3))
    assert CHECKS["one column"]() < 1e-6
    assert CHECKS["neighbouring rows"]() < 1e-6


def test_positions_keys_and_columns_are_independent() -> None:
    keys = torch.tensor([stream_key("pairs", n) for n in range(20_000)])
    at = [uniforms(fold(keys, t), 2).numpy() for t in range(2)]
    u = uniforms(keys, 2).numpy()
    assert pairs_p(at[0][:, 0], at[1][:, 0]) > 1e-3
    assert pairs_p(at[0][:, 1], at[1][:, 0]) > 1e-3
    assert pairs_p(u[:, 0], at[0][:, 0]) > 1e-3
    assert pairs_p(at[0][:, 0], at[0][:, 0]) < 1e-6


def test_counters_as_keys_are_as_good() -> None:
    u = uniforms(torch.arange(20_000), 2).numpy()
    assert pairs_p(u[:-1, 0], u[1:, 0]) > 1e-3
    assert stats.kstest(u[:, 0], "uniform").pvalue > 1e-3


def draw(logits: torch.Tensor, count: int) -> np.ndarray:
    keys = torch.tensor([stream_key("sampling", n) for n in range(count)])
    tokens = (logits.double() + gumbels(fold(keys, 5), len(logits))).argmax(dim=1)
    return np.bincount(tokens.numpy(), minlength=len(logits))


def test_gumbel_argmax_samples_the_softmax() -> None:
    logits, count = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf, 0.5]), 20_000
    counts, p = draw(logits, count), logits.softmax(0).double().numpy()
    assert counts[4] == 0
    possible = p > 0
    expected = p[possible] / p[possible].sum() * count
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-3
    wrong = (logits / 1.1).softmax(0).double().numpy()  # the test would see another temperature
    expected = wrong[possible] / wrong[possible].sum() * count
    assert stats.chisquare(counts[possible], expected).pvalue < 1e-6


def test_gumbel_noise_has_its_distribution() -> None:
    keys = torch.tensor([stream_key("gumbel", n) for n in range(200)])
    g = gumbels(keys, 500).flatten()
    assert g.mean().item() == pytest.approx(0.5772156649, abs=4 * 1.2825 / math.sqrt(len(g)))
    assert g.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    assert stats.kstest(g.numpy(), "gumbel_r").pvalue > 1e-3


def test_columns_do_not_repeat() -> None:
    """Each step of the finaliser can be undone, so this holds for any number of columns."""
    assert finalise(1) == 0x514E28B7
    scattered = columns(200_000, torch.device("cpu"))
    assert scattered[0].item() == 0x514E28B7 and len(scattered.unique()) == 200_000


def test_names_are_told_apart() -> None:
    names = [(1, 2), (12,), ("1", 2), (1, "2"), ("a", "b"), ("ab",), (2, 1), (1, 2, 0), ()]
    assert len({stream_key(*name) for name in names}) == len(names)
    keys = torch.tensor([stream_key("fold")])
    assert len({fold(keys, t).item() for t in range(1000)}) == 1000


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5), st.integers(1, 9))
def test_integers_lie_in_the_half_open_range(key: int, low: int, width: int) -> None:
    assert low <= integer(key, low, low + width) < low + width


def test_integers_are_uniform_and_both_ends_occur() -> None:
    counts = np.bincount([integer(stream_key("length", n), 8, 16) for n in range(8000)])
    assert counts[:8].sum() == 0 and len(counts) == 16
    assert stats.chisquare(counts[8:]).pvalue > 1e-3
    assert integer(-1, 0, 10) == 9 and integer(0, 0, 10) == 0  # the greatest and least key


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 50))
def test_permutation_is_one_and_belongs_to_its_key(key: int, count: int) -> None:
    order = permutation(key, count)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == permutation(key, count).tolist()


def test_permutations_of_two_keys_differ() -> None:
    assert permutation(1, 100).tolist() != permutation(2, 100).tolist()
