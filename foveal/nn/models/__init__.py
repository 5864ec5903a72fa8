"""Models by name.

models.build("resnet50", channels=3, size=(224, 224), classes=1000)
models.load("resnet50", "resnet50.safetensors", classes=10, head="skip")
print(models.table())

A model names its last layers in `heads`, which load(head="skip") leaves at their starting values, and in `optional` the
modules that a file may hold though the model has none.

The files of this folder:

registry.py      the table of all models: name, builder, number of parameters, image size, source
recognise.py     which model a file of weights belongs to
weights.py       loading safetensors files with torchvision's names or timm's
blocks.py        what models share: blocks, starting values, checks of image sizes
small.py         the small network for images below 32x32
lenet.py         LeNet-5
alexnet.py       AlexNet
vgg.py           VGG-11 to VGG-19, and VGG-16 for CIFAR
googlenet.py     GoogLeNet
resnet.py        ResNet-18, 34 and 50, and those for CIFAR
densenet.py      DenseNet-121, and DenseNet-BC for CIFAR
mobilenet.py     MobileNet V1, V2 and V3
efficientnet.py  EfficientNet-B0
mlperf_tiny.py   the image models of MLPerf Tiny: ResNet-8 and MobileNetV1 of a quarter of the width
airbench.py      the network of airbench94, for CIFAR
"""

from pathlib import Path

from foveal.arguments import check_calls
from foveal.errors import ShapeError
from foveal.nn.init import seed as seed_layers
from foveal.nn.models.blocks import Size
from foveal.nn.models.recognise import recognised
from foveal.nn.models.registry import MODELS, NAMES, Entry, canonical, table
from foveal.nn.models.weights import Loaded, classes_in, load_weights
from foveal.nn.module import Module

__all__ = ["MODELS", "NAMES", "Entry", "Loaded", "build", "canonical", "load", "load_weights", "recognised", "table"]


def build(name: str, *, channels: int, size: Size, classes: int, seed: int = 0) -> Module:
    """Build a model by name for images [N, channels, rows, columns], and return it.

    name: one of NAMES; capitals, hyphens and underscores do not matter. size: (rows, columns). seed: determines the
    starting values. Raises ShapeError for an unknown name, for fewer than 2 classes, and for images that are too small.
    """
    entry = MODELS[canonical(name)]
    if classes < 2:
        raise ShapeError(f"{name}: a classifier needs at least 2 classes, got {classes}")
    if channels < 1 or min(size) < 1:
        raise ShapeError(
            f"{name}: images of {channels} channels and {size[0]}x{size[1]} pixels are empty; each number has to be 1"
            " or more"
        )
    seed_layers(seed)
    return entry.build(channels, (int(size[0]), int(size[1])), classes)


def load(
    name: str,
    path: str | Path,
    *,
    classes: int | None = None,
    head: str = "strict",
    channels: int = 3,
    size: Size | None = None,
    seed: int = 0,
) -> tuple[Module, Loaded]:
    """Build a model by name, load the weights of a safetensors file, and return the model and what was loaded.

    path: a file with torchvision's parameter names or timm's, in float32, float16, bfloat16 or float64; a prefix such
    as `module.` is taken off, with a FovealWarning. Files of other kinds are refused with the lines that convert them.
    classes: as many as the file's last layer has, unless given. head: "strict" loads the last layer too; "skip" leaves
    it, and auxiliary classifiers, at their starting values, for other classes than the file's. channels, size: of the
    images; size is that of the paper unless given. seed: decides about the starting values of what is not loaded.
    Raises DataError where there is no such file, StateError that lists what does not fit.
    """
    size = MODELS[canonical(name)].image[1:] if size is None else size
    classes = classes_in(path) if classes is None else classes
    model = build(name, channels=channels, size=size, classes=classes, seed=seed)
    return model, load_weights(model, path, head=head)


check_calls(__name__)
