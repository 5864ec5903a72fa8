"""Augmentations: random changes of training images that leave their class as it is.

One of your own is a function (images, rng) -> images of the same shape; `data.Loader(..., augment=cutout)` calls it on
each batch, float32 [n, C, H, W], 0 to 1 as a rule, before it is normalised:

    def cutout(x, rng):
        x = x.copy()
        for image, top, left in zip(x, *rng.integers(0, x.shape[2] - 8, (2, len(x)))):
            image[:, top : top + 8, left : left + 8] = 0
        return x

It draws from `rng` alone, NumPy's generator of this batch, so that a run can be repeated to the bit. Where an image is
to get the same in whatever batch it is, derive from `transforms.Transform`. To give one a name for `foveal train`,
write a function here that takes the images' size and returns it, and enter that in AUGMENTATIONS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from foveal.data import transforms
from foveal.data.statistics import Floats, Images, scaled
from foveal.data.transforms.draws import Draws
from foveal.data.transforms.operations import Space, space
from foveal.data.transforms.transform import Transform
from foveal.errors import ArgumentError, ShapeError
from foveal.kinds import shown, takes
from foveal.names import meant

# Takes a batch of images, float32 [n, C, H, W] in 0 .. 1 as a rule, before they are normalised, and a random generator
# of this batch alone; returns new images of the same shape. All randomness must come from the generator, so that a run
# can be repeated. Or a transform, which takes bytes as well.
Augment = Callable[[Floats, Generator], Floats] | Transform
Size = tuple[int, int]

NONE = "none"
# Words in the names of data sets whose images are letters, digits or signs: mirrored, they are of another class, or of
# none.
ONE_SIDED = {"digits", "digit", "mnist", "emnist", "kmnist", "qmnist", "svhn", "gtsrb", "omniglot"}
ONE_SIDED |= {"letters", "characters", "text", "words", "handwriting", "signs"}
# Images of fewer pixels on their longer side are moved by a few pixels only; from so many on, they are photos.
SMALL, PHOTO = 32, 64
# From fewer training images than this, a network that is trained from its beginning needs all the variety there is.
FEW = 10_000


class TrivialAugment(transforms.TrivialAugmentWide):
    """TrivialAugmentWide that leaves something of a small image: it is moved by a third of its side at most.

    upright: turn images by 30 degrees at most instead of 135, for what changes its meaning when it is turned.
    """

    def __init__(self, upright: bool) -> None:
        super().__init__()
        self.upright = upright

    def space(self, size: Size) -> Space:
        """Return the operations and their strengths."""
        wide = super().space(size)
        gentle = space(self.num_magnitude_bins, (min(32.0, size[1] / 3), min(32.0, size[0] / 3)))
        names = ["TranslateX", "TranslateY", *(["Rotate"] if self.upright else [])]
        return {**wide, **{name: gentle[name] for name in names}}


def shift(size: Size) -> Augment:
    """Move each image by up to 1/12 of its shorter side: 2 pixels of 28."""
    pad = max(1, min(size) // 12)
    return lambda x, rng: random_crop_flip(x, rng, pad, flip=False, size=size)


def crop(size: Size) -> Augment:
    """Move each image by up to 1/8 of its shorter side, 4 pixels of 32."""
    return lambda x, rng: random_crop_flip(x, rng, eighth(size), flip=False, size=size)


def crop_and_flip(size: Size) -> Augment:
    """Move each image by up to 1/8 of its shorter side, 4 pixels of 32, and mirror half of the images."""
    return lambda x, rng: random_crop_flip(x, rng, eighth(size), flip=True, size=size)


def crop_and_alternate(size: Size) -> Augment:
    """Move each image by up to 1/8 of its shorter side, 4 pixels of 32, and mirror it in every other epoch.

    What comes in from beyond an edge mirrors the image there.
    """
    part = transforms.RandomCrop(size, padding=eighth(size), padding_mode="symmetric")
    return transforms.Compose([part, transforms.AlternatingHorizontalFlip()])


def translate(size: Size) -> Augment:
    """Move each image by up to 1/16 of its shorter side, 2 pixels of 32; what comes in mirrors the image."""
    return transforms.RandomCrop(size, padding=max(1, min(size) // 16), padding_mode="reflect")


def translate_and_alternate(size: Size) -> Augment:
    """Move each image by up to 1/16 of its shorter side, and mirror it in every other epoch: airbench94's."""
    return transforms.Compose([translate(size), transforms.AlternatingHorizontalFlip()])


def photos(size: Size, flip: bool = True) -> Augment:
    """Take a part of each image, resized, mirror half of them, and change brightness, contrast and saturation."""
    # What is not mirrored is often text or a sign, of which a small part says little.
    part = transforms.RandomResizedCrop(size, scale=(0.35 if flip else 0.6, 1.0))
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    return transforms.Compose([part, *mirror, transforms.ColorJitter(0.4, 0.4, 0.4)])


def trivial(size: Size, flip: bool = True) -> Augment:
    """Move each image by up to 1/8 of its shorter side, mirror half of them, and change each by TrivialAugmentWide."""
    part = transforms.RandomCrop(size, padding=eighth(size))
    mirror = [transforms.RandomHorizontalFlip()] if flip else []
    return transforms.Compose([part, *mirror, TrivialAugment(upright=not flip)])


def eighth(size: Size) -> int:
    """Return 1/8 of the shorter side, in whole pixels, 1 or more."""
    return max(1, min(size) // 8)


# By name, as users give it: functions of the images' size (H, W). NONE is a name too.
AUGMENTATIONS: dict[str, Callable[[Size], Augment]] = {
    "shift": shift,
    "crop+flip": crop_and_flip,
    "crop+alternate": crop_and_alternate,
    "translate+alternate": translate_and_alternate,
    "crop": crop,
    "photos": photos,
    "trivial": trivial,
}
# Those that mirror images, without that.
WITHOUT_MIRROR: dict[str, Callable[[Size], Augment]] = {
    "crop+flip": crop,
    "crop+alternate": crop,
    "translate+alternate": translate,
    "photos": lambda size: photos(size, flip=False),
    "trivial": lambda size: trivial(size, flip=False),
}


def augmentation(name: str | None, size: tuple[int, int], flip: bool = True) -> Augment | None:
    """Return the augmentation of this name for images of `size` (H, W); None for no name and "none".

    flip: False leaves mirror images out, where they would be of another class. Raises ShapeError that lists the names
    if there is none of this name.
    """
    if name is None or name == NONE:
        return None
    if name not in AUGMENTATIONS:
        known = *AUGMENTATIONS, NONE
        raise ShapeError(f"augmentation {name!r}{meant(name, known)}: choose from {', '.join(known)}")
    return (AUGMENTATIONS[name] if flip else WITHOUT_MIRROR.get(name, AUGMENTATIONS[name]))(size)


def preset(size: tuple[int, int], images: int, flip: bool) -> str:
    """Return the name of the augmentation for so many training images of `size` (H, W).

    flip: False where a mirror image would be of another class. Below 32 pixels images are moved by a few pixels; from
    64 on they are taken for photos; in between they are moved, and changed in all ways where they are few.
    """
    if max(size) < SMALL:
        return "shift"
    if max(size) >= PHOTO:
        return "photos"
    return "trivial" if images < FEW else "crop+flip" if flip else "crop"


def mirrors_keep_class(name: str) -> bool:
    """Return False for data sets of letters, digits or signs, by the words in their names; True for all others.

    "mnist" and "digits" are such names, "fashion-mnist" is none. Of other data only the user knows: `--no-flip`.
    """
    words = set(re.findall("[a-z]+", name.lower()))
    return "fashion" in words or not words & ONE_SIDED


class Steps:
    """Names, transforms and functions that change batches of images one after the other.

    flip: False leaves mirror images out of what names stand for. Raises ShapeError for a name that there is not, and
    ArgumentError for what is neither a transform nor a function of (x, rng).
    """

    def __init__(self, parts: Sequence[Any], flip: bool = True) -> None:
        self.parts, self.flip = list(parts), flip
        for part in self.parts:
            if isinstance(part, str):
                augmentation(part, (8, 8))
            elif not isinstance(part, Transform) and not takes([0, 0], part):
                raise ArgumentError(f"augment holds {shown(part)}; give names and functions (x, rng) -> x")

    def __call__(self, x: Images, rng: Generator, draws: Draws) -> Any:
        """Return images x [n, C, H, W] changed. rng: for functions, of this batch; draws: for transforms, by image."""
        for place, given in enumerate(self.parts):
            # A name stands for a function of the images' size.
            part: Any = augmentation(given, x.shape[2:], self.flip) if isinstance(given, str) else given
            if isinstance(part, Transform):
                x = part.apply(x, draws.fork(place))
            elif part is not None:
                x = part(scaled(x), rng)
        return x


def combined(given: str | Augment | Steps | Sequence[Any] | None, flip: bool = True) -> Steps | None:
    """Return names, transforms and functions, one or a list of them, as Steps; None for None, and for "none" alone.

    Raises as Steps does.
    """
    if given is None or isinstance(given, Steps):
        return given
    parts = [given] if isinstance(given, str) or callable(given) else list(given)
    kept = [part for part in parts if not (isinstance(part, str) and part == NONE)]
    return Steps(kept, flip) if kept else None


def random_crop_flip(x: Floats, rng: Generator, pad: int, flip: bool, size: tuple[int, int] | None = None) -> Floats:
    """Move each image by up to `pad` pixels in both directions, and mirror half of them if `flip`.

    x: [n, C, H, W]. This is a random crop after padding with zeros (black), and a horizontal flip with probability 1/2.
    size: rows and columns of the result, where x has more; those of x if not given.
    """
    if x.ndim != 4 or pad < 0:
        raise ShapeError(
            f"random_crop_flip: images of shape {x.shape} and pad {pad}; [n, C, H, W], and 0 or more pixels"
        )
    n, (rows, columns) = len(x), size or x.shape[2:]
    rows, columns = min(rows, x.shape[2]), min(columns, x.shape[3])
    # How many places there are down and across; equal ones are drawn together.
    places = [x.shape[2] + 2 * pad - rows + 1, x.shape[3] + 2 * pad - columns + 1]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    # [n, C, places down, places across, rows, columns]: all crops of each image, without a copy.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(2, 3))
    # One crop of each image, [n, C, rows, columns].
    high = places[0] if places[0] == places[1] else np.array(places)[:, None]
    down, right = rng.integers(0, high, (2, n))
    moved = windows[np.arange(n), :, down, right]
    if flip:
        mirrored = rng.random(n) < 0.5
        moved[mirrored] = moved[mirrored][..., ::-1]
    return moved
