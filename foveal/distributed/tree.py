"""The order in which the arrays of shards are added: along one binary tree, for any number of ranks.

A node (level, place) stands for the shards from place 2^level up to (place + 1) 2^level; its value is that of its left
half plus that of its right half. Some shards at the end may be absent: a node without any has no value, and one whose
right half has none has the value of its left half.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from foveal.strides import Ndarray

Node = tuple[int, int]
# Arrays of fewer bytes are exchanged whole: then the number of messages counts, and not their size.
SMALL = 1 << 15


class Messages(Protocol):
    """What is asked of ranks here; `Ranks` is one."""

    rank: int
    size: int

    def exchange(self, other: int, sent: Ndarray | None, received: Ndarray | None) -> None:
        """Send an array to another rank and receive one from it; either may be left out."""

    def spread(self, array: Ndarray) -> None:
        """Let the array of each rank hold what that of rank 0 holds."""


def owned(shards: int, rank: int, size: int) -> range:
    """Return the shards that a rank takes."""
    return range(rank * shards // size, (rank + 1) * shards // size)


def owner(shards: int, shard: int, size: int) -> int:
    """Return the rank that takes a shard."""
    return ((shard + 1) * size - 1) // shards


def levels(shards: int) -> int:
    """Return the level of the root."""
    return (shards - 1).bit_length()


class PartialSums:
    """Sums of the shards of one rank, which come one after the other: no more nodes are kept than the tree has levels.

    elements: of each array, of type `dtype`.
    """

    def __init__(self, elements: int, dtype: type[np.generic] = np.float32) -> None:
        self.elements, self.dtype = elements, dtype
        # The nodes whose siblings have not come, and memory that is not in use.
        self.nodes: dict[Node, Ndarray] = {}
        self.unused: list[Ndarray] = []

    def memory(self) -> Ndarray:
        """Return an array whose content is of no use to anybody."""
        return self.unused.pop() if self.unused else np.empty(self.elements, self.dtype)

    def clear(self) -> None:
        """Forget all nodes."""
        self.unused += self.nodes.values()
        self.nodes = {}

    def add(self, shard: int, parts: Iterable[Ndarray]) -> None:
        """Add the array of the next shard, which is given in parts, from its beginning to its end."""
        level, place = 0, shard
        left = self.nodes.get((0, shard - 1)) if shard % 2 else None
        total = self.memory() if left is None else left
        start = 0
        for part in parts:
            piece = total[start : start + part.size]
            if left is None:
                piece[...] = part
            else:
                np.add(piece, part, out=piece)
            start += part.size
        if left is not None:
            del self.nodes[0, shard - 1]
            level, place = 1, shard // 2
        while place % 2 and (level, place - 1) in self.nodes:
            left = self.nodes.pop((level, place - 1))
            left += total
            self.unused.append(total)
            total, level, place = left, level + 1, place // 2
        self.nodes[level, place] = total

    def total(self, ranks: Messages, shards: int, present: int) -> Ndarray:
        """Return the value of the root, on each rank, and forget all nodes. It is there until the next call of `add`.

        present: how many shards there are, on all ranks together, 1 or more; those after them are absent. All ranks
        call this at the same time.
        """
        each = shards // ranks.size
        if shards == each * ranks.size and not each & (each - 1) and not ranks.size & (ranks.size - 1):
            # Every rank has one node.
            own = self.value(each.bit_length() - 1, ranks.rank, present)
            total, received = self.memory() if own is None else own, self.memory()
            add = doubling if total.nbytes < SMALL else halving
            add(ranks, total, [rank * each < present for rank in range(ranks.size)], received)
            self.unused.append(received)
        else:
            found = self.collected(ranks, shards, present, (levels(shards), 0))
            total = self.memory() if found is None else found
            ranks.spread(total)
        self.clear()
        self.unused.append(total)
        return total

    def value(self, level: int, place: int, present: int) -> Ndarray | None:
        """Return the value of a node whose shards are all of this rank; None if all of them are absent."""
        if place << level >= present:
            return None
        if (level, place) in self.nodes:
            return self.nodes.pop((level, place))
        left, right = (self.value(level - 1, 2 * place + i, present) for i in range(2))
        # What comes first is never absent where what follows is there.
        assert left is not None
        if right is not None:
            left += right
            self.unused.append(right)
        return left

    def collected(self, ranks: Messages, shards: int, present: int, node: Node) -> Ndarray | None:
        """Return the value of a node on the rank that takes its first shard; None elsewhere, and if it is absent.

        All ranks walk through the tree in the same order, so that no two wait for each other.
        """
        level, place = node
        first = place << level
        if first >= min(present, shards):
            return None
        home, last = owner(shards, first, ranks.size), min((place + 1) << level, shards) - 1
        if home == owner(shards, last, ranks.size):
            return self.value(level, place, present) if ranks.rank == home else None
        left, right = (self.collected(ranks, shards, present, (level - 1, 2 * place + i)) for i in range(2))
        middle = (2 * place + 1) << (level - 1)
        if middle >= min(present, shards):
            return left
        other = owner(shards, middle, ranks.size)
        if ranks.rank == home:
            assert left is not None
            if other != home:
                right = self.memory()
                ranks.exchange(other, None, right)
            assert right is not None
            left += right
            self.unused.append(right)
        elif ranks.rank == other:
            assert right is not None
            ranks.exchange(home, right, None)
            self.unused.append(right)
        return left


def doubling(ranks: Messages, total: Ndarray, present: Sequence[bool], received: Ndarray) -> None:
    """Let `total`, the value of a node on each of 2^k ranks, become that of the root: recursive doubling.

    present: by rank, whether the node has a value. received: memory for what another rank sends.
    """
    distance = 1
    while distance < ranks.size:
        combine(ranks, total, slice(None), slice(None), distance, present, received)
        distance *= 2


def halving(ranks: Messages, total: Ndarray, present: Sequence[bool], received: Ndarray) -> None:
    """The same in fewer bytes, by recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005, section 4.5).

    Each rank adds up one part of the array, and then all parts are exchanged. Every element is added along the same
    tree as with `doubling`.
    """
    start, stop, distance = 0, total.size, 1
    kept: list[tuple[slice, slice]] = []
    while distance < ranks.size:
        middle = (start + stop) // 2
        lower, upper = slice(start, middle), slice(middle, stop)
        own, other = (upper, lower) if ranks.rank & distance else (lower, upper)
        combine(ranks, total, own, other, distance, present, received)
        kept.append((own, other))
        start, stop, distance = own.start, own.stop, distance * 2
    for own, other in reversed(kept):
        distance //= 2
        ranks.exchange(ranks.rank ^ distance, total[own], total[other])


def combine(
    ranks: Messages, total: Ndarray, own: slice, sent: slice, distance: int, present: Sequence[bool], received: Ndarray
) -> None:
    """Send one part of a node's value to the rank at a distance, and add to the other part what that has of it."""
    other = ranks.rank ^ distance
    # Nodes of `distance` ranks each, by the first of them.
    here, there = (present[rank // distance * distance] for rank in (ranks.rank, other))
    given = received[: total[own].size]
    ranks.exchange(other, total[sent] if here else None, given if there else None)
    part = total[own]
    if here and there:
        # The left half of the tree is the left operand.
        np.add(*((given, part) if ranks.rank & distance else (part, given)), out=part)
    elif there:
        part[...] = given
