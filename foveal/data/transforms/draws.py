"""Random numbers of images that follow from (seed, epoch, index of the image) alone, drawn for a whole batch at once.

Philox4x64-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011), over an array of
indices: the words of an image are those of `numpy.random.Philox(key=[seed, stream], counter=[0, 0, index, epoch])`, and
no other image of the batch has a part in them.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from foveal.strides import Ndarray

Words = NDArray[np.uint64]

# The stream of random numbers that transforms draw from; smaller numbers are the loader's and the feed's.
STREAM = 5
ROUNDS = 10
# Blocks of four words that are made at a time: of small arrays one costs as much as several.
BLOCKS = 2
_MASK = (1 << 64) - 1
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
# The paper's multipliers, and the steps of its keys.
_MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64)[:, None, None]
_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
# The multiplier and the increment of Knuth's generator of 64 bits, which give each fork a stream of its own.
_FORK, _PLUS = 6364136223846793005, 1442695040888963407


def philox(key: tuple[int, int], index: Words, epoch: int, first: int, blocks: int) -> Words:
    """Return words [n, 4 blocks] of the counters (first + b, 0, index, epoch), b = 0 .. blocks - 1."""
    shape = len(index), blocks
    # [2, n, blocks]: words 0 and 2 of the counters, which are multiplied, and words 1 and 3
    even, odd = np.empty((2, *shape), np.uint64), np.empty((2, *shape), np.uint64)
    even[0], even[1] = np.arange(first, first + blocks, dtype=np.uint64), index[:, None]
    odd[0], odd[1] = 0, epoch
    low_factor, high_factor = _MULTIPLIERS & _LOW, _MULTIPLIERS >> _HALF
    for number in range(ROUNDS):
        keys = [(k + number * step) & _MASK for k, step in zip(key, _STEPS, strict=True)]
        # The product of 64 by 64 bits: its lower half, and its upper half from products of halves.
        product = even * _MULTIPLIERS
        low, high = even & _LOW, even >> _HALF
        cross = high * low_factor + ((low * low_factor) >> _HALF)
        upper = high * high_factor + (cross >> _HALF) + (((cross & _LOW) + low * high_factor) >> _HALF)
        even, odd = upper[::-1] ^ odd ^ np.array(keys, np.uint64)[:, None, None], product[::-1]
    words: Words = np.stack([even[0], odd[0], even[1], odd[1]], 2).reshape(len(index), 4 * blocks)
    return words


class Draws:
    """Random numbers for each of n images: what one of them gets depends on its own index alone.

    seed: of the run. epoch: counted from 0. index [n]: the number of each image in the data set.

        draws = Draws(seed=1, epoch=0, index=np.arange(4))
        draws.uniform(0.5, 1.5)  # float64 [4]

    Each call goes on where the one before ended. `fork(place)` starts numbers of their own for a part of a transform,
    and `rows(which)` goes on for some of the images.
    """

    def __init__(self, seed: int, epoch: int, index: Ndarray, stream: int = STREAM) -> None:
        self.seed, self.epoch, self.stream = seed, epoch, stream
        self.index = np.asarray(index).astype(np.uint64)
        # The next counter, and words that are made and not yet used.
        self.counter, self.ready = 1, np.empty((len(self.index), 0), np.uint64)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.index)

    def fork(self, place: int) -> Draws:
        """Return other random numbers of the same images: those of part number `place`."""
        return Draws(self.seed, self.epoch, self.index, (self.stream * _FORK + (place + 1) * _PLUS) & _MASK)

    def rows(self, which: Ndarray) -> Self:
        """Return the numbers of some of the images, which go on where these are."""
        part = object.__new__(type(self))
        part.seed, part.epoch, part.stream, part.counter = self.seed, self.epoch, self.stream, self.counter
        part.index, part.ready = self.index[which], self.ready[which]
        return part

    def words(self, count: int) -> Words:
        """Return the next words of each image, [n, count]."""
        missing = count - self.ready.shape[1]
        if missing > 0:
            blocks = max(BLOCKS, -(-missing // 4))
            made = philox((self.seed, self.stream), self.index, self.epoch, self.counter, blocks)
            self.counter += blocks
            self.ready = np.concatenate([self.ready, made], axis=1)
        taken, self.ready = self.ready[:, :count], self.ready[:, count:]
        return taken

    def unit(self, count: int) -> NDArray[np.float64]:
        """Return numbers from 0 to below 1, [n, count]: multiples of 2^-53."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Return a number from `low` to below `high` for each image, [n]."""
        return low + (high - low) * self.unit(1)[:, 0]

    def integers(self, low: Ndarray | int, high: Ndarray | int) -> NDArray[np.int64]:
        """Return a whole number from `low` to `high` - 1 for each image, [n]; low, high: one for all, or [n]."""
        span = np.asarray(high) - low
        return low + np.floor(self.unit(1)[:, 0] * span).astype(np.int64)

    def gamma(self, shape: float, count: int) -> NDArray[np.float64]:
        """Return numbers of the gamma distribution of this shape and scale 1, [n, count]."""
        key, fork = [self.seed, (self.stream * _FORK + self.counter) & _MASK], self.counter
        self.counter, self.ready = fork + 1, self.ready[:, :0]
        return np.array(
            [
                Generator(Philox(key=key, counter=[0, 0, int(i), self.epoch])).standard_gamma(shape, count)
                for i in self.index
            ]
        ).reshape(len(self), count)

    def dirichlet(self, alpha: float, count: int) -> NDArray[np.float64]:
        """Return shares that add up to 1, [n, count], of the symmetric Dirichlet distribution; two of them: beta."""
        # Far below 1, all of them may round to 0.
        parts = np.maximum(self.gamma(alpha, count), np.finfo(np.float64).tiny)
        shares: NDArray[np.float64] = parts / parts.sum(1, keepdims=True)
        return shares
