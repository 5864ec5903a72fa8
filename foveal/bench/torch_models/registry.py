"""Every network by its name in foveal.nn.models."""

from collections.abc import Callable
from functools import partial

from torch import nn

from foveal.bench.torch_models.airbench import airbench94
from foveal.bench.torch_models.alexnet import alexnet
from foveal.bench.torch_models.densenet import densenet
from foveal.bench.torch_models.efficientnet import efficientnet_b0
from foveal.bench.torch_models.googlenet import GoogLeNet
from foveal.bench.torch_models.lenet import lenet5
from foveal.bench.torch_models.mobilenet import V3_LARGE, V3_SMALL, mobilenet_v1, mobilenet_v2, mobilenet_v3
from foveal.bench.torch_models.resnet import cifar_resnet, resnet
from foveal.bench.torch_models.tiny import mobilenet_v1_tiny, resnet8_tiny
from foveal.bench.torch_models.vgg import REPEATS, vgg, vgg16_cifar
from foveal.nn.models.blocks import Size

# Takes channels, (rows, columns) and classes.
Builder = Callable[[int, Size, int], nn.Module]


def of_any_size(build: Callable[[int, int], nn.Module]) -> Builder:
    """Return the builder of a network that has the same layers for images of all sizes."""
    return lambda channels, _, classes: build(channels, classes)


MODELS: dict[str, Builder] = {
    "lenet5": lenet5,
    "alexnet": of_any_size(alexnet),
    **{f"vgg{depth}": of_any_size(partial(vgg, depth=depth, norm=False)) for depth in REPEATS},
    **{f"vgg{depth}_bn": of_any_size(partial(vgg, depth=depth, norm=True)) for depth in REPEATS},
    "vgg16-cifar": vgg16_cifar,
    "resnet18": of_any_size(partial(resnet, counts=(2, 2, 2, 2))),
    "resnet34": of_any_size(partial(resnet, counts=(3, 4, 6, 3))),
    "resnet50": of_any_size(partial(resnet, counts=(3, 4, 6, 3), bottleneck=True)),
    "resnet18-cifar": of_any_size(partial(resnet, counts=(2, 2, 2, 2), small_images=True)),
    **{f"resnet{depth}": of_any_size(partial(cifar_resnet, depth=depth)) for depth in (20, 32, 44, 56)},
    "googlenet": of_any_size(partial(GoogLeNet, aux=False)),
    "googlenet_aux": of_any_size(GoogLeNet),
    "mobilenet_v1": of_any_size(mobilenet_v1),
    "mobilenet_v2": of_any_size(mobilenet_v2),
    "mobilenet_v3_large": of_any_size(partial(mobilenet_v3, rows=V3_LARGE, last=1280)),
    "mobilenet_v3_small": of_any_size(partial(mobilenet_v3, rows=V3_SMALL, last=1024)),
    "densenet121": of_any_size(partial(densenet, blocks=(6, 12, 24, 16), growth=32, width=64)),
    "densenet100-cifar": of_any_size(partial(densenet, blocks=(16, 16, 16), growth=12, width=24, small_images=True)),
    "efficientnet_b0": of_any_size(efficientnet_b0),
    "resnet8-tiny": of_any_size(resnet8_tiny),
    "mobilenet_v1-tiny": of_any_size(mobilenet_v1_tiny),
    "airbench94": airbench94,
}


def build(name: str, *, channels: int, size: Size, classes: int) -> nn.Module:
    """Return the network of this name for images of `channels` and `size`, (rows, columns)."""
    return MODELS[name](channels, size, classes)
