"""DenseNets: torchvision.models.densenet, and the one of the paper for CIFAR's images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.bench.torch_models.blocks import Head, sequential


class DenseLayer(nn.Module):  # type: ignore[misc, unused-ignore]
    """`growth` new channels from all that there are."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        y = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.ModuleDict):  # type: ignore[misc, unused-ignore]
    """Dense layers by name, each of which gets the outputs of all before it."""

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


def densenet(
    channels: int, classes: int, blocks: Sequence[int], growth: int, width: int, small_images: bool = False
) -> nn.Module:
    """foveal.nn.models.DenseNet with `blocks` layers in its blocks and `width` channels before the first"""
    parts: dict[str, nn.Module]
    if small_images:
        parts = {"conv0": nn.Conv2d(channels, width, 3, 1, 1, bias=False)}
    else:
        parts = {"conv0": nn.Conv2d(channels, width, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(width)}
        parts |= {"relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
    for i, count in enumerate(blocks, 1):
        layers = {f"denselayer{j + 1}": DenseLayer(width + j * growth, growth) for j in range(count)}
        parts[f"denseblock{i}"] = DenseBlock(layers)
        width += count * growth
        # Between blocks a transition halves the channels and the image.
        if i < len(blocks):
            conv = nn.Conv2d(width, width // 2, 1, bias=False)
            parts[f"transition{i}"] = sequential(
                norm=nn.BatchNorm2d(width), relu=nn.ReLU(), conv=conv, pool=nn.AvgPool2d(2, 2)
            )
            width //= 2
    features = sequential(**parts, norm5=nn.BatchNorm2d(width))
    return Head(features, nn.Linear(width, classes), end=F.relu)
