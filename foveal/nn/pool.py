"""Pooling."""

from typing import Any

from foveal import ops
from foveal.nn.module import Module


class MaxPool2d(Module):
    """The largest of each window; x [N, C, H, W] -> [N, C, P, Q]"""

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Any) -> Any:
        return ops.max_pool2d(x, size=self.kernel_size, stride=self.stride, padding=self.padding)

    def describe(self) -> str:
        return (
            f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"
        )


class AvgPool2d(MaxPool2d):
    """The mean of each window, padding counted as zeros; x [N, C, H, W] -> [N, C, P, Q]"""

    def forward(self, x: Any) -> Any:
        return ops.avg_pool2d(x, size=self.kernel_size, stride=self.stride, padding=self.padding)


class GlobalAvgPool2d(Module):
    """The mean of each channel; x [N, C, H, W] -> [N, C, 1, 1], as PyTorch's AdaptiveAvgPool2d(1)"""

    def forward(self, x: Any) -> Any:
        return ops.global_avg_pool2d(x)
