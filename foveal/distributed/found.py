"""What a step on shards finds: of a shard, of all of them, and what the program of a shard writes."""

from collections.abc import Callable, Collection, Generator
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from foveal.program import Pause, Program
from foveal.strides import Ndarray
from foveal.variable import Variable


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
