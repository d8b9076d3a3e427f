"""Random numbers that depend on nothing but their name: (seed, stream, step, row, …).

Every draw is keyed, never taken from a shared generator, so neither batch size, nor order, nor the
number of processes can change it, and a resumed run needs no stored generator state.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

GOLDEN: Final = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer


def stream_key(*parts: int | str) -> int:
    """The signed 64-bit key of a named stream, e.g. `stream_key(seed, "rollout", step, row)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(
        hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True
    )


def permutation(key: int, count: int) -> np.ndarray:
    """A permutation of range(count) that is a pure function of `key`."""
    return np.random.Generator(np.random.Philox(key=key & (2**64 - 1))).permutation(count)


def integer(key: int, low: int, high: int) -> int:
    """A uniform integer of the half-open range [low, high), a pure function of `key`."""
    return low + (key & (2**64 - 1)) * (high - low) // 2**64


def _shift_right(x: Int64[Tensor, "..."], bits: int) -> Int64[Tensor, "..."]:
    """Logical (unsigned) shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) in wrapping 64-bit arithmetic."""
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift_right(x, 31)


def uniforms(keys: Int64[Tensor, "N"], count: int) -> Float64[Tensor, "N count"]:
    """Uniform numbers of the open interval (0, 1): row i is the SplitMix64 stream of keys[i].

    Integer arithmetic decides them, so they are the same on every device.
    """
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    # 52 bits, so that adding one half is exact and neither 0 nor 1 can come out.
    bits = _shift_right(_mix(keys[:, None] + counter * GOLDEN), 12)
    return (bits.double() + 0.5) / 2**52


def gumbels(keys: Int64[Tensor, "N"], count: int) -> Float64[Tensor, "N count"]:
    """Standard Gumbel noise: argmax(logits + noise) is a sample of softmax(logits)."""
    return -torch.log(-torch.log(uniforms(keys, count)))


def fold(keys: Int64[Tensor, "N"], number: int) -> Int64[Tensor, "N"]:
    """A new key for each key and `number`, e.g. the position of a token in its response."""
    return _mix(keys ^ ((number + 1) * 0x632BE59BD9B4E019 % 2**63))
