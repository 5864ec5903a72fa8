"""The order in which the arrays of shards are added: along one binary tree, for any number of ranks.

A node (level, place) stands for the shards from place 2^level up to (place + 1) 2^level; its value is that of its left
half plus that of its right half. Some shards at the end may be absent: a node without any has no value, and one whose
right half has none has the value of its left half.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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


class Scratch:
    """Memory that several sums use, one after the other."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def array(self, elements: int, dtype: type[np.generic]) -> Ndarray:
        """Return an array whose content is of no use to anybody."""
        size = elements * np.dtype(dtype).itemsize
        if self.memory.size < size:
            self.memory = np.empty(size, np.uint8)
        return self.memory[:size].view(dtype)


class Arrival(NamedTuple):
    """What becomes of the array of a shard as it comes."""

    #: the place in memory that it is copied to, unless it is added to others
    slot: int
    #: the places of the nodes that it is added to, from the leaves on: the value of each is added to the next one
    merged: tuple[int, ...]
    #: the nodes that there are then, and their places
    nodes: dict[Node, int]


def arrivals(own: range) -> list[Arrival]:
    """Return what becomes of each of a rank's shards; no more places are in use than the tree has levels, and one."""
    found: list[Arrival] = []
    # Nodes whose siblings have not come.
    open_nodes: dict[Node, int] = {}
    for shard in own:
        level, place, merged = 0, shard, []
        while place % 2 and (level, place - 1) in open_nodes:
            merged.append(open_nodes.pop((level, place - 1)))
            level, place = level + 1, place // 2
        slot = merged[-1] if merged else min(set(range(len(open_nodes) + 1)) - set(open_nodes.values()))
        open_nodes[level, place] = slot
        found.append(Arrival(slot, tuple(merged), dict(open_nodes)))
    return found


class PartialSums:
    """Sums of the shards of one rank, and across ranks.

    elements: of each array, of type `dtype`. own: the rank's shards. scratch: for what other ranks send.
    """

    # Elements that messages are divided between.
    grain = 1

    def __init__(
        self, elements: int, own: range, dtype: type[np.generic] = np.float32, scratch: Scratch | None = None
    ) -> None:
        self.elements, self.own, self.dtype = elements, own, dtype
        self.scratch = Scratch() if scratch is None else scratch
        self.arrivals = arrivals(own)
        # Memory of nodes, and what of it is not in use while the sum across ranks is made.
        self.slots: list[Ndarray] = []
        self.nodes: dict[Node, Ndarray] = {}
        self.unused: list[Ndarray] = []

    @property
    def nbytes(self) -> int:
        """The bytes that it holds, without the scratch memory."""
        return sum(slot.nbytes for slot in self.slots)

    def slot(self, number: int) -> Ndarray:
        """Return the memory of a node."""
        while len(self.slots) <= number:
            self.slots.append(np.empty(self.elements, self.dtype))
        return self.slots[number]

    def add(self, shard: int, part: Ndarray, start: int = 0) -> None:
        """Add part of the array of a shard, from element `start` on. Of each element shards come in their order."""
        arrival, place = self.arrivals[shard - self.own.start], slice(start, start + part.size)
        if not arrival.merged:
            self.slot(arrival.slot)[place] = part
        for number in arrival.merged:
            left = self.slots[number][place]
            np.add(left, part, out=left)
            part = left

    def close(self, shard: int) -> None:
        """Note that the array of a shard has come as a whole."""

    def begin_total(self, given: int) -> None:
        """Let `nodes` be what was added, of so many shards of this rank."""
        places = self.arrivals[given - 1].nodes if given else {}
        self.nodes = {node: self.slots[number] for node, number in places.items()}
        self.unused = [slot for i, slot in enumerate(self.slots) if i not in places.values()]

    def empty(self) -> Ndarray:
        """Return memory for a sum of which this rank has no part."""
        return self.unused.pop() if self.unused else self.slot(len(self.slots))

    def borrowed(self) -> Ndarray:
        """Return memory for what another rank sends."""
        return self.unused.pop() if self.unused else self.scratch.array(self.elements, self.dtype)

    def release(self, array: Ndarray) -> None:
        """Say that an array is of no use any more."""
        if array.base is not self.scratch.memory:
            self.unused.append(array)

    def settle(self, node: Node, value: Ndarray, start: int = 0) -> None:
        """Called on the value of each node that is the sum of two, from element `start` on."""

    def total(self, ranks: Messages, shards: int, present: int) -> Ndarray:
        """Return the value of the root, on each rank. It is there until the next call of `add`.

        present: how many shards there are, on all ranks together, 1 or more; those after them are absent. All ranks
        call this at the same time.
        """
        self.begin_total(max(0, min(present, self.own.stop) - self.own.start))
        each = shards // ranks.size
        if shards == each * ranks.size and not each & (each - 1) and not ranks.size & (ranks.size - 1):
            # Every rank has one node.
            level = each.bit_length() - 1
            own = self.value(level, ranks.rank, present)
            total = self.empty() if own is None else own
            there = [rank * each < present for rank in range(ranks.size)]
            (self.doubling if total.nbytes < SMALL else self.halving)(ranks, total, level, there)
            return total
        found = self.collected(ranks, shards, present, (levels(shards), 0))
        total = self.empty() if found is None else found
        ranks.spread(total)
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
            self.release(right)
            self.settle((level, place), left)
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
                right = self.borrowed()
                ranks.exchange(other, None, right)
            assert right is not None
            left += right
            self.release(right)
            self.settle(node, left)
        elif ranks.rank == other:
            assert right is not None
            ranks.exchange(home, right, None)
            self.release(right)
        return left

    def doubling(self, ranks: Messages, total: Ndarray, level: int, present: Sequence[bool]) -> None:
        """Let `total`, the value of a node on each of 2^k ranks, become that of the root: recursive doubling.

        level: of these nodes. present: by rank, whether the node has a value.
        """
        distance = 1
        while distance < ranks.size:
            self.combine(ranks, total, slice(0, total.size), slice(0, total.size), distance, level, present)
            distance *= 2

    def halving(self, ranks: Messages, total: Ndarray, level: int, present: Sequence[bool]) -> None:
        """The same in fewer bytes: recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005, section 4.5).

        Each rank adds up one part of the array, and then all parts are exchanged. Every element is added along the same
        tree as with `doubling`.
        """
        start, stop, distance = 0, total.size, 1
        kept: list[tuple[slice, slice]] = []
        while distance < ranks.size:
            middle = (start + stop) // 2 // self.grain * self.grain
            lower, upper = slice(start, max(start, middle)), slice(max(start, middle), stop)
            own, other = (upper, lower) if ranks.rank & distance else (lower, upper)
            self.combine(ranks, total, own, other, distance, level, present)
            kept.append((own, other))
            start, stop, distance = own.start, own.stop, distance * 2
        for own, other in reversed(kept):
            distance //= 2
            ranks.exchange(ranks.rank ^ distance, total[own], total[other])

    def combine(
        self,
        ranks: Messages,
        total: Ndarray,
        own: slice,
        sent: slice,
        distance: int,
        level: int,
        present: Sequence[bool],
    ) -> None:
        """Send one part of a node's value to the rank at a distance, and add to the other part what that has of it."""
        other = ranks.rank ^ distance
        # Nodes of `distance` ranks each, by the first of them.
        here, there = (present[rank // distance * distance] for rank in (ranks.rank, other))
        received = self.borrowed()
        given, part = received[: total[own].size], total[own]
        ranks.exchange(other, total[sent] if here else None, given if there else None)
        if here and there:
            # The left half of the tree is the left operand.
            np.add(*((given, part) if ranks.rank & distance else (part, given)), out=part)
            self.settle((level + distance.bit_length(), ranks.rank // (2 * distance)), part, own.start)
        elif there:
            part[...] = given
        self.release(received)
