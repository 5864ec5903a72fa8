"""Dataset: images and labels in memory, and `from_arrays`, which checks four arrays and makes one of them.

Images of bytes stay bytes, a quarter of the memory of floats; the loader scales them batch by batch (`scaled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from foveal.data.classes import name_classes
from foveal.data.statistics import Floats, Images, channel_statistics, scaled
from foveal.display import table
from foveal.errors import ArgumentError, DataError
from foveal.strides import Ndarray

if TYPE_CHECKING:
    from foveal.data.decoding.preprocessing import Preprocessing

    # An array, or what is read like one (ImageArray), which a check of a call would decode.
    Stored: TypeAlias = Images

Labels = NDArray[np.int64]

__all__ = ["PARTS", "UNIT", "Dataset", "Floats", "Images", "Labels", "from_arrays"]

PARTS = ("x_train", "y_train", "x_test", "y_test")
# The range of pixel values that images of bytes have after division by 255.
UNIT = (0.0, 1.0)
# Pixels whose range is so many times as wide as another one's are scaled otherwise: 0 to 255 and -1 to 1, say.
OTHER_SCALE = 8
# Classes that a notebook lists.
SHOWN_CLASSES = 20
# An image file in which no byte reaches this is black to the eye: such bytes count something else than brightness from
# 0 to 255, and a network that was trained on them knows no image files.
_DIM = 32


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels for training and testing."""

    name: str
    # Images [n, C, H, W] as they are stored: uint8, which stand for value / 255, or float32, which are used as they
    # are; both parts alike.
    images_train: Stored
    images_test: Stored
    # Labels [n]: class numbers 0 .. K-1.
    y_train: Labels
    y_test: Labels
    # The names of the K classes.
    classes: tuple[str, ...]
    # Mean and standard deviation of x_train per channel; a constant channel has the deviation 1.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    # The lowest and the highest value of a pixel; (0, 1) unless there are floats beyond that, or bytes that are all
    # very small: both are scaled otherwise than image files.
    value_range: tuple[float, float]
    # Images and labels by which epochs are compared, none of which is in another part; None where there are none.
    images_validation: Stored | None = None
    y_validation: Labels | None = None
    # The path of each image, by part ("train", "validation", "test"), in the order of its arrays; None for arrays.
    files: dict[str, list[str]] | None = None
    # How the image files were read; None for arrays.
    preprocessing: Preprocessing | None = None
    # The folder that the paths of the files lie below; None where it is not known.
    folder: str | None = None

    def __new__(cls, *fields: object, **named: object) -> Self:
        """Raise ArgumentError for what is no field, but sounds like one."""
        if wrong := [name for name in ("x_train", "x_test") if name in named]:
            raise ArgumentError(
                f"Dataset: the images have the fields images_train and images_test, {wrong[0]} is made of them;"
                " data.from_arrays(name, x_train, y_train, x_test, y_test) makes a Dataset of four arrays"
            )
        return super().__new__(cls)

    @cached_property
    def x_train(self) -> Floats:
        """The training images as floats: bytes divided by 255, digits divided by 16, floats as they were.

        Of bytes this is another array, of four times their size, which is made and kept when it is first asked for.
        `Loader` and the functions of `train` take `images_train` and need no such array.
        """
        return scaled(self.images_train)

    @cached_property
    def x_test(self) -> Floats:
        """The test images as floats, as `x_train`."""
        return scaled(self.images_test)

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return int(self.images_train.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images that a network takes.

        Training images may be larger, so that random crops have something to cut from.
        """
        return int(self.images_test.shape[2]), int(self.images_test.shape[3])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.images_train.shape[1:]))
        held_out = "" if self.images_validation is None else f", {len(self.images_validation)} validation"
        return (
            f"{self.name}: {len(self.images_train)} training{held_out} and {len(self.images_test)} test images, "
            f"{shape}, {len(self.classes)} classes"
        )

    def _repr_html_(self) -> str:
        counts = [np.bincount(y, minlength=len(self.classes)) for y in (self.y_train, self.y_test)]
        rows = [(name, f"{a:,}", f"{b:,}") for name, a, b in zip(self.classes, *counts, strict=True)]
        more = f"and {len(rows) - SHOWN_CLASSES} more classes" if len(rows) > SHOWN_CLASSES else ""
        low, high = self.value_range
        kind = f"{self.images_train.dtype} images, pixels from {low:g} to {high:g}"
        return table(("class", "training", "test"), rows[:SHOWN_CLASSES], repr(self), [more, kind])


def from_arrays(
    name: str,
    x_train: Ndarray,
    y_train: Ndarray,
    x_test: Ndarray,
    y_test: Ndarray,
    *,
    classes: Sequence[str] | None = None,
    sources: Sequence[str] = PARTS,
) -> Dataset:
    """Check four arrays and make a Dataset of them.

    x_train, x_test: images as uint8, which stay bytes and stand for value / 255, or as floats, which are kept as
    float32. All have one size and the shape [n, H, W], [n, C, H, W] or [n, H, W, C] with 1 or 3 channels C. Of four
    axes the second is C if it is 1 or 3 and the last is not, and the other way round; other shapes are ambiguous and
    refused. y_train, y_test: labels [n] of any integer dtype. classes: names of all classes, each once; labels then
    count from 0. Without them there is a class for each number from the lowest label to the highest training label, and
    its name is that number: labels 1 to 4 make the classes "1" to "4". sources: where each of the four arrays comes
    from, for messages. Arrays that need no change are not copied. Raises DataError.
    """
    if len(sources) != len(PARTS):
        raise DataError(f"from_arrays: {len(sources)} sources; give one for each array, in the order of {PARTS}")
    of_x_train, of_y_train, of_x_test, of_y_test = sources
    # Images as uint8 or float32 [n, C, H, W].
    train = _images(np.asarray(x_train), of_x_train)
    test = _images(np.asarray(x_test), of_x_test)
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{of_x_train} holds images of {_size(train)}, {of_x_test} of {_size(test)}: "
            "all images of a data set must have one size"
        )
    if train.dtype != test.dtype:
        raise DataError(
            f"{of_x_train} is {np.asarray(x_train).dtype}, {of_x_test} is {np.asarray(x_test).dtype}: bytes are divided"
            " by 255 and floats are not, so store both parts alike"
        )
    # Labels are checked against the images, then against the classes.
    y_train = _labels(np.asarray(y_train), of_y_train, len(train), of_x_train)
    y_test = _labels(np.asarray(y_test), of_y_test, len(test), of_x_test)
    first, names = name_classes(y_train, y_test, of_y_train, classes)
    numbers = [
        _class_numbers(labels, source, first, len(names))
        for labels, source in ((y_train, of_y_train), (y_test, of_y_test))
    ]
    _check_scales(train, test, of_x_train, of_x_test)
    # Normalisation uses the training images alone.
    mean, std = channel_statistics(train)
    return Dataset(
        name=name,
        images_train=train,
        images_test=test,
        y_train=numbers[0],
        y_test=numbers[1],
        classes=names,
        mean=mean,
        std=std,
        value_range=value_range(train),
    )


def _images(x: Ndarray, source: str) -> Images:
    """Images as C-contiguous uint8 or float32 [n, C, H, W], checked for NaN and infinity."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(
            f"{source}: images are {x.dtype}; store uint8 (0 to 255) or floats (such as x.astype(np.float32))"
        )
    if x.ndim not in (3, 4):
        raise DataError(
            f"{source}: images have shape {list(x.shape)}; "
            "[n, H, W], [n, C, H, W] or [n, H, W, C] with C 1 or 3 is needed"
        )
    if x.size == 0:
        raise DataError(f"{source}: no images (shape {list(x.shape)}); at least one is needed")
    channels_first = _channels_first(x, source)
    if x.dtype == np.uint8:
        return np.ascontiguousarray(channels_first)
    # A number beyond float32 becomes infinite, which is reported.
    with np.errstate(over="ignore", invalid="ignore"):
        floats = np.ascontiguousarray(channels_first, dtype=np.float32)
    # Minimum and maximum are NaN if any element is.
    if not (np.isfinite(floats.min()) and np.isfinite(floats.max())):
        _refuse_not_finite(x, source)
    return floats


def _channels_first(x: Ndarray, source: str) -> Ndarray:
    """Images [n, H, W], [n, C, H, W] or [n, H, W, C] as a view [n, C, H, W]."""
    if x.ndim == 3:
        return x[:, None]
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        which = "both the second and the last axis" if first else "neither the second nor the last"
        raise DataError(
            f"{source}: images have shape {list(x.shape)}, and {which} can be the channels "
            "(1 or 3); give [n, H, W] for grey or [n, C, H, W] for colour"
        )
    return x if first else np.moveaxis(x, 3, 1)


def _refuse_not_finite(x: Ndarray, source: str) -> None:
    """Raise DataError about the first NaN or infinity in images as they were given."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = x.astype(np.float32)
    index = np.argwhere(~np.isfinite(x))[0].tolist()
    raise DataError(
        f"{source}: {x[tuple(index)]} at {index} (the first of {int((~np.isfinite(x)).sum())}); "
        "as float32 every pixel must be finite: repair or leave out those images"
    )


def _labels(y: Ndarray, source: str, count: int, images: str) -> Ndarray:
    """y [n], after checking that it holds one integer for each of the `count` images."""
    if y.ndim != 1:
        raise DataError(
            f"{source}: labels have shape {list(y.shape)}; [n], one class number per image, is "
            "needed (of one-hot rows take argmax(1))"
        )
    if y.dtype.kind not in "iu":
        raise DataError(f"{source}: labels are {y.dtype}; class numbers must be integers (such as y.astype(np.int64))")
    if len(y) != count:
        raise DataError(f"{source} holds {len(y)} labels, {images} {count} images: one label per image is needed")
    # As uint64 the array may hold numbers that no int64 can.
    if y.max() > np.iinfo(np.int64).max:
        raise DataError(f"{source}: label {y.max()} at index {y.argmax()} is too large; number the classes from 0")
    return y


def _class_numbers(y: Ndarray, source: str, first: int, count: int) -> Labels:
    """Labels from `first` on as class numbers from 0 to count - 1; raise DataError at the first label outside."""
    wrong = np.flatnonzero((y < first) | (y >= first + count))
    if len(wrong):
        raise DataError(
            f"{source}: label {y[wrong[0]]} at index {wrong[0]} is outside {first} to {first + count - 1} "
            f"({count} classes); {len(wrong)} such labels"
        )
    return y.astype(np.int64) - first


def value_range(x: Images) -> tuple[float, float]:
    """Return the range of the pixel values as floats: UNIT for bytes, and for floats that lie within it.

    Bytes that are all below _DIM, such as masks of 0 and 1, have a range of their own.
    """
    low, high = float(x.min()), float(x.max())
    if x.dtype == np.uint8:
        return range_of_bytes(high)
    return UNIT if low >= 0 and high <= 1 else (low, high)


def range_of_bytes(high: float) -> tuple[float, float]:
    """Return the range of bytes whose highest is `high`, as `value_range`."""
    return UNIT if high >= _DIM or high == 0 else (0.0, high / 255)


def other_scale(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Return True for ranges of pixels one of which is so much wider that its pixels are scaled otherwise."""
    spans = [high - low for low, high in (a, b)]
    return max(spans) > OTHER_SCALE * min(spans)


def _check_scales(train: Images, test: Images, of_train: str, of_test: str) -> None:
    """Raise DataError where both parts are scaled otherwise. Small bytes may be dark images, one value says nothing."""
    ranges = value_range(train), value_range(test)
    differ = other_scale(*ranges) and (train.dtype != np.uint8 or ranges[1] == UNIT)
    if differ and all(x.min() != x.max() for x in (train, test)):
        (low, high), (test_low, test_high) = ranges
        raise DataError(
            f"{of_train} holds pixels from {low:g} to {high:g}, {of_test} from {test_low:g} to {test_high:g}:"
            " scale them alike"
        )


def _size(x: Images) -> str:
    """The shape of one image, such as 3x32x32."""
    return "x".join(map(str, x.shape[1:]))
