"""The operations that automatic augmentations draw from, and how strong they are.

Their names are those of AutoAugment (Cubuk et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms import pictures, pixels
from foveal.data.transforms.pictures import Fill
from foveal.data.transforms.transform import bound
from foveal.strides import Ndarray


@dataclass(frozen=True)
class How:
    """How a geometric operation finds its pixels."""

    name: str
    interpolation: str
    fill: Fill


@dataclass(frozen=True)
class Strength:
    """How strong an operation is: its strengths from the weakest to the strongest."""

    #: [bins]; None for an operation that has no strength.
    values: Ndarray | None = None
    #: True if half of the images get the negative of it.
    signed: bool = False


# By name of the operation, in the order in which they are drawn.
Space = Mapping[str, Strength]


def affine(x: Images, how: How, move: Ndarray, shear: Ndarray, corner: bool) -> Images:
    """Return images moved by pixels [n, 2] and sheared by degrees [n, 2], about the upper left corner or the middle."""
    none = np.zeros(len(x))
    center = (0.0, 0.0) if corner else None
    return pictures.affine(how.name, x, none, move, none + 1, shear, center, how.interpolation, how.fill)


def sheared(axis: int) -> Callable[[Images, Ndarray, How], Images]:
    """Return a function that shears images along an axis, 0 for x, by tangents [n]."""

    def change(x: Images, strength: Ndarray, how: How) -> Images:
        shear = np.zeros((len(x), 2))
        shear[:, axis] = np.degrees(np.arctan(strength))
        return affine(x, how, np.zeros((len(x), 2)), shear, corner=True)

    return change


def moved(axis: int) -> Callable[[Images, Ndarray, How], Images]:
    """Return a function that moves images along an axis, 0 for x, by pixels [n], whose fractions are cut off."""

    def change(x: Images, strength: Ndarray, how: How) -> Images:
        move = np.zeros((len(x), 2))
        move[:, axis] = np.trunc(strength)
        return affine(x, how, move, np.zeros((len(x), 2)), corner=False)

    return change


# Functions of images, the strength of each, and how pixels are found. A strength of 0 leaves a signed one as it is.
OPERATIONS: dict[str, Callable[[Images, Ndarray, How], Images]] = {
    "Identity": lambda x, strength, how: x,
    "ShearX": sheared(0),
    "ShearY": sheared(1),
    "TranslateX": moved(0),
    "TranslateY": moved(1),
    "Rotate": lambda x, strength, how: pictures.rotate(how.name, x, strength, how.interpolation, how.fill),
    "Brightness": lambda x, strength, how: pixels.brightness(x, 1 + strength),
    "Color": lambda x, strength, how: pixels.saturation(x, 1 + strength),
    "Contrast": lambda x, strength, how: pixels.contrast(x, 1 + strength),
    "Sharpness": lambda x, strength, how: pixels.sharpness(x, 1 + strength),
    "Posterize": lambda x, strength, how: pixels.posterize(x, strength.astype(np.int64)),
    "Solarize": lambda x, strength, how: pixels.solarize(x, bound(x) * strength),
    "AutoContrast": lambda x, strength, how: pixels.autocontrast(x),
    "Equalize": lambda x, strength, how: pixels.equalize(x),
    "Invert": lambda x, strength, how: pixels.invert(x),
}


# For every batch of images of a size it is the same.
@lru_cache(64)
def space(
    bins: int,
    move: tuple[float, float],
    *,
    shear: float = 0.3,
    turn: float = 30.0,
    colour: float = 0.9,
    bits: tuple[int, int] = (8, 4),
) -> Space:
    """Return the operations of a space with their strengths, from weak to strong in so many bins.

    move: the largest along x and y, in pixels. shear: its largest tangent. turn: the largest angle in degrees. colour:
    the largest change of a factor. bits: those that are kept, from the weakest to the strongest.
    """

    def signed(high: float) -> Strength:
        # In float32, as torchvision's are.
        return Strength(np.linspace(0, high, bins, dtype=np.float32).astype(np.float64), signed=True)

    kept = np.rint(np.linspace(bits[0], bits[1], bins))
    return {
        "Identity": Strength(),
        "ShearX": signed(shear),
        "ShearY": signed(shear),
        "TranslateX": signed(move[0]),
        "TranslateY": signed(move[1]),
        "Rotate": signed(turn),
        "Brightness": signed(colour),
        "Color": signed(colour),
        "Contrast": signed(colour),
        "Sharpness": signed(colour),
        "Posterize": Strength(kept),
        "Solarize": Strength(np.linspace(1, 0, bins)),
        "AutoContrast": Strength(),
        "Equalize": Strength(),
    }


def strengths(of: Space, operation: Ndarray, place: Ndarray, negative: Ndarray) -> Ndarray:
    """Return how strong the operation of each image is, [n].

    operation [n]: its number in the space. place [n]: which of its strengths. negative [n]: True for the negative of
    one that has a sign.
    """
    found = np.zeros(len(operation))
    for number, strength in enumerate(of.values()):
        rows = np.flatnonzero(operation == number)
        if strength.values is not None and len(rows):
            found[rows] = strength.values[place[rows]]
            if strength.signed:
                found[rows] *= np.where(negative[rows], -1, 1)
    return found


def operated(x: Images, names: Sequence[str], operation: Ndarray, strength: Ndarray, how: How) -> Images:
    """Return images x [n, C, H, W], each changed by its operation; numbers of -1 leave them as they are.

    operation [n]: places in `names`. Images of one operation are changed together.
    """
    result = x.copy()
    for number, name in enumerate(names):
        rows = np.flatnonzero(operation == number)
        if len(rows) and name != "Identity":
            result[rows] = OPERATIONS[name](x[rows], strength[rows], how)
    return result
