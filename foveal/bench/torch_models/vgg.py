"""VGG: torchvision.models.vgg, and the smaller one for CIFAR's images."""

from collections.abc import Sequence

from torch import nn

from foveal.bench.torch_models.blocks import Head, sequential
from foveal.nn.models.blocks import Size
from foveal.nn.models.vgg import STAGES

# Convolutions in each of the five stages, and their channels.
REPEATS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
# Width of the linear layers.
HIDDEN = 4096


def features(channels: int, stages: Sequence[Sequence[int]], norm: bool) -> nn.Sequential:
    """Return convolutions of 3x3 with the channels of `stages`; each stage ends with pooling by 2."""
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width)] if norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg(channels: int, classes: int, depth: int, norm: bool) -> nn.Module:
    """foveal.nn.models.VGG with dropout 0"""
    stages = [(width,) * repeats for width, repeats in zip(WIDTHS, REPEATS[depth], strict=True)]
    convolutions = features(channels, stages, norm)
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(HIDDEN, classes),
    )
    return Head(convolutions, classifier, pool=7)


def vgg16_cifar(channels: int, size: Size, classes: int) -> nn.Module:
    """foveal.nn.models.CifarVGG"""
    convolutions = features(channels, STAGES, norm=True)
    # Images that are one pixel after the last stage need no pooling.
    pool = {} if max(size) < 2 ** (len(STAGES) + 1) else {"pool": nn.AdaptiveAvgPool2d(1)}
    classifier = nn.Linear(STAGES[-1][-1], classes)
    return sequential(features=convolutions, **pool, flatten=nn.Flatten(), classifier=classifier)
