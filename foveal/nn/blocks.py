"""Blocks of several layers, for any architecture. (nn/models/blocks.py holds what only the models here share.)"""

from collections.abc import Callable
from typing import ClassVar

from foveal import ops
from foveal.errors import ShapeError
from foveal.nn.activation import ReLU, Sigmoid
from foveal.nn.arguments import Pair, PairLike, SidesLike, SingleLike, check_positive
from foveal.nn.container import Sequential
from foveal.nn.conv import Conv1d, Conv2d
from foveal.nn.module import Module
from foveal.nn.norm import BatchNorm1d, BatchNorm2d
from foveal.nn.one_dimensional import as_images, as_sequences, one_row
from foveal.ops.op import Tensor
from foveal.ops.window import pair


class DepthwiseSeparableConv2d(Sequential):
    """One filter for each channel, then 1x1 filters across channels, each followed by batch norm and relu

    x [N, in_channels, H, W] -> [N, out_channels, P, Q]. Howard et al. 2017 (MobileNet), section 3.1: for each input
    value R S + K multiplications, where a convolution has R S K. kernel_size, stride, padding: of the first
    convolution, as Conv2d's; padding None keeps the image's size at stride 1 (kernel_size // 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike = 3,
        stride: PairLike = 1,
        padding: SidesLike | None = None,
    ) -> None:
        rows, columns = pair(kernel_size, f"{type(self).__name__}: kernel_size")
        around = (rows // 2, columns // 2) if padding is None else padding
        depthwise = Conv2d(in_channels, in_channels, kernel_size, stride, around, groups=in_channels, bias=False)
        pointwise = Conv2d(in_channels, out_channels, 1, bias=False)
        super().__init__(depthwise, BatchNorm2d(in_channels), ReLU(), pointwise, BatchNorm2d(out_channels), ReLU())


class DepthwiseSeparableConv1d(Sequential):
    """One filter for each channel, then filters of one tap across channels, each followed by batch norm and relu

    x [N, in_channels, L] -> [N, out_channels, Q]: DepthwiseSeparableConv2d along one axis. kernel_size, stride,
    padding: of the first convolution, as Conv1d's; padding None keeps the length at stride 1 (kernel_size // 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: SingleLike = 3,
        stride: SingleLike = 1,
        padding: SingleLike | Pair | None = None,
    ) -> None:
        taps = one_row(kernel_size, 1, f"{type(self).__name__}: kernel_size")[1]
        around = taps // 2 if padding is None else padding
        depthwise = Conv1d(in_channels, in_channels, taps, stride, around, groups=in_channels, bias=False)
        pointwise = Conv1d(in_channels, out_channels, 1, bias=False)
        super().__init__(depthwise, BatchNorm1d(in_channels), ReLU(), pointwise, BatchNorm1d(out_channels), ReLU())


class SqueezeExcitation(Module):
    """y = x scale(fc2(activation(fc1(mean of x)))): one factor for each channel; Hu, Shen, Sun 2018, eq. 2-4

    x [N, input_channels, H, W] -> y of the same shape. fc1 and fc2 are 1x1 convolutions, with squeeze_channels between
    them. activation, scale_activation: classes of layers. Names and parameters are torchvision's.
    """

    required = ("fc1", "fc2", "activation", "scale_activation")
    convolution: ClassVar[type[Conv2d]] = Conv2d

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Callable[[], Module] = ReLU,
        scale_activation: Callable[[], Module] = Sigmoid,
    ) -> None:
        name = type(self).__name__
        check_positive(name, input_channels=input_channels, squeeze_channels=squeeze_channels)
        self.fc1 = self.convolution(input_channels, squeeze_channels, 1)
        self.fc2 = self.convolution(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()
        for part in ("activation", "scale_activation"):
            if not isinstance(made := getattr(self, part), Module):
                raise ShapeError(f"{name}: {part} makes {made!r}, it has to make a layer, as nn.ReLU does")

    def forward(self, x: Tensor) -> Tensor:
        # [N, squeeze_channels, 1, 1]
        y = self.activation(self.fc1(ops.global_avg_pool2d(x)))
        return x * self.scale_activation(self.fc2(y))


class SqueezeExcitation1d(SqueezeExcitation):
    """SqueezeExcitation of sequences: x [N, input_channels, L] -> y of the same shape; fc1 and fc2 are Conv1d"""

    convolution = Conv1d

    def forward(self, x: Tensor) -> Tensor:
        # [N, input_channels, 1]
        mean = as_sequences(ops.global_avg_pool2d(as_images(type(self).__name__, x)))
        return x * self.scale_activation(self.fc2(self.activation(self.fc1(mean))))
