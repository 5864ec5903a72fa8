"""Borders about images, x [N, C, H, W] -> [N, C, top + H + bottom, left + W + right], and about sequences."""

import numpy as np

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.arguments import Pair, Sides
from foveal.nn.module import Module
from foveal.nn.one_dimensional import as_images, as_sequences
from foveal.ops.op import Tensor


class Pad2d(Module):
    """A border about images.

    padding: an int for all sides, or (left, right, top, bottom), PyTorch's order. value: what a constant border holds.
    Raises ShapeError for another number of sides.
    """

    mode = "constant"

    def __init__(self, padding: int | Sides, value: float = 0.0) -> None:
        if isinstance(padding, int | np.integer):
            padding = (padding, padding, padding, padding)
        if len(tuple(padding)) != 4:
            raise ShapeError(
                f"{type(self).__name__}: padding is {padding!r}, it has to be an int or (left, right, top, bottom)"
            )
        # The operators' order is (top, bottom, left, right).
        left, right, top, bottom = padding
        self.padding, self.value = (top, bottom, left, right), value

    def forward(self, x: Tensor) -> Tensor:
        return ops.pad(x, padding=self.padding, mode=self.mode, value=self.value)

    def describe(self) -> str:
        return str(self.padding)


class ConstantPad2d(Pad2d):
    """A border of `value`. padding: an int or (left, right, top, bottom)"""

    def __init__(self, padding: int | Sides, value: float) -> None:
        super().__init__(padding, value)


class ZeroPad2d(Pad2d):
    """A border of zeros. padding: an int or (left, right, top, bottom)"""

    def __init__(self, padding: int | Sides) -> None:
        super().__init__(padding)


class ReflectionPad2d(ZeroPad2d):
    """A border that mirrors the image; the pixel at the edge is not repeated"""

    mode = "reflect"


class ReplicationPad2d(ZeroPad2d):
    """A border that repeats the pixel at the edge"""

    mode = "replicate"


class CircularPad2d(ZeroPad2d):
    """A border that continues with the opposite side of the image"""

    mode = "circular"


class Pad1d(Module):
    """A border about sequences x [N, C, L] -> [N, C, before + L + after].

    padding: an int for both ends, or (before, after). value: what a constant border holds. Raises ShapeError for
    another number of ends.
    """

    mode = "constant"

    def __init__(self, padding: int | Pair, value: float = 0.0) -> None:
        ends = (padding, padding) if isinstance(padding, int | np.integer) else tuple(padding)
        if len(ends) != 2:
            raise ShapeError(f"{type(self).__name__}: padding is {padding!r}, it has to be an int or (before, after)")
        self.padding, self.value = ends, value

    def forward(self, x: Tensor) -> Tensor:
        images = as_images(type(self).__name__, x)
        return as_sequences(ops.pad(images, padding=(0, 0, *self.padding), mode=self.mode, value=self.value))

    def describe(self) -> str:
        return str(self.padding)


class ConstantPad1d(Pad1d):
    """A border of `value` about sequences. padding: an int or (before, after)"""

    def __init__(self, padding: int | Pair, value: float) -> None:
        super().__init__(padding, value)


class ZeroPad1d(Pad1d):
    """A border of zeros about sequences. padding: an int or (before, after)"""

    def __init__(self, padding: int | Pair) -> None:
        super().__init__(padding)


class ReflectionPad1d(ZeroPad1d):
    """A border that mirrors the sequence; the value at the end is not repeated"""

    mode = "reflect"


class ReplicationPad1d(ZeroPad1d):
    """A border that repeats the value at the end"""

    mode = "replicate"


class CircularPad1d(ZeroPad1d):
    """A border that continues with the other end of the sequence"""

    mode = "circular"
