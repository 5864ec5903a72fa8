"""Gradients in buckets: each is exchanged as a whole, as soon as the backward pass has written the last one of it.

Parameters come in the reverse of the optimiser's order, about the order in which a backward pass finds their gradients.
So it is the same for all programs of a step and on all ranks, whatever a program's own order is (Li et al. 2020,
"PyTorch Distributed", section 3.2).
"""

import itertools
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from foveal.distributed.compress import Codec, Residual, RoundedSums
from foveal.distributed.tree import Node, PartialSums, Scratch
from foveal.errors import StateError
from foveal.program import Program
from foveal.strides import Ndarray
from foveal.variable import Variable

# Bytes of a bucket. A round of messages costs some 0.1 ms here (latency, and a thread of Python that wakes), and moves
# 1 GB/s over a network of 10 Gbit/s: 4 MiB take 4 ms, so that rounds cost a few per cent. Larger ones would only let
# more be left to send after the backward pass. PyTorch's 25 MiB are for networks of 100 Gbit/s and more.
BUCKET = 4 << 20
# Bytes of the first one, so that the exchange begins early, as in PyTorch.
FIRST = 1 << 20


class Bucket:
    """Neighbouring parameters whose gradients are exchanged together."""

    def __init__(self, first: int, last: int, sums: PartialSums) -> None:
        #: the places of its parameters: from `first` to before `last`
        self.first, self.last = first, last
        self.sums = sums
        #: the sum over all ranks, when it was made
        self.total: Ndarray | None = None


class Buckets:
    """The gradients of some parameters: their sums over the shards of a rank, and when each is known.

    parameters: in the optimiser's order. sums: where the program of a shard writes the gradient of each. own: the
    shards of this rank. codec: of gradients that are sent in fewer bits.
    """

    def __init__(
        self, parameters: Sequence[Variable], sums: Mapping[Variable, Variable], own: range, codec: Codec | None = None
    ) -> None:
        self.variables = [sums[p] for p in reversed(parameters)]
        sizes = [variable.storage.size for variable in self.variables]
        self.scratch = Scratch()
        self.buckets: list[Bucket] = []
        #: the bucket of each parameter, and where it begins there
        self.places: list[tuple[Bucket, int]] = []
        for first, last in cut([4 * size for size in sizes]):
            starts = list(itertools.accumulate(sizes[first:last], initial=0))
            size = starts[-1]
            if codec is None:
                made = PartialSums(size, own, scratch=self.scratch)
            else:
                made = RoundedSums(size, own, codec, self.scratch)
            bucket = Bucket(first, last, made)
            self.buckets.append(bucket)
            self.places += [(bucket, start) for start in starts[:-1]]
        self.known: WeakKeyDictionary[Program, list[tuple[int, int]]] = WeakKeyDictionary()

    @property
    def nbytes(self) -> int:
        """The bytes of all sums, and of what another rank sends."""
        return self.scratch.memory.nbytes + sum(bucket.sums.nbytes for bucket in self.buckets)

    def written(self, program: Program) -> list[tuple[int, int]]:
        """Return (number of the call that writes it last, place) of each gradient, in the order of the calls."""
        if program not in self.known:
            places = {variable: i for i, variable in enumerate(self.variables)}
            last = {
                view.buffer.variable: i
                for i, call in enumerate(program.calls)
                for view in call.written
                if view.buffer.variable in places
            }
            self.known[program] = sorted((last[variable], i) for variable, i in places.items())
        return self.known[program]

    def ends(self, program: Program) -> list[int]:
        """Return for each bucket the call after which it and those before it are complete."""
        call_of = {place: call for call, place in self.written(program)}
        ends = (max(call_of[i] for i in range(bucket.first, bucket.last)) for bucket in self.buckets)
        return list(itertools.accumulate(ends, max))

    def add(self, shard: int, places: Sequence[int]) -> None:
        """Add gradients of a shard, which lie where its program has written them."""
        for place in places:
            bucket, start = self.places[place]
            bucket.sums.add(shard, self.variables[place].storage, start)

    # What rounding has lost, by bucket and node.

    def residuals(self) -> dict[tuple[int, Node], Residual]:
        """Return what this rank holds of what was lost."""
        return {
            (i, node): residual
            for i, bucket in enumerate(self.buckets)
            if isinstance(bucket.sums, RoundedSums)
            for node, residual in bucket.sums.residuals.items()
        }

    def restore(self, found: Mapping[tuple[int, Node], Ndarray]) -> None:
        """Go on with what was lost, of all nodes. Raises StateError where it is not of these buckets."""
        for (number, node), lost in found.items():
            sums = self.buckets[number].sums if number < len(self.buckets) else None
            if not isinstance(sums, RoundedSums) or lost.shape != (sums.elements,):
                raise StateError(
                    f"what rounding has lost, float32{list(lost.shape)} of bucket {number}, is not of the gradients"
                    " here; train the same parameters"
                )
            sums.residuals[node] = Residual(0, np.array(lost, np.float32), used=False)

    def end(self, carried_out: bool) -> None:
        """Keep what the step has lost, if it was carried out; else what was lost before stays as it was."""
        for bucket in self.buckets:
            if isinstance(bucket.sums, RoundedSums):
                bucket.sums.keep() if carried_out else bucket.sums.forget()

    def totals(self) -> list[Ndarray]:
        """Return the sums over all ranks, which were made, by bucket."""
        return [bucket.total for bucket in self.buckets if bucket.total is not None]

    def copy_totals(self, totals: Sequence[Ndarray]) -> None:
        """Let the memory that shards write to hold the sums over all ranks, given by bucket."""
        for bucket, total in zip(self.buckets, totals, strict=True):
            own = slice(bucket.first, bucket.last)
            for variable, (_, start) in zip(self.variables[own], self.places[own], strict=True):
                variable.storage[:] = total[start : start + variable.storage.size]
                variable.touch()


def cut(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and last place of each bucket; sizes: of the gradients, in bytes."""
    found: list[tuple[int, int]] = []
    first, held = 0, 0
    for i, size in enumerate(sizes):
        held += size
        if held >= (BUCKET if found else FIRST) or i == len(sizes) - 1:
            found.append((first, i + 1))
            first, held = i + 1, 0
    return found


class ShardRun:
    """A shard whose program runs: which of its gradients were added, and how many buckets are complete.

    last: True for the last shard of this rank.
    """

    def __init__(self, shard: int, program: Program, buckets: Buckets, last: bool) -> None:
        self.shard, self.buckets, self.last = shard, buckets, last
        self.written = buckets.written(program)
        self.ends = buckets.ends(program)
        self.added = self.closed = 0

    def add(self, done: int) -> list[Bucket]:
        """Add what the first `done` calls have written, and was not added; return the buckets that are complete then,
        of the last shard of this rank.

        All shards write to the same memory: this comes before another one writes.
        """
        first = self.added
        while self.added < len(self.written) and self.written[self.added][0] < done:
            self.added += 1
        self.buckets.add(self.shard, [place for _, place in self.written[first : self.added]])
        begin = self.closed
        while self.closed < len(self.ends) and self.ends[self.closed] < done:
            self.buckets.buckets[self.closed].sums.close(self.shard)
            self.closed += 1
        return self.buckets.buckets[begin : self.closed] if self.last else []
