"""Channels weighted by what the whole image shows."""

from collections.abc import Callable
from typing import Any

from foveal import ops
from foveal.nn.activation import ReLU, Sigmoid
from foveal.nn.conv import Conv2d
from foveal.nn.module import Module, check_positive


class SqueezeExcitation(Module):
    """y = x scale(fc2(activation(fc1(mean of x)))): one factor per channel; Hu, Shen, Sun 2018, eq. 2-4

    x [N, input_channels, H, W]; fc1 and fc2 are 1x1 convolutions with `squeeze_channels` between them. Names and
    parameters
    are torchvision's; the activations are classes.
    """

    def __init__(
        self,
        input_channels: int,
        squeeze_channels: int,
        activation: Callable[[], Module] = ReLU,
        scale_activation: Callable[[], Module] = Sigmoid,
    ) -> None:
        check_positive("SqueezeExcitation", input_channels=input_channels, squeeze_channels=squeeze_channels)
        self.fc1 = Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = Conv2d(squeeze_channels, input_channels, 1)
        self.activation = activation()
        self.scale_activation = scale_activation()

    def forward(self, x: Any) -> Any:
        y = self.activation(self.fc1(ops.global_avg_pool2d(x)))  # N squeeze 1 1
        return x * self.scale_activation(self.fc2(y))
