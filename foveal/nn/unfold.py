"""Windows of images as columns of a matrix, and back (im2col and col2im; not the folding of batch norm: see tools)."""

from typing import Any

from foveal import ops
from foveal.nn.arguments import PairLike, SidesLike
from foveal.nn.module import Module
from foveal.ops.op import Tensor


class Unfold(Module):
    """Windows as columns: x [N, C, H, W] -> [N, C R S, P Q], the operator im2col

    kernel_size, dilation, stride: an int or (rows, columns). padding: zeros about the image, an int, (rows, columns) or
    (top, bottom, left, right).
    """

    def __init__(
        self, kernel_size: PairLike, dilation: PairLike = 1, padding: SidesLike = 0, stride: PairLike = 1
    ) -> None:
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def window(self) -> dict[str, Any]:
        """The attributes of the operator, in the order in which they are printed."""
        return {name: getattr(self, name) for name in ("kernel_size", "dilation", "padding", "stride")}

    def forward(self, x: Tensor) -> Tensor:
        return ops.im2col(x, **self.window())

    def describe(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.window().items())


class Fold(Unfold):
    """Columns added up to images: x [N, C R S, P Q] -> [N, C, H, W], the operator col2im, the transpose of Unfold

    output_size: an int or (H, W). The other hyper-parameters are Unfold's; they have to give P Q windows of such
    images, else the call raises ShapeError.
    """

    def __init__(
        self,
        output_size: PairLike,
        kernel_size: PairLike,
        dilation: PairLike = 1,
        padding: SidesLike = 0,
        stride: PairLike = 1,
    ) -> None:
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def window(self) -> dict[str, Any]:
        return {**super().window(), "image_size": self.output_size}

    def forward(self, x: Tensor) -> Tensor:
        return ops.col2im(x, **self.window())
