"""Counter-based random numbers: the i-th number is a function of (seed, stream, step, i), with no state to carry.

Philox 2x32-10 (Salmon, Moraes, Dror, Shaw 2011): ten rounds of a multiplication mix a 64-bit counter under a 32-bit
key. The counter is the element's index; the key is mixed from the seed, the step and the stream by the same rounds.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from foveal.kernel import interpret
from foveal.kernel.lang import I32, I64, Index, Value, building, cast, constant, iota, splat, width_of
from foveal.kernel.values import in_plain_python

# the multiplier of Philox 2x32, and what its key grows by between rounds (the golden ratio's fraction in 32 bits)
MULTIPLIER, WEYL, ROUNDS = 0xD256D193, 0x9E3779B9, 10

# 32-bit words: lanes in a kernel, or a NumPy array
Words = TypeVar("Words", Value, np.ndarray)


def rounds(
    low: Words, high: Words, key: Words, multiply: Callable[[Words], tuple[Words, Words]], add: Callable[[Words], Words]
) -> tuple[Words, Words]:
    """Ten rounds on 32-bit words: (low, high) <- (high(low * M) ^ key ^ high, low(low * M)), key <- key + W.

    multiply: the high and the low word of a word times M; add: a key plus W.
    """
    for _ in range(ROUNDS):
        upper, lower = multiply(low)
        low, high = upper ^ key ^ high, lower
        key = add(key)
    return low, high


def numpy_rounds(low: interpret.Plain, high: interpret.Plain, key: interpret.Plain) -> tuple[np.ndarray, np.ndarray]:
    """The rounds on NumPy arrays of uint64 that hold 32-bit words."""
    mask = np.uint64(0xFFFFFFFF)

    def multiply(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        product = x * np.uint64(MULTIPLIER)
        return product >> np.uint64(32), product & mask

    words = [np.atleast_1d(np.asarray(v, np.uint64)) for v in (low, high, key)]
    return rounds(words[0], words[1], words[2], multiply, lambda k: (k + np.uint64(WEYL)) & mask)


def philox_numpy(index: np.ndarray, key: np.ndarray, stream: int) -> np.ndarray:
    """32 random bits for each index (uint64), as NumPy computes them; key: int32 [4] of seed and step."""
    seed_low, seed_high, step_low, step_high = np.asarray(key, np.int32).view(np.uint32)
    mixed, other = numpy_rounds(step_low, step_high, seed_low)
    mixed, _ = numpy_rounds(mixed, other ^ np.uint64(seed_high), stream)
    return numpy_rounds(index & np.uint64(0xFFFFFFFF), index >> np.uint64(32), mixed)[0]


def plain_rounds(low: interpret.Plain, high: interpret.Plain, key: interpret.Plain) -> tuple[np.ndarray, np.ndarray]:
    """The rounds where a body runs in plain Python: on uint32, as its int32 are there."""
    words = [np.asarray(v).astype(np.uint64) for v in (low, high, key)]
    low, high = numpy_rounds(words[0], words[1], words[2])
    return low.astype(np.uint32), high.astype(np.uint32)


@in_plain_python(plain_rounds)
def lane_rounds(low: Value, high: Value, key: Value) -> tuple[Value, Value]:
    """The rounds in the kernel language, on int32 lanes."""
    width = width_of(low)

    def multiply(x: Value) -> tuple[Value, Value]:
        product = cast(x, I64) * constant(MULTIPLIER, I64, width)
        return cast(product >> 32, I32), cast(product, I32)

    return rounds(low, splat(high, width), splat(key, width), multiply, lambda k: k + constant(WEYL, I32, width))


def mixed_key(words: Sequence[Value], stream: int) -> Value:
    """The 32-bit key of one stream at one step, from the words of seed and step."""
    seed_low, seed_high, step_low, step_high = words
    mixed, other = lane_rounds(step_low, step_high, seed_low)
    return lane_rounds(mixed, other ^ seed_high, word(stream))[0]


def word(number: int, width: int = 1) -> Value:
    """A 32-bit number in each of `width` int32 lanes."""
    return constant(number, I32, width) if building() else interpret.splat(np.uint32(number), width)


def counters(first: Index, width: int) -> Value:
    """int32 lanes first, first + 1, ..."""
    if building() is None:
        return interpret.iota(width) + np.uint32(first)
    start = cast(first if isinstance(first, Value) else constant(first, I64), I32)
    return splat(start, width) + iota(width) if width > 1 else start


def philox(index: Value, key: Value) -> Value:
    """32 random bits for each index (int32 lanes)."""
    return lane_rounds(index, word(0, width_of(index)), key)[0]
