"""Random numbers that depend on nothing but their name: (seed, stream, step, row, …).

Every draw is keyed, never taken from a shared generator, so neither batch size, nor order, nor the
number of processes can change it, and a resumed run needs no stored generator state.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64

GOLDEN: Final = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
TWICE_GOLDEN: Final = 0x3C6EF372FE94F82A  # twice that, wrapped


def stream_key(*parts: int | str) -> int:
    """The signed 64-bit key of a named stream, e.g. `stream_key(seed, "rollout", step, row)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True
    )


def torch_seed(seed: int) -> int:
    """`seed` for torch's generators, which take 64 bits; what is larger is hashed to as many."""
    return seed if -(2**63) <= seed < 2**64 else stream_key(seed)


def permutation(key: int, count: int) -> np.ndarray:
    """A permutation of range(count) that is a pure function of `key`."""
    return np.random.Generator(np.random.Philox(key=key & (2**64 - 1))).permutation(count)


def integer(key: int, low: int, high: int) -> int:
    """A uniform integer of the half-open range [low, high), a pure function of `key`."""
    return low + (key & (2**64 - 1)) * (high - low) // 2**64


def _shift_right(x: Int64[torch.Tensor, "..."], bits: int) -> Int64[torch.Tensor, "..."]:
    """Logical (unsigned) shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int64[torch.Tensor, "..."]) -> Int64[torch.Tensor, "..."]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) in wrapping 64-bit arithmetic."""
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift_right(x, 31)


def fold(
    keys: Int64[torch.Tensor, "*N"], number: int | Int64[torch.Tensor, "*N"]
) -> Int64[torch.Tensor, "*N"]:
    """A new key for each key and `number`, e.g. the position of a token in its response."""
    step = 0x632BE59BD9B4E019
    if isinstance(number, int):
        return _mix(keys ^ ((number + 1) * step % 2**63))
    return _mix(keys ^ ((number + 1) * step & (2**63 - 1)))


@lru_cache(maxsize=4)
def columns(count: int, device: torch.device) -> Int32[torch.Tensor, "count"]:
    """A scattered 32-bit number for each column, no two alike: MurmurHash3's finaliser of it.

    Two columns of one number would share their noise in every row.
    """
    x = torch.arange(1, count + 1, dtype=torch.int64, device=device)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    return x.to(torch.int32)


def seeds(keys: Int64[torch.Tensor, "*N"]) -> Int32[torch.Tensor, "*N 3"]:
    """Three 32-bit numbers for each key: one to flip bits with and two odd factors."""
    first, second = _mix(keys + GOLDEN), _mix(keys + TWICE_GOLDEN)
    parts = torch.stack([first, (first >> 32) | 1, second | 1], dim=-1)
    return parts.to(torch.int32)  # keeps the lower half of each


def scatter(
    rows: Int32[torch.Tensor, "N 3"],
    column: Int32[torch.Tensor, "*V"],
    out: Int32[torch.Tensor, "N V"],
    spare: Int32[torch.Tensor, "N V"],
) -> Int32[torch.Tensor, "N V"]:
    """Random 32-bit words of rows × columns into `out`, in six passes and no new memory.

    Two wrapping products with odd factors of the row's own, and a shift between them; the columns
    were scattered beforehand, which a counter-based generator else does for every word. 32-bit
    integers are several times as fast as 64-bit ones, and as exact on every device.

    The shift keeps the sign, so x ^ (x >> 15) folds x and its complement together onto 31 bits.
    Of a word and its negative just one is an odd multiple of such a number: |word| is uniform over
    0 … 2³¹ − 1.
    """
    flip, first, second = rows[:, :1], rows[:, 1:2], rows[:, 2:]
    torch.bitwise_xor(column, flip, out=out)
    out.mul_(first)
    torch.bitwise_right_shift(out, 15, out=spare)
    out.bitwise_xor_(spare)
    return out.mul_(second)


def unit(words: Int32[torch.Tensor, "*S"]) -> Float64[torch.Tensor, "*S"]:
    """(|word| + ½) / 2³¹: a number of the open interval (0, 1) for each word."""
    return words.abs().double().add_(0.5).mul_(2.0**-31)


def uniforms(keys: Int64[torch.Tensor, "N"], count: int) -> Float64[torch.Tensor, "N count"]:
    """Uniform numbers of the open interval (0, 1), a row for each key.

    Integer arithmetic decides them, so they are the same on every device.
    """
    out = torch.empty((len(keys), count), dtype=torch.int32, device=keys.device)
    return unit(scatter(seeds(keys), columns(count, keys.device), out, torch.empty_like(out)))


def gumbel(uniform: Float64[torch.Tensor, "*S"]) -> Float64[torch.Tensor, "*S"]:
    """−log(−log(1 − u)): the largest noise comes from the smallest u, where the grid is finest."""
    return torch.neg(uniform).log1p_().neg_().log_().neg_()


def gumbels(keys: Int64[torch.Tensor, "N"], count: int) -> Float64[torch.Tensor, "N count"]:
    """Standard Gumbel noise: argmax(logits + noise) is a sample of softmax(logits).

    No value is above 22.2. Ids of probability below 2⁻³² come up too rarely for that: at most
    V 2⁻³² of all probability goes astray.
    """
    return gumbel(uniforms(keys, count))
