"""Memory of a program, and arrays in it."""

import math
from dataclasses import dataclass, replace

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import LINE
from foveal.strides import Shape, reshaped_strides
from foveal.variable import Variable

STREAMED_BYTES = 4 << 20  # of a value that passes the cache: an eighth of a last-level cache of 32 MiB


@dataclass(eq=False)
class Buffer:
    """Memory of a program: temporary (in the arena), or an argument's or a variable's."""

    size: int
    dtype: str = "float32"
    variable: Variable | None = None
    argument: bool = False
    per_thread: bool = False

    @property
    def streamed(self) -> bool:
        """Whether it is written past the cache: large, in the arena, and whole cache lines."""
        temporary = not (self.argument or self.per_thread or self.variable is not None)
        return temporary and 4 * self.size >= STREAMED_BYTES and self.size % LINE == 0


@dataclass(frozen=True)
class View:
    """An array in a buffer: offset and strides in elements. Views are what operators' `lower` works with."""

    buffer: Buffer
    shape: Shape
    strides: Shape
    offset: int = 0

    def permuted(self, *axes: int) -> "View":
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def reshaped(self, shape: Shape) -> "View":
        strides = reshaped_strides(self.shape, self.strides, shape)
        assert strides is not None, f"{self.shape} with strides {self.strides} is no view of shape {shape}"
        return replace(self, shape=shape, strides=strides)

    def channels_last_rows(self) -> "View":
        """[N, C, ...] as [N ..., C]."""
        axes = (0, *range(2, len(self.shape)), 1)
        return self.permuted(*axes).reshaped((math.prod(self.shape) // self.shape[1], self.shape[1]))

    @property
    def spec(self) -> ArraySpec:
        streamed = self.buffer.streamed and self.offset % LINE == 0
        return ArraySpec(self.shape, self.strides, self.buffer.dtype, streamed)
