"""Transforms of images, with torchvision v2's names, arguments, defaults and meaning.

    from foveal.data import transforms

    augment = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    loader = foveal.data.Loader(data, batch_size=128, shuffle=True, augment=augment)

They take images of bytes or of floats, [C, H, W] or [n, C, H, W]. What they draw for an image follows from seed, epoch
and the index of the image alone, whatever batch it is in and whatever thread does it.

transform.py   Transform, and those that are made of others: add your own beside them
draws.py       random numbers by (seed, epoch, index)
crops.py       cutting out and resizing
geometry.py    flips, rotation, affine maps, perspective
colour.py      brightness to blur
erasing.py     a rectangle that is lost
values.py      dtype, mean and standard deviation
auto.py        RandAugment and others that draw operations by themselves
mixing.py      images mixed with others of their batch
pictures.py    what Pillow does for them
pixels.py      what NumPy does for them
operations.py  what auto.py draws from
policies.py    the pairs of operations that AutoAugment found
"""

from typing import TYPE_CHECKING, NoReturn

from foveal.arguments import check_calls
from foveal.data.transforms.auto import AugMix, AutoAugment, RandAugment, TrivialAugmentWide
from foveal.data.transforms.colour import (
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomAdjustSharpness,
    RandomAutocontrast,
    RandomEqualize,
    RandomGrayscale,
    RandomInvert,
    RandomPosterize,
    RandomSolarize,
)
from foveal.data.transforms.crops import CenterCrop, RandomCrop, RandomResizedCrop, Resize
from foveal.data.transforms.erasing import RandomErasing
from foveal.data.transforms.geometry import (
    AlternatingHorizontalFlip,
    RandomAffine,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomRotation,
    RandomVerticalFlip,
)
from foveal.data.transforms.mixing import CutMix, MixUp
from foveal.data.transforms.transform import Compose, RandomApply, RandomChoice, Transform
from foveal.data.transforms.values import Normalize, ToDtype
from foveal.names import missing_in

__all__ = [
    "AlternatingHorizontalFlip",
    "AugMix",
    "AutoAugment",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "CutMix",
    "GaussianBlur",
    "Grayscale",
    "MixUp",
    "Normalize",
    "RandAugment",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChoice",
    "RandomCrop",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "ToDtype",
    "Transform",
    "TrivialAugmentWide",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__


# Type checkers would take every name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_in("foveal.data.transforms", name, __all__), name=name)
