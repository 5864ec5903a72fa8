"""What several families of networks share."""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# An activation layer's class, called with inplace=True.
Activation = Callable[..., nn.Module]


def sequential(**parts: nn.Module) -> nn.Sequential:
    """Return layers one after another, under their names."""
    return nn.Sequential(OrderedDict(parts))


def keep(x: Tensor) -> Tensor:
    """Return x."""
    return x


class Head(nn.Module):  # type: ignore[misc, unused-ignore]
    """Features, a last activation, average pooling to `pool` x `pool`, flattening, and the classifier."""

    def __init__(
        self, features: nn.Module, classifier: nn.Module, pool: int = 1, end: Callable[[Tensor], Tensor] = keep
    ) -> None:
        super().__init__()
        self.features, self.classifier, self.pool, self.end = features, classifier, pool, end

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.end(self.features(x)), self.pool)
        return self.classifier(torch.flatten(x, 1))


def pooled_classifier(inputs: int, classes: int) -> dict[str, nn.Module]:
    """Return the last layers of a residual network by name: global average pooling, flattening, the linear layer."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}


def conv_norm(
    inputs: int,
    outputs: int,
    size: int,
    stride: int = 1,
    groups: int = 1,
    act: Activation | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Return a convolution of size x size without bias, batch norm and an activation, if there is one."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(outputs, eps=eps, momentum=momentum)
    return nn.Sequential(conv, norm, *([act(inplace=True)] if act else []))


class SqueezeExcitation(nn.Module):  # type: ignore[misc, unused-ignore]
    """torchvision.ops.SqueezeExcitation"""

    def __init__(
        self, inputs: int, squeezed: int, activation: Callable[[], nn.Module], scale: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(inputs, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, inputs, 1)
        self.activation, self.scale = activation(), scale()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return self.scale(self.fc2(y)) * x


class Shortcut(nn.Module):  # type: ignore[misc, unused-ignore]
    """A block, and its input added where shapes agree."""

    def __init__(self, layers: list[nn.Module], added: bool) -> None:
        super().__init__()
        self.block, self.added = nn.Sequential(*layers), added

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.added else self.block(x)
