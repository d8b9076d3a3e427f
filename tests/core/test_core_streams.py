"""Counter-based random numbers: the reference algorithm, statistics, and stored values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tokencredit.streams import fold, gumbels, integer, permutation, stream_key, uniforms

MASK = 2**64 - 1
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
ULP = 2.0**-52


def signed(x: int) -> int:
    x &= MASK
    return x - 2**64 if x >= 2**63 else x


def mix(x: int) -> int:
    x = (x ^ x >> 30) * FIRST & MASK
    x = (x ^ x >> 27) * SECOND & MASK
    return x ^ x >> 31


def unmix(y: int) -> int:
    """The inverse of `mix`."""

    def unshift(z: int, bits: int) -> int:
        x = z
        for _ in range(64 // bits + 1):
            x = z ^ x >> bits
        return x

    y = unshift(y, 31) * pow(SECOND, -1, 2**64) & MASK
    y = unshift(y, 27) * pow(FIRST, -1, 2**64) & MASK
    return unshift(y, 30)


def reference(key: int, count: int) -> list[float]:
    """SplitMix64 in plain Python: state += golden ratio, then the finaliser."""
    state, numbers = key & MASK, []
    for _ in range(count):
        state = (state + GOLDEN) & MASK
        numbers.append((mix(state) >> 11) / 2**53)
    return numbers


def test_reference_is_splitmix64() -> None:
    assert unmix(mix(123456789)) == 123456789
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # seed 1234567
    state, found = 1234567, []
    for _ in published:
        state = (state + GOLDEN) & MASK
        found.append(mix(state))
    assert found == published


@given(st.integers(-(2**63), 2**63 - 1))
def test_uniforms_are_the_splitmix64_stream_of_the_key(key: int) -> None:
    assert uniforms(torch.tensor([key]), 5)[0].tolist() == pytest.approx(
        reference(key, 5), abs=ULP, rel=0
    )


@pytest.mark.parametrize("bits", [0, MASK])
def test_uniforms_lie_in_the_open_interval(bits: int) -> None:
    key = torch.tensor([signed(unmix(bits) - GOLDEN)])
    u = uniforms(key, 1).item()
    assert 0 < u < 1
    assert math.isfinite(gumbels(key, 1).item())


def test_stored_values() -> None:
    key = stream_key(7, "rollout", 3, 42)
    assert key == STORED_KEY
    keys = torch.tensor([key])
    assert uniforms(keys, 3)[0].tolist() == pytest.approx(STORED_UNIFORMS, abs=ULP, rel=0)
    assert fold(keys, 0).item() == STORED_FOLDS[0]
    assert fold(keys, 9).item() == STORED_FOLDS[1]
    assert permutation(key, 8).tolist() == STORED_PERMUTATION
    assert [integer(stream_key("i", n), 2, 8) for n in range(10)] == STORED_INTEGERS


STORED_KEY = 5457360876168910164
STORED_UNIFORMS = [0.46377095785564004, 0.7539124858355698, 0.44679160756242353]
STORED_FOLDS = (7203361256509038666, -3952011857712614895)
STORED_PERMUTATION = [7, 4, 1, 6, 3, 5, 2, 0]
STORED_INTEGERS = [4, 5, 7, 4, 6, 2, 5, 6, 7, 7]


def test_row_of_a_batch_is_the_row_alone() -> None:
    keys = torch.tensor([stream_key("k", n) for n in range(6)])
    together = gumbels(fold(keys, 4), 30)
    order = torch.tensor([3, 0, 5, 1])
    assert torch.equal(gumbels(fold(keys[order], 4), 30), together[order])
    assert torch.equal(gumbels(fold(keys, 4), 10), together[:, :10])


def test_uniforms_have_the_moments_of_a_uniform() -> None:
    keys = torch.tensor([stream_key("moments", n) for n in range(200)])
    u = uniforms(keys, 500).flatten().numpy()
    n = len(u)
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    histogram, _ = np.histogram(u, bins=64, range=(0, 1))
    assert stats.chisquare(histogram).pvalue > 1e-3


def test_distinct_keys_positions_and_columns_are_uncorrelated() -> None:
    keys = torch.tensor([stream_key("pairs", n) for n in range(2000)])
    at = [uniforms(fold(keys, t), 2).numpy() for t in range(2)]
    u = uniforms(keys, 2).numpy()
    pairs = {
        "neighbouring keys": (u[:-1, 0], u[1:, 0]),
        "columns": (u[:, 0], u[:, 1]),
        "positions": (at[0][:, 0], at[1][:, 0]),
        "positions and columns": (at[0][:, 1], at[1][:, 0]),
        "key and fold": (u[:, 0], at[0][:, 0]),
    }
    for name, (a, b) in pairs.items():
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a)), name


def test_counters_as_keys_are_as_good() -> None:
    u = uniforms(torch.arange(4000), 2).numpy()
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 4 / math.sqrt(4000)
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


def test_gumbel_noise_has_its_mean_and_variance() -> None:
    keys = torch.tensor([stream_key("gumbel", n) for n in range(100)])
    g = gumbels(keys, 400).flatten()
    assert g.mean().item() == pytest.approx(0.5772156649, abs=4 * 1.2825 / math.sqrt(len(g)))
    assert g.var().item() == pytest.approx(math.pi**2 / 6, rel=0.05)


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
