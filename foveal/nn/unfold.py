"""Windows of images or sequences as columns of a matrix, and back.

They are im2col and col2im, and not the folding of batch norm, which is in tools.
"""

from typing import Any

from foveal import ops
from foveal.nn.arguments import Pair, PairLike, SidesLike, SingleLike
from foveal.nn.module import Module
from foveal.nn.one_dimensional import as_images, as_sequences, one_row, one_row_padding
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


class Unfold1d(Unfold):
    """Windows of sequences as columns: x [N, C, L] -> [N, C S, Q], Unfold along one axis

    kernel_size, dilation, stride: an int. padding: zeros at the ends, an int or (before, after).
    """

    def __init__(
        self, kernel_size: SingleLike, dilation: SingleLike = 1, padding: SingleLike | Pair = 0, stride: SingleLike = 1
    ) -> None:
        name = type(self).__name__
        super().__init__(
            one_row(kernel_size, 1, f"{name}: kernel_size"),
            one_row(dilation, 1, f"{name}: dilation"),
            one_row_padding(padding, f"{name}: padding"),
            one_row(stride, 1, f"{name}: stride"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return ops.im2col(as_images(type(self).__name__, x), **self.window())


class Fold1d(Fold):
    """Columns added up to sequences: x [N, C S, Q] -> [N, C, L], the transpose of Unfold1d

    output_size: L. The other hyper-parameters are Unfold1d's; they have to give Q windows of such sequences, else the
    call raises ShapeError.
    """

    def __init__(
        self,
        output_size: SingleLike,
        kernel_size: SingleLike,
        dilation: SingleLike = 1,
        padding: SingleLike | Pair = 0,
        stride: SingleLike = 1,
    ) -> None:
        name = type(self).__name__
        super().__init__(
            one_row(output_size, 1, f"{name}: output_size"),
            one_row(kernel_size, 1, f"{name}: kernel_size"),
            one_row(dilation, 1, f"{name}: dilation"),
            one_row_padding(padding, f"{name}: padding"),
            one_row(stride, 1, f"{name}: stride"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return as_sequences(super().forward(x))
