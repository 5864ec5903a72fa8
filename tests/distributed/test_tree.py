"""Sums along the tree: the same bits for any number of ranks, which are threads here, with shards missing or not."""

import threading
from queue import Queue

import numpy as np
import pytest

from foveal.distributed import tree

RNG = np.random.default_rng(0)
LENGTH = 21


class Thread:
    """A rank whose messages go through queues."""

    def __init__(self, rank, size, boxes):
        self.rank, self.size, self.boxes = rank, size, boxes

    def exchange(self, other, sent, received):
        if sent is not None:
            self.boxes[self.rank, other].put(sent.copy())
        if received is not None:
            received[...] = self.boxes[other, self.rank].get(timeout=10)

    def spread(self, array):
        for other in range(1, self.size) if self.rank == 0 else ():
            self.exchange(other, array, None)
        if self.rank:
            self.exchange(0, None, array)


def by_definition(leaves, shards):
    """The sum along the tree: neighbours in pairs, then pairs of these; what is missing is left out."""
    nodes = [*leaves, *[None] * (2 ** tree.levels(shards) - len(leaves))]
    while len(nodes) > 1:
        nodes = [a if b is None else a + b for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def on_threads(size, function):
    """Call a function on so many ranks, which are threads."""
    boxes = {(a, b): Queue() for a in range(size) for b in range(size)}
    threads = [threading.Thread(target=function, args=(Thread(rank, size, boxes),)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def total_on(size, shards, leaves):
    """What each of `size` ranks gets, twice, in memory that is used again."""
    found = [[] for _ in range(size)]

    def run(ranks):
        own = tree.owned(shards, ranks.rank, size)
        sums = tree.PartialSums(LENGTH, own)
        for _ in range(2):
            # Shards that compute in lockstep add one part each, then the next one.
            for part in (slice(5, LENGTH), slice(0, 5)):
                for shard in own:
                    if shard < len(leaves):
                        sums.add(shard, leaves[shard][part], part.start)
            assert len(sums.slots) <= tree.levels(shards) + 1
            found[ranks.rank].append(sums.total(ranks, shards, len(leaves)).copy())

    on_threads(size, run)
    return found


@pytest.mark.parametrize("small", [0, tree.SMALL], ids=["halving", "doubling"])
@pytest.mark.parametrize("shards", [1, 2, 3, 6, 8, 12])
def test_the_sum_is_the_same_on_any_number_of_ranks(shards, small, monkeypatch):
    monkeypatch.setattr(tree, "SMALL", small)
    for present in range(1, shards + 1):
        # Magnitudes differ so much that another order gives other bits.
        scale = 10.0 ** RNG.integers(-3, 4, (present, LENGTH))
        leaves = list((RNG.standard_normal((present, LENGTH)) * scale).astype(np.float32))
        want = by_definition(leaves, shards).tobytes()
        for size in {1, 2, 3, 4, 5, 8, shards} & set(range(1, shards + 1)):
            for twice in total_on(size, shards, leaves):
                assert [array.tobytes() for array in twice] == [want, want], (present, size)


def test_another_order_gives_other_bits():
    leaves = list((RNG.standard_normal((8, 1000)) * 10.0 ** RNG.integers(-3, 4, (8, 1000))).astype(np.float32))
    one_after_the_other = leaves[0]
    for leaf in leaves[1:]:
        one_after_the_other = one_after_the_other + leaf
    assert by_definition(leaves, 8).tobytes() != one_after_the_other.tobytes()


def test_every_shard_has_one_owner():
    for shards in range(1, 20):
        for size in range(1, shards + 1):
            taken = [tree.owned(shards, rank, size) for rank in range(size)]
            assert [shard for part in taken for shard in part] == list(range(shards))
            assert all(tree.owner(shards, shard, size) == rank for rank in range(size) for shard in taken[rank])
