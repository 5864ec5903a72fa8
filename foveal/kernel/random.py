"""Counter-based random numbers: the i-th number is a function of (seed, stream, step, i), with no state to carry.

Philox 2x32-10 (Salmon, Moraes, Dror, Shaw 2011): ten rounds of a multiplication mix a 64-bit counter under a 32-bit
key. The counter is the element's index; the key is mixed from the seed, the step and the stream by the same rounds.
"""

from typing import Any

import numpy as np

from foveal.kernel import interpret
from foveal.kernel.lang import I32, I64, building, cast, constant, iota, splat, width_of

MULTIPLIER, WEYL, ROUNDS = 0xD256D193, 0x9E3779B9, 10


def rounds(low: Any, high: Any, key: Any, multiply: Any, add: Any) -> tuple[Any, Any]:
    """Ten rounds on 32-bit words: (low, high) <- (high(low * M) ^ key ^ high, low(low * M))."""
    for _ in range(ROUNDS):
        upper, lower = multiply(low)
        low, high = upper ^ key ^ high, lower
        key = add(key)
    return low, high


def numpy_rounds(low: Any, high: Any, key: Any) -> tuple[Any, Any]:
    """The rounds on NumPy arrays of uint64 that hold 32-bit words."""
    mask = np.uint64(0xFFFFFFFF)

    def multiply(x: Any) -> tuple[Any, Any]:
        product = x * np.uint64(MULTIPLIER)
        return product >> np.uint64(32), product & mask

    low, high, key = (np.atleast_1d(np.asarray(v, np.uint64)) for v in (low, high, key))
    return rounds(low, high, key, multiply, lambda k: (k + np.uint64(WEYL)) & mask)


def philox_numpy(index: np.ndarray[Any, Any], key: np.ndarray[Any, Any], stream: int) -> np.ndarray[Any, Any]:
    """32 random bits for each index (uint64), as NumPy computes them; key: int32 [4] of seed and step."""
    seed_low, seed_high, step_low, step_high = np.asarray(key, np.int32).view(np.uint32)
    mixed, other = numpy_rounds(step_low, step_high, seed_low)
    mixed, _ = numpy_rounds(mixed, other ^ np.uint64(seed_high), stream)
    return numpy_rounds(index & np.uint64(0xFFFFFFFF), index >> np.uint64(32), mixed)[0]


def lane_rounds(low: Any, high: Any, key: Any) -> tuple[Any, Any]:
    """The rounds in the kernel language, on int32 lanes."""
    if building() is None:
        words = [np.asarray(v).astype(np.uint64) for v in (low, high, key)]
        return tuple(np.asarray(w).astype(np.uint32) for w in numpy_rounds(*words))  # type: ignore[return-value]
    width = width_of(low)

    def multiply(x: Any) -> tuple[Any, Any]:
        product = cast(x, I64) * constant(MULTIPLIER, I64, width)
        return cast(product >> 32, I32), cast(product, I32)

    return rounds(low, splat(high, width), splat(key, width), multiply, lambda k: k + constant(WEYL, I32, width))


def mixed_key(words: list[Any], stream: int) -> Any:
    """The 32-bit key of one stream at one step, from the words of seed and step."""
    seed_low, seed_high, step_low, step_high = words
    name = constant(stream, I32) if building() else np.uint32(stream)
    mixed, other = lane_rounds(step_low, step_high, seed_low)
    return lane_rounds(mixed, other ^ seed_high, name)[0]


def counters(first: Any, width: int) -> Any:
    """int32 lanes first, first + 1, ..."""
    if building() is None:
        return interpret.iota(width) + np.uint32(first)
    start = cast(first if hasattr(first, "base") else constant(first, I64), I32)
    return splat(start, width) + iota(width) if width > 1 else start


def philox(index: Any, key: Any) -> Any:
    """32 random bits for each index (int32 lanes)."""
    zero = constant(0, I32, width_of(index)) if building() else np.zeros_like(index)
    return lane_rounds(index, zero, key)[0]
