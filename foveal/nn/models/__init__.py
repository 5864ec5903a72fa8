"""Models by name.

models.build("resnet50", channels=3, size=(224, 224), classes=1000)
models.load("resnet50", "resnet50.safetensors", classes=10, head="skip")
print(models.table())
"""

from pathlib import Path

from foveal.errors import ShapeError
from foveal.nn.init import seed as seed_layers
from foveal.nn.models.blocks import Size
from foveal.nn.models.registry import MODELS, NAMES, Entry, canonical, table
from foveal.nn.models.weights import Loaded, classes_in, load_weights
from foveal.nn.module import Module

__all__ = ["MODELS", "NAMES", "Entry", "Loaded", "build", "canonical", "load", "load_weights", "table"]


def build(name: str, *, channels: int, size: Size, classes: int, seed: int = 0) -> Module:
    """A model by name for images [N, channels, *size]; its starting values depend on `seed` alone.

    Capitals, hyphens and underscores of the name do not matter.
    """
    entry = MODELS[canonical(name)]
    if classes < 2:
        raise ShapeError(f"a classifier needs at least 2 classes, got {classes}")
    if channels < 1 or min(size) < 1:
        raise ShapeError(
            f"{name}: images of {channels} channels and {size[0]}x{size[1]} hold nothing; each has to be 1 or more"
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
    """A model by name with the weights of a safetensors file, in torchvision's names or timm's, and what was loaded.

    classes: as many as the file's last layer has, unless given. head: "strict" if the last layer has to fit too, "skip"
    to
    leave it (and auxiliary ones) at its starting values, for a task of one's own. size: that of the paper unless given.
    Raises DataError where there is no such file, StateError that lists what does not fit.
    """
    size = MODELS[canonical(name)].image[1:] if size is None else size
    classes = classes_in(path) if classes is None else classes
    model = build(name, channels=channels, size=size, classes=classes, seed=seed)
    return model, load_weights(model, path, head=head)
