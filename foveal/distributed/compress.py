"""Gradients of fewer bits between ranks, with error feedback: what rounding has lost is added in the next step.

Each node of the tree over the shards (tree.py) has a value of few bits: that of a shard's gradients, and that of each
sum of two nodes. What is lost there stays at the node and is added to its value in the next step before it is rounded
(Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD"). As
nodes are rounded whether their values are sent or not, the bits do not depend on the number of ranks.
"""

from typing import NamedTuple, Protocol

import numpy as np

from foveal.distributed.tree import Messages, Node, PartialSums, Scratch
from foveal.errors import ShapeError
from foveal.strides import Ndarray

# Elements that share one power of two, a byte of 257; the more, the smaller the share that is taken by it.
BLOCK = 256
# The largest code of 8 bits, and of 16.
LARGEST, LARGEST_HALF = 127, float(np.finfo(np.float16).max)
# Powers of two that a byte holds, and whose products with the codes are normal numbers of float32.
LEAST_POWER, MOST_POWER = -119, 120


class Codec(Protocol):
    """How numbers become fewer bits. What `rounded` returns is encoded without a loss."""

    name: str
    #: messages are cut at multiples of so many elements
    grain: int

    def size(self, elements: int) -> int:
        """Return the bytes of so many numbers."""

    def rounded(self, x: Ndarray) -> Ndarray:
        """Return the nearest numbers that the bits can hold, float32."""

    def encoded(self, x: Ndarray) -> Ndarray:
        """Return the bytes of numbers that were rounded."""

    def decoded(self, found: Ndarray, elements: int) -> Ndarray:
        """Return the numbers of bytes."""


class Half:
    """float16: two bytes. What is larger than it holds is sent in several steps, as all that rounding loses."""

    name, grain = "float16", 1

    def size(self, elements: int) -> int:
        return 2 * elements

    def rounded(self, x: Ndarray) -> Ndarray:
        return np.clip(x, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)

    def encoded(self, x: Ndarray) -> Ndarray:
        return x.astype(np.float16).view(np.uint8)

    def decoded(self, found: Ndarray, elements: int) -> Ndarray:
        return found.view(np.float16).astype(np.float32)


class Byte:
    """Whole numbers from -127 to 127, times a power of two for each block of 256: 1.004 bytes.

    The power is the least one that lets the largest magnitude of the block fit. So codes times it are exact, and what
    was rounded is rounded to itself.
    """

    name, grain = "int8", BLOCK

    def size(self, elements: int) -> int:
        return elements + -(-elements // BLOCK)

    def split(self, x: Ndarray) -> tuple[Ndarray, Ndarray]:
        """Return the codes as float32, [blocks, 256] with zeros at the end, and the exponent of each block."""
        blocks = np.zeros((-(-x.size // BLOCK), BLOCK), np.float32)
        blocks.reshape(-1)[: x.size] = x
        share, exponent = np.frexp(np.abs(blocks).max(axis=1, initial=0) / np.float32(LARGEST))
        # A power of two is 0.5 times the next one.
        exponent = np.clip(exponent - (share == 0.5), LEAST_POWER, MOST_POWER).astype(np.int32)
        # A byte has no zero with a sign.
        return np.rint(blocks * power(-exponent)) + np.float32(0), exponent

    def rounded(self, x: Ndarray) -> Ndarray:
        codes, exponent = self.split(x)
        found: Ndarray = (codes * power(exponent)).reshape(-1)[: x.size]
        return found

    def encoded(self, x: Ndarray) -> Ndarray:
        codes, exponent = self.split(x)
        parts = codes.reshape(-1)[: x.size], exponent
        return np.concatenate([part.astype(np.int8) for part in parts]).view(np.uint8)

    def decoded(self, found: Ndarray, elements: int) -> Ndarray:
        whole = found.view(np.int8)
        factors = np.repeat(power(whole[elements:].astype(np.int32)), BLOCK)[:elements]
        return whole[:elements].astype(np.float32) * factors


def power(exponent: Ndarray) -> Ndarray:
    """Return 2^exponent, float32 [blocks, 1]. Products with it are exact, and faster than ldexp of each number."""
    return np.ldexp(np.float32(1), exponent)[:, None]


CODECS: dict[str, Codec] = {"float16": Half(), "int8": Byte()}


def codec_of(name: str | None) -> Codec | None:
    """Return how gradients are sent. Raises ShapeError for a name that is not known."""
    if name is None:
        return None
    if name not in CODECS:
        raise ShapeError(f"compress is {name!r}; gradients are sent as {' or '.join(CODECS)}, or whole without it")
    return CODECS[name]


class Coded:
    """Messages of a codec's bytes between ranks."""

    def __init__(self, ranks: Messages, codec: Codec) -> None:
        self.ranks, self.codec = ranks, codec
        self.rank, self.size = ranks.rank, ranks.size

    def exchange(self, other: int, sent: Ndarray | None, received: Ndarray | None) -> None:
        codes = None if received is None else np.empty(self.codec.size(received.size), np.uint8)
        self.ranks.exchange(other, None if sent is None else self.codec.encoded(sent), codes)
        if received is not None and codes is not None:
            received[...] = self.codec.decoded(codes, received.size)

    def spread(self, array: Ndarray) -> None:
        codes = self.codec.encoded(array) if self.rank == 0 else np.empty(self.codec.size(array.size), np.uint8)
        self.ranks.spread(codes)
        array[...] = self.codec.decoded(codes, array.size)


class Residual(NamedTuple):
    """What rounding has lost of a node, from an element on. used: False for what a resume has brought."""

    start: int
    lost: Ndarray
    used: bool = True


class RoundedSums(PartialSums):
    """Sums whose nodes have values of few bits. What is lost is kept from step to step, in `residuals`."""

    def __init__(self, elements: int, own: range, codec: Codec, scratch: Scratch | None = None) -> None:
        super().__init__(elements, own, scratch=scratch)
        self.codec, self.grain = codec, codec.grain
        # The arrays of shards that have come in part, and memory for others.
        self.leaves: dict[int, Ndarray] = {}
        self.spare: list[Ndarray] = []
        self.residuals: dict[Node, Residual] = {}
        # What the step under way has lost, and memory for it: a step that fails leaves `residuals` as they were.
        self.found: dict[Node, Residual] = {}
        self.unkept: dict[Node, Ndarray] = {}

    @property
    def nbytes(self) -> int:
        lost = [residual.lost for held in (self.residuals, self.found) for residual in held.values()]
        arrays = [*self.leaves.values(), *self.spare, *lost, *self.unkept.values()]
        return super().nbytes + sum(array.nbytes for array in arrays)

    def add(self, shard: int, part: Ndarray, start: int = 0) -> None:
        if shard not in self.leaves:
            self.leaves[shard] = self.spare.pop() if self.spare else np.empty(self.elements, np.float32)
        self.leaves[shard][start : start + part.size] = part

    def close(self, shard: int) -> None:
        """Round the array of a shard, which has come as a whole, and add it to the sums."""
        arrival, leaf = self.arrivals[shard - self.own.start], self.leaves.pop(shard)
        level, place = 0, shard
        self.settle((level, place), leaf)
        if not arrival.merged:
            self.slot(arrival.slot)[...] = leaf
        part = leaf
        for number in arrival.merged:
            level, place, left = level + 1, place // 2, self.slots[number]
            np.add(left, part, out=left)
            self.settle((level, place), left)
            part = left
        self.spare.append(leaf)

    def settle(self, node: Node, value: Ndarray, start: int = 0) -> None:
        """Round the value of a node, with what was lost before, and note what is lost."""
        value += self.residual(node, start, value.size)
        rounded, lost = self.codec.rounded(value), self.unkept.pop(node, None)
        if lost is None or lost.size != value.size:
            lost = np.empty(value.size, np.float32)
        np.subtract(value, rounded, out=lost)
        self.found[node] = Residual(start, lost)
        value[...] = rounded

    def residual(self, node: Node, start: int, size: int) -> Ndarray | float:
        """Return what was lost of part of a node: the part that this rank adds up, which may be all of it."""
        known = self.residuals.get(node)
        if known is not None and not known.used:
            # All of it is there.
            return known.lost[start : start + size]
        return known.lost if known is not None and (known.start, known.lost.size) == (start, size) else 0.0

    def keep(self) -> None:
        """Let the next step add what this one has lost."""
        self.unkept |= {node: self.residuals[node].lost for node in self.found if node in self.residuals}
        self.residuals |= self.found
        self.found = {}

    def forget(self) -> None:
        """Drop what was added in a step that has failed. What was lost before it is added in the next one."""
        self.unkept |= {node: residual.lost for node, residual in self.found.items()}
        self.spare += self.leaves.values()
        self.found, self.leaves = {}, {}

    def total(self, ranks: Messages, shards: int, present: int) -> Ndarray:
        return super().total(Coded(ranks, self.codec), shards, present)
