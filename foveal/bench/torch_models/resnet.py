"""Residual networks: torchvision.models.resnet, and those of the paper for CIFAR's images."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.bench.torch_models.blocks import pooled_classifier, sequential

# Channels of the four stages, before a bottleneck's expansion.
WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)
# A bottleneck's outputs are so many times its inner channels.
EXPANSION = 4


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return what brings a block's input to the shape of its output."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):  # type: ignore[misc, unused-ignore]
    """torchvision's BasicBlock: two convolutions of 3x3."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):  # type: ignore[misc, unused-ignore]
    """torchvision's Bottleneck: convolutions of 1x1, 3x3 and 1x1."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def stages(inputs: int, widths: Sequence[int], counts: Sequence[int], bottleneck: bool) -> dict[str, nn.Module]:
    """Return stages of blocks by name; each but the first halves the image."""
    block, expansion = (Bottleneck, EXPANSION) if bottleneck else (BasicBlock, 1)
    layers: dict[str, nn.Module] = {}
    for i, (width, count) in enumerate(zip(widths, counts, strict=True), 1):
        first = block(inputs, width, 1 if i == 1 else 2)
        inputs = width * expansion
        layers[f"layer{i}"] = nn.Sequential(first, *(block(inputs, width, 1) for _ in range(count - 1)))
    return layers


def stem(channels: int, width: int, size: int = 3, stride: int = 1) -> dict[str, nn.Module]:
    """Return the first layers by name: convolution, norm, activation."""
    conv = nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
    return {"conv1": conv, "bn1": nn.BatchNorm2d(width), "relu": nn.ReLU(inplace=True)}


def resnet(
    channels: int, classes: int, counts: Sequence[int], bottleneck: bool = False, small_images: bool = False
) -> nn.Module:
    """foveal.nn.models.ResNet with `counts` blocks in its stages"""
    if small_images:
        first = stem(channels, WIDTHS[0])
    else:
        first = stem(channels, WIDTHS[0], size=7, stride=2) | {"maxpool": nn.MaxPool2d(3, 2, 1)}
    blocks = stages(WIDTHS[0], WIDTHS, counts, bottleneck)
    outputs = WIDTHS[-1] * (EXPANSION if bottleneck else 1)
    return sequential(**first, **blocks, **pooled_classifier(outputs, classes))


def cifar_resnet(channels: int, classes: int, depth: int) -> nn.Module:
    """foveal.nn.models.CifarResNet"""
    first = stem(channels, CIFAR_WIDTHS[0])
    # A block has two convolutions; the first and the last layer are outside of blocks.
    counts = [(depth - 2) // 6] * len(CIFAR_WIDTHS)
    blocks = stages(CIFAR_WIDTHS[0], CIFAR_WIDTHS, counts, bottleneck=False)
    return sequential(**first, **blocks, **pooled_classifier(CIFAR_WIDTHS[-1], classes))
