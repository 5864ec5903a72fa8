"""What a step on shards finds: of a shard, of all of them, and what the program of a shard writes."""

from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, NamedTuple, Protocol
from zlib import crc32

import numpy as np

from foveal.errors import DataError, FovealError, RankError, ShapeError
from foveal.program import Pause, Program
from foveal.strides import Ndarray
from foveal.variable import Variable

# The numbers that are added up before the gradients: shards, what their places add up to, checksums of what they write.
TAKEN, PLACES, CHECKSUMS, HEAD = range(4)
# And after the gradients: images; losses; shards that have failed; ranks that are asked to end. What a caller counts
# comes after them.
IMAGES, LOSSES, FAILED, ASKED, FIXED = range(5)


class Ran(NamedTuple):
    """A shard that a program has run on."""

    program: Program
    loss: float
    #: the arrays that the model returned, and what nests them as it did
    outputs: list[Ndarray]
    rebuild: Callable[[Any], Any]
    #: why the shard has failed; empty if it has not
    problem: str
    #: True where what another shard gave was not finite before anything of this one was
    infected: bool = False


class Prepared(NamedTuple):
    """A shard that was checked, and the program for its shapes."""

    program: Program
    #: runs it, or an instance of it, in parts, with pauses after calls of these numbers and before messages
    parts: Callable[[Program, Collection[int]], Generator[Pause, None, Ran]]


class Running(Protocol):
    """A training step, as it is seen here."""

    model: Any
    optimizer: Any
    steps: int

    def prepare(self, x: Any, target: Any, number: int) -> Prepared:
        """Check a shard, whose random operators draw by this number, and find its program."""


class Totals(NamedTuple):
    """What a step has found, over all shards of all ranks."""

    loss: float
    images: int
    #: what the caller counts
    counts: tuple[float, ...]
    #: True if some rank is asked to end
    asked: bool
    #: of this rank's shards
    ran: list[Ran]

    def outputs(self) -> tuple[Ndarray, Any]:
        """Return the first array that the model returned, and all of them, of this rank's shards together."""
        found = zip(*(ran.outputs for ran in self.ran), strict=True)
        joined = [np.concatenate([np.atleast_1d(array) for array in arrays]) for arrays in found]
        if not joined:
            # A rank without a shard has no outputs.
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        return joined[0], self.ran[0].rebuild(iter(joined))


class Sums(NamedTuple):
    """What all ranks know of a step, from which each of them makes the same update."""

    #: of all shards, and how many there are
    numbers: Ndarray = np.zeros(FIXED)
    shards: int = 0
    #: what shards would change running statistics by, and the gradients, by bucket
    moved: Ndarray = np.zeros(0, np.float32)
    totals: Sequence[Ndarray] = ()
    #: what shards write, where a rank has none
    places: list[list[int]] | None = None
    #: why the step is refused
    problem: FovealError | None = None


class Layout(NamedTuple):
    """What shards write, in the order in which it lies in the array that is added up."""

    #: the parameters that have a gradient
    parameters: tuple[Variable, ...] = ()
    #: running statistics and the like
    statistics: tuple[Variable, ...] = ()

    def same(self, other: "Layout") -> bool:
        """Return whether both are of the same variables; == would compare what these hold."""
        return [[id(v) for v in variables] for variables in self] == [[id(v) for v in variables] for variables in other]

    def checksum(self) -> int:
        """Return 32 bits that tell layouts apart."""
        shapes = [[variable.shape for variable in variables] for variables in self]
        return crc32(repr(shapes).encode())

    def places(self, known: Sequence[Sequence[Variable]]) -> list[list[int]]:
        """Return the places of parameters and of statistics among known ones; -1 for one that is not among them."""
        return [
            [{p: i for i, p in enumerate(among)}.get(v, -1) for v in own]
            for among, own in zip(known, self, strict=True)
        ]

    @classmethod
    def at(cls, places: Sequence[Sequence[int]], known: Sequence[Sequence[Variable]]) -> "Layout":
        """Return the layout that has these places among known parameters and buffers. Raises ShapeError for a -1."""
        if any(-1 in part for part in places):
            raise ShapeError(
                "a batch has fewer shards than ranks, and the network writes to a variable that is no buffer of it;"
                " hold it as nn.Buffer, or give larger batches"
            )
        return cls(*(tuple(among[i] for i in part) for among, part in zip(known, places, strict=True)))


def check_shards(found: Ndarray, checksum: int | None, ranks: int) -> None:
    """Raise an error, on all ranks alike, unless the shards of all ranks can be added up.

    found: the numbers that are added up first. checksum: of what this rank's shards write; None if it has none.
    """
    taken = int(found[TAKEN])
    if not taken:
        everywhere = ", on all ranks" if ranks > 1 else ""
        raise DataError(f"the batch is empty{everywhere}; a step needs at least one image")
    if found[PLACES] != taken * (taken - 1) // 2:
        raise RankError(
            f"the {taken} shards of a step are not the first of its batch: ranks were given shards of different"
            " batches; let all walk through the same data, by step.shares(loader, epoch)"
        )
    if checksum is not None and found[CHECKSUMS] != taken * checksum:
        raise RankError("the ranks train different parameters; build and freeze the same network on all of them")
