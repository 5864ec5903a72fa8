"""Recipes: the network and the hyper-parameters that `foveal train` uses for images of some size."""

from __future__ import annotations

from dataclasses import dataclass

from foveal.nn.models.blocks import Size


@dataclass(frozen=True)
class Recipe:
    """A network and the hyper-parameters to train it with."""

    #: A name of `nn.models.NAMES`.
    model: str
    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "nesterov"
    weight_decay: float = 5e-4
    #: How training images are varied: None, "shift" or "crop+flip" (the names of data.augment.AUGMENTATIONS).
    augment: str | None = None


# For data of any kind and a network of one's own, where nothing is known of either.
GENERAL = Recipe("", epochs=10, batch_size=32, lr=2e-3, optimizer="adamw", weight_decay=0.01)


def recipe_for(size: Size) -> Recipe:
    """Return the recipe for images of that size (rows, columns)."""
    if max(size) < 16:
        return Recipe("small", epochs=24, batch_size=32, lr=0.1, augment="shift")
    if max(size) < 32:
        return Recipe("small", epochs=5, batch_size=128, lr=0.2)
    return Recipe("resnet20", epochs=30, batch_size=128, lr=0.4, augment="crop+flip")
