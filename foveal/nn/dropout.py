"""Layers that drop values at random in training, and scale the others up so that the mean stays."""

from typing import ClassVar

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.arguments import is_number
from foveal.nn.module import Module
from foveal.ops.op import Tensor
from foveal.strides import Shape
from foveal.trace import current


class Dropping(Module):
    """Base of these layers. In training, the values that belong together are set to 0 with probability p, all others
    are divided by 1 - p; in inference y = x.

    p: from 0 to 1, else ShapeError; with 1 all are 0, as is their gradient. The random numbers are a function of the
    step's seed and number, so that any number of threads draws the same. inplace has no effect.
    """

    ranks: ClassVar[tuple[int, ...] | None] = None
    takes: ClassVar[str] = ""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        self.p = p

    def check_attribute(self, name: str, value: object) -> None:
        if name == "p" and not (is_number(value) and 0.0 <= value <= 1.0):
            raise ShapeError(f"{type(self).__name__}: p is {value!r}, it has to be between 0 and 1")

    def mask_shape(self, x: Shape) -> Shape:
        """The shape of the mask for x of this shape; it is broadcast, so an axis of 1 is kept or dropped as a whole."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        if self.ranks is not None and len(x.shape) not in self.ranks:
            raise ShapeError(f"{type(self).__name__}: takes {self.takes}, got shape {x.shape}")
        if not self.training or self.p == 0.0:
            return x
        if self.p == 1.0:
            # nothing is random; what is dropped may be infinite
            return ops.where(0.0, x, 0.0)
        recording = current()
        if recording.key is None:
            raise ShapeError(
                f"{type(self).__name__} in training mode inside of foveal.compile has no random numbers to draw from;"
                " call the model itself, use foveal.compile_step, or model.eval() for inference"
            )
        shape = self.mask_shape(x.shape)
        mask = ops.dropout_mask(recording.key, shape=shape, p=self.p, stream=recording.stream())
        # what is dropped may be infinite, so it is left out and not multiplied by 0
        return ops.where(mask, ops.multiply(x, mask), 0.0)

    def describe(self) -> str:
        return str(self.p)


class Dropout(Dropping):
    """Drops elements of x [...]: Srivastava et al. 2014"""


class Dropout2d(Dropping):
    """Drops whole channels of x [N, C, H, W]: Tompson et al. 2015, section 3.2"""

    ranks, takes = (4,), "images [N, C, H, W]"

    def mask_shape(self, x: Shape) -> Shape:
        return (*x[:2], *[1] * (len(x) - 2))


class Dropout1d(Dropout2d):
    """Drops whole channels of x [N, C, L]"""

    ranks, takes = (3,), "sequences [N, C, L]"


class StochasticDepth(Dropping):
    """Drops a residual branch x [N, ...]: Huang et al. 2016, in the form and with the names of torchvision

    mode: "row" drops the branch for each image by itself, "batch" for all images at once; else ShapeError.
    """

    def __init__(self, p: float, mode: str) -> None:
        super().__init__(p)
        self.mode = mode

    def check_attribute(self, name: str, value: object) -> None:
        super().check_attribute(name, value)
        if name == "mode" and (not isinstance(value, str) or value not in ("row", "batch")):
            raise ShapeError(f'StochasticDepth: mode is {value!r}, it has to be "row" or "batch"')

    def mask_shape(self, x: Shape) -> Shape:
        if not x:
            raise ShapeError("StochasticDepth: takes x [N, ...], got one number")
        return (x[0] if self.mode == "row" else 1, *[1] * (len(x) - 1))

    def describe(self) -> str:
        return f"{self.p}, mode={self.mode}"
