"""Where each buffer of a program lies in its arena: buffers that are never alive together share memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, in use from call `first` to call `last`, both included."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """Byte offset of each buffer, and the arena's size."""

    offsets: tuple[int, ...]
    size: int


def plan_memory(lifetimes: Sequence[Lifetime], heirs: Mapping[int, int] | None = None) -> Packing:
    """Offsets such that buffers in use at the same call lie apart; heirs, where that takes less, excepted.

    heirs: buffer -> another one of its size, last used by the call that first uses the buffer, whose place it may take
    over.
    """
    apart = pack(lifetimes)
    if not heirs:
        return apart
    owner: dict[int, int] = {}  # the first buffer of each place
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
    """Largest first, each at the lowest offset free for its whole life (greedy by size, Pisarchyk and Lee 2020)."""
    sizes = [-(-max(b.size, 1) // ALIGNMENT) * ALIGNMENT for b in lifetimes]
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for i in sorted(range(len(lifetimes)), key=lambda i: (-sizes[i], lifetimes[i].first)):
        mine = lifetimes[i]
        busy = sorted(
            (offsets[j], offsets[j] + sizes[j])
            for j in placed
            if lifetimes[j].first <= mine.last and mine.first <= lifetimes[j].last
        )
        at = 0
        for low, high in busy:
            if at + sizes[i] <= low:
                break
            at = max(at, high)
        offsets[i] = at
        placed.append(i)
    return Packing(tuple(offsets), max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0))
