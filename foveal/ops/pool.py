"""What all poolings over windows of rows and columns share."""

from typing import Any, ClassVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import splat, vectors
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.op import Lowering, Operator
from foveal.ops.window import ceiled, check_meeting, check_window, output_size, pair, sides, windows
from foveal.strides import Ndarray, Shape

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


MOST_WINDOWS = 4  # that an element lies in, for it to be computed in each


def check_images(name: str, x: Shape) -> None:
    if len(x) != 4:
        raise ShapeError(f"{name}: takes images [N, C, H, W], got shape {x}")


class Pooling(Operator):
    """What all share: `size` (R, S), `stride` (the size unless given), `padding`, `dilation`. Lanes run over channels.

    ceil_mode: as many windows as start in the image or in the padding before it, not only those that end in the padding
    behind it. In the full form of the attributes that is more padding at the bottom and on the right.
    """

    reads: ClassVar[int | None] = None  # the position of the input that may be computed while it is read

    def normalise(
        self,
        *inputs: Any,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        full: dict[str, Any] = {
            "size": pair(size, f"{self.name}: size"),
            "stride": pair(size if stride is None else stride, f"{self.name}: stride"),
            "padding": sides(padding, f"{self.name}: padding"),
            "dilation": pair(dilation, f"{self.name}: dilation"),
        }
        check_window(self.name, *full.values())
        if ceil_mode:
            check_images(self.name, inputs[0].shape)
            full["padding"] = ceiled(
                inputs[0].shape[2:], full["size"], full["stride"], full["padding"], full["dilation"]
            )
        return full | more

    def pooled(self, x: Shape, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Shape:
        check_images(self.name, x)
        check_meeting(self.name, x[2:], size, stride, padding, dilation)
        return (*x[:2], *output_size(self.name, x[2:], size, stride, padding, dilation))

    def prologue(self, **how: Any) -> int | None:
        """Only where windows overlap little: what lies in several is computed for each."""
        size, stride = how["size"], how["stride"]
        few = size[0] * size[1] <= MOST_WINDOWS * stride[0] * stride[1]
        return self.reads if few else None

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, **how: Any) -> None:
        if not self.epilogues:
            super().lower(to, y, *inputs, **how)
            return
        self.lower_results(to, EpilogueOutputs([y]), *inputs, **how)


def spans(y: Any, n: Any) -> Any:
    """(channel, lanes) over the channels of y, which are neighbours in memory, or one by one where they are not."""
    yield from vectors(y.shape[1], None if y.strides[1] == 1 else 1)


def inside(hit: Any, valid: Any, width: int) -> Any:
    """In which lanes there is a hit, where the position is inside."""
    return hit if valid is True else hit & splat(valid, width)


def windows_of_lowest(x: Ndarray, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
    """x's windows [N, C, P, Q, R, S]; what lies in the padding is -inf."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-np.inf)
    return windows(x, size, stride, (0, 0, 0, 0), dilation)
