"""Models by name, and the recipe that `foveal train` takes by image size."""

from collections.abc import Callable
from dataclasses import dataclass

from foveal.errors import ShapeError
from foveal.nn.init import seed as seed_layers
from foveal.nn.models.airbench import Airbench94
from foveal.nn.models.lenet import LeNet5
from foveal.nn.models.mobilenet import MobileNetV2
from foveal.nn.models.resnet import CifarResNet, ResNet18
from foveal.nn.models.small import SmallNet
from foveal.nn.models.vgg import VGG
from foveal.nn.module import Module

Size = tuple[int, int]

BUILDERS: dict[str, Callable[[int, Size, int], Module]] = {
    "small": lambda channels, size, classes: SmallNet(channels, classes),
    "lenet5": lambda channels, size, classes: LeNet5(channels, size, classes),
    "resnet20": lambda channels, size, classes: CifarResNet(20, channels, classes),
    "resnet18": lambda channels, size, classes: ResNet18(channels, classes),
    "resnet18-cifar": lambda channels, size, classes: ResNet18(
        channels, classes, small_images=True
    ),
    "vgg16": lambda channels, size, classes: VGG(channels, size, classes),
    "mobilenetv2": lambda channels, size, classes: MobileNetV2(channels, classes),
    "airbench94": lambda channels, size, classes: Airbench94(channels, size, classes),
}
NAMES = tuple(BUILDERS)


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of a training run. augment: None, "shift" or "crop+flip"."""

    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "nesterov"
    weight_decay: float = 5e-4
    augment: str | None = None


def default(size: Size) -> Recipe:
    """What `foveal train` does unless told otherwise, by image size (rows, columns)."""
    if max(size) < 16:
        return Recipe("small", epochs=24, batch_size=32, lr=0.1, augment="shift")
    if max(size) < 32:
        return Recipe("small", epochs=5, batch_size=128, lr=0.2)
    return Recipe("resnet20", epochs=30, batch_size=128, lr=0.4, augment="crop+flip")


def build(name: str, *, channels: int, size: Size, classes: int, seed: int = 0) -> Module:
    """A model by name for images [N, channels, *size]; its starting values depend on `seed` alone."""
    if name not in BUILDERS:
        raise ShapeError(f"there is no model called {name!r}; choose one of {', '.join(NAMES)}")
    if classes < 2:
        raise ShapeError(f"a classifier needs at least 2 classes, got {classes}")
    seed_layers(seed)
    return BUILDERS[name](channels, size, classes)
