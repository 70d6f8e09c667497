"""Counter-based random numbers: Philox 4x32 with 10 rounds.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A draw is a pure function
of (seed, episode, block, stream): nothing is stored, so environment i of a vector seeded s draws what a single
environment seeded s + i draws, in any order, on any number of threads, and whatever the agent does.

A *stream* numbers the purposes within one block (price, flow of pool k, rival r, ...); see the environment's file.
"""

from __future__ import annotations

import math

from arbgym.jit import kernel

_MASK = 0xFFFFFFFF
_MULTIPLIER_0 = 0xD2511F53
_MULTIPLIER_1 = 0xCD9E8D57
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_ROUNDS = 10
_UNIT = 1.0 / 9007199254740992.0  # 2^-53
_UNIT_32 = 1.0 / 4294967296.0  # 2^-32
_TWO_PI = 2.0 * math.pi


@kernel
def philox(counter0: int, counter1: int, counter2: int, counter3: int, key0: int, key1: int) -> tuple[int, int, int, int]:
    """Four 32-bit words from a 128-bit counter and a 64-bit key (all arguments are 32-bit words held in int64)."""
    c0, c1, c2, c3 = counter0, counter1, counter2, counter3
    k0, k1 = key0, key1
    for _ in range(_ROUNDS):
        product0 = _wide_product(_MULTIPLIER_0, c0)
        product1 = _wide_product(_MULTIPLIER_1, c2)
        high0, low0 = (product0 >> 32) & _MASK, product0 & _MASK
        high1, low1 = (product1 >> 32) & _MASK, product1 & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _WEYL_0) & _MASK
        k1 = (k1 + _WEYL_1) & _MASK
    return c0, c1, c2, c3


@kernel
def _wide_product(a: int, b: int) -> int:
    """The 64-bit product of two 32-bit words; int64 wraps as uint64 does and the shift is masked by the caller."""
    return a * b


@kernel
def uniform2(seed: int, episode: int, block: int, stream: int) -> tuple[float, float]:
    """Two independent uniforms in the open interval (0, 1), 53 bits each."""
    a, b, c, d = philox(block & _MASK, stream & _MASK, episode & _MASK, (seed >> 32) & _MASK, seed & _MASK, 0 * seed)
    first = (((a << 21) ^ (b & 0x1FFFFF)) & 0x1FFFFFFFFFFFFF) + 0.5
    second = (((c << 21) ^ (d & 0x1FFFFF)) & 0x1FFFFFFFFFFFFF) + 0.5
    return first * _UNIT, second * _UNIT


@kernel
def uniform4(seed: int, episode: int, block: int, stream: int) -> tuple[float, float, float, float]:
    """Four independent uniforms in the open interval (0, 1), 32 bits each."""
    a, b, c, d = philox(block & _MASK, stream & _MASK, episode & _MASK, (seed >> 32) & _MASK, seed & _MASK, 0 * seed)
    return (a + 0.5) * _UNIT_32, (b + 0.5) * _UNIT_32, (c + 0.5) * _UNIT_32, (d + 0.5) * _UNIT_32


@kernel
def normal2_from(u: float, v: float) -> tuple[float, float]:
    """Two independent standard normals from two uniforms (Box and Muller 1958)."""
    radius = math.sqrt(-2.0 * math.log(u))
    angle = _TWO_PI * v
    return radius * math.cos(angle), radius * math.sin(angle)


@kernel
def normal2(seed: int, episode: int, block: int, stream: int) -> tuple[float, float]:
    """Two independent standard normals from 53-bit uniforms."""
    u, v = uniform2(seed, episode, block, stream)
    return normal2_from(u, v)
