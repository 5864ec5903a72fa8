"""Memory of a program, and arrays in it: what operators work with while they are lowered to kernel calls."""

import math
from dataclasses import dataclass

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import LINE, llc
from foveal.strides import Shape, reshaped_strides
from foveal.variable import Variable


def min_streamed_bytes() -> int:
    """Return the size from which on a value is written past the cache: an eighth of the last-level cache.

    Between the moment such a value is written and the moment it is read, others of its size are; a store through the
    cache would push out what is still in use, and be pushed out itself.
    """
    return llc() // 8


@dataclass(eq=False)
class Buffer:
    """Memory of a program."""

    #: number of elements; for a per-thread buffer, of each thread's copy
    size: int
    dtype: str = "float32"
    #: the variable whose memory this is
    variable: Variable | None = None
    #: whether it holds an argument of the program
    argument: bool = False
    per_thread: bool = False

    @property
    def temporary(self) -> bool:
        """True for memory that only the program itself sees; it lies in the arena."""
        return self.variable is None and not self.argument

    @property
    def streamed(self) -> bool:
        """True if kernels write it past the cache: it is temporary, large, and consists of whole cache lines."""
        # what the target says comes last, which takes longest to find
        whole = self.temporary and not self.per_thread and self.size % LINE == 0
        return whole and 4 * self.size >= min_streamed_bytes()


@dataclass(frozen=True)
class View:
    """An array in a buffer. Offset and strides are in elements."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0

    @property
    def extents(self) -> Shape:
        """The shape, under the name that it has in kernels."""
        return self.shape

    def permuted(self, *axes: int) -> "View":
        """Return the same memory with its axes in another order."""
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return self.over(shape, strides)

    def over(self, shape: Shape, strides: Shape) -> "View":
        """Return the memory from the same place on in another shape, with other strides."""
        return View(self.buffer, shape, strides, self.offset)

    def reshaped(self, shape: Shape) -> "View":
        """Return the same memory in another shape. The strides have to allow it without a copy."""
        strides = reshaped_strides(self.shape, self.strides, shape)
        assert strides is not None, f"{self.shape} with strides {self.strides} is no view of shape {shape}"
        return self.over(shape, strides)

    def channels_last_rows(self) -> "View":
        """Return [N, C, ...] as the matrix [N ..., C]."""
        axes = (0, *range(2, len(self.shape)), 1)
        return self.permuted(*axes).reshaped((math.prod(self.shape) // self.shape[1], self.shape[1]))

    @property
    def streamed(self) -> bool:
        """True if kernels write it past the cache, as its buffer, from a cache line on."""
        return self.offset % LINE == 0 and self.buffer.streamed

    @property
    def spec(self) -> ArraySpec:
        """What a kernel is specialised to: shape, strides, dtype, and whether it is written past the cache."""
        return ArraySpec(self.shape, self.strides, self.buffer.dtype, self.streamed)
