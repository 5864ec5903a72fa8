"""The window of poolings that take means: what the sum of its taps is divided by."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Index, Scalar
from foveal.ops.kernels.expression import float_lanes
from foveal.ops.kernels.taps import forward_taps
from foveal.ops.window import Pair, Sides, Window, sides
from foveal.strides import Ndarray


@dataclass(frozen=True)
class MeanWindow(Window):
    """A window whose sum is divided by `divisor_override` or, where that is None, by the number of its taps that count.

    Those in the image always count, those in the padding as far as it is `counted`.
    """

    #: the part of the padding that counts: top, bottom, left, right
    counted: Sides = (0, 0, 0, 0)
    #: what sums are divided by instead
    divisor_override: int | None = None

    @classmethod
    def dividing(
        cls,
        name: str,
        window: Window,
        count_include_pad: bool = True,
        counted: Sides | None = None,
        divisor_override: int | None = None,
    ) -> "MeanWindow":
        """The window with the divisor that a caller's hyper-parameters describe.

        count_include_pad: True if all of the padding counts, False if none does. counted: decides instead of it unless
        it is None. `ceiled`, which enlarges the padding, has to come after this, as what it adds does not count.
        Raises ShapeError, in the name of an operator, for a divisor below 1.
        """
        if divisor_override is not None and (divisor_override := int(divisor_override)) < 1:
            raise ShapeError(f"{name}: divisor_override is {divisor_override}, it has to be 1 or more")
        if counted is None:
            counted = window.padding if count_include_pad else (0, 0, 0, 0)
        counted = sides(counted, f"{name}: counted")
        return cls(window.size, window.stride, window.padding, window.dilation, counted, divisor_override)

    def arguments(self) -> dict[str, Any]:
        """The hyper-parameters as operators take them."""
        return {**super().arguments(), "counted": self.counted, "divisor_override": self.divisor_override}

    def share(self, p: Index, q: Index, counts: Pair, image: Pair) -> Scalar:
        """What the sum of window (p, q), of `counts` windows of an image (H, W), is multiplied by.

        It is a Python number where it is the same for all windows.
        """
        if self.divisor_override is not None:
            return 1.0 / self.divisor_override
        return 1.0 / (self.members(0, p, counts[0], image[0]) * self.members(1, q, counts[1], image[1]))

    def members(self, axis: int, p: Index, count: int, n: int) -> Scalar:
        """The number of taps that count in the p-th of `count` windows, along one axis of n positions."""
        before, after = self.counted[2 * axis : 2 * axis + 2]
        # positions are counted from the first one that counts
        padding, length = self.padding[2 * axis] - before, before + n + after
        (taps,) = forward_taps(count, self.size[axis], self.stride[axis], padding, self.dilation[axis])
        if taps.low >= 0 and taps.high < length:
            return float(taps.taps)
        first, end = taps.valid_range(p, length)
        return float_lanes(end - first, 1)

    def shares(self, counts: Pair, image: Pair) -> Ndarray:
        """`share` of each window: [P, Q]."""
        P, Q = counts
        return np.array([[self.share(p, q, counts, image) for q in range(Q)] for p in range(P)], np.float64)
