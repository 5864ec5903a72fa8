"""Where each buffer of a program lies in its arena: buffers that are never alive together share memory.

Calls without a barrier between them, a phase, may overlap in time. That is safe here, because lifetimes are counted in
phases (arena.plan_arena).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

# Bytes of a cache line, and of the widest vector.
ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, in use from phase `first` to phase `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """Byte offset of each buffer, and the arena's size."""

    offsets: tuple[int, ...]
    size: int


def plan_memory(lifetimes: Sequence[Lifetime], heirs: Mapping[int, int] | None = None) -> Packing:
    """Return offsets such that buffers in use in the same phase do not overlap.

    heirs: buffer -> another buffer of its size, last used by the call that first uses the buffer. It may take the place
    of that one; it does if this makes the arena smaller.
    """
    apart = pack(lifetimes)
    if not heirs:
        return apart
    # Merge each chain of heirs into one lifetime, which is that of the chain's first buffer, its owner.
    owner: dict[int, int] = {}
    joined = dict(enumerate(lifetimes))
    for i in sorted(joined, key=lambda i: lifetimes[i].first):
        owner[i] = owner[heirs[i]] if i in heirs else i
        if i in heirs:
            del joined[i]
            joined[owner[i]] = replace(joined[owner[i]], last=lifetimes[i].last)
    packed = pack(list(joined.values()))
    offsets = dict(zip(joined, packed.offsets, strict=True))
    together = Packing(tuple(offsets[owner[i]] for i in range(len(lifetimes))), packed.size)
    return min(apart, together, key=lambda plan: plan.size)


def pack(lifetimes: Sequence[Lifetime]) -> Packing:
    """Place the largest buffer first, each at the lowest offset that is free during its whole life.

    Greedy by size, Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference".
    """
    sizes = [-(-max(b.size, 1) // ALIGNMENT) * ALIGNMENT for b in lifetimes]
    offsets = [0] * len(lifetimes)
    # of the placed buffers, in the order in which they lie: first and last phase, begin and end in bytes. The first one
    # stands for the beginning of the arena: it is in use all the time and has no bytes
    placed = np.zeros((4, len(lifetimes) + 1), np.int64)
    placed[1, 0] = max((b.last for b in lifetimes), default=0)
    by_size = sorted(range(len(lifetimes)), key=lambda i: (-sizes[i], lifetimes[i].first))
    for count, i in enumerate(by_size, start=1):
        life, size = lifetimes[i], sizes[i]
        first, last, begin, end = placed[:, :count]
        alive = ((first <= life.last) & (last >= life.first)).nonzero()[0]
        # where the gap after each buffer that is alive at the same time begins, and those that are large enough
        gaps = np.maximum.accumulate(end[alive])
        fits = (gaps[:-1] + size <= begin[alive[1:]]).nonzero()[0]
        offset = offsets[i] = int(gaps[fits[0] if len(fits) else -1])
        position = int(begin.searchsorted(offset, "right"))
        placed[:, position + 1 : count + 1] = placed[:, position:count]
        placed[:, position] = life.first, life.last, offset, offset + size
    return Packing(tuple(offsets), max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0))
