"""Pillow's part: resizing and geometric changes, image after image. It leaves the GIL to other threads meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foveal.data.statistics import Images
from foveal.data.transforms.transform import Transform
from foveal.errors import DataError, ShapeError
from foveal.kinds import shown
from foveal.strides import Ndarray

# Imported when the first picture is changed, so that `import foveal.data` stays light.
if TYPE_CHECKING:
    from PIL import Image

# What stands for the pixels beyond an image: a number for all channels, one for each, or None for 0.
Fill = float | Sequence[float] | None
# Changes the i-th image, a picture of all or of one of its channels; pixels beyond it get a colour.
Change = Callable[["Image.Image", int, Any], "Image.Image"]

# Pillow's names of them.
INTERPOLATIONS = {
    "nearest": "NEAREST",
    "nearest-exact": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "box": "BOX",
    "hamming": "HAMMING",
    "lanczos": "LANCZOS",
}
# Those that a geometric change takes; the others are filters of resizing.
GEOMETRIC = ("nearest", "bilinear", "bicubic")


def interpolation_of(transform: Transform, name: str, known: Sequence[str] = tuple(INTERPOLATIONS)) -> str:
    """Return the name of an interpolation. Raises ShapeError that lists the names for one that is not known."""
    if name not in known:
        raise ShapeError(f"{type(transform).__name__}: interpolation is {shown(name)}; choose from {', '.join(known)}")
    return name


def resampling(interpolation: str) -> Image.Resampling:
    """Return Pillow's constant of an interpolation."""
    from PIL import Image

    return Image.Resampling[INTERPOLATIONS[interpolation]]


def fill_values(name: str, fill: Fill, channels: int) -> list[float]:
    """Return the value of each channel beyond an image. Raises DataError for another number of them."""
    values = [0.0] if fill is None else [fill] if isinstance(fill, int | float) else list(fill)
    if len(values) not in (1, channels):
        raise DataError(f"{name}: fill holds {len(values)} numbers for images of {channels} channels; give one of each")
    return values * channels if len(values) == 1 else values


def on_pictures(name: str, x: Images, change: Change, fill: Fill = None) -> Images:
    """Return images x [n, C, H, W] changed one by one; of bytes in three channels as one picture, else by channel."""
    from PIL import Image

    values = fill_values(name, fill, x.shape[1])
    if x.dtype == np.uint8 and x.shape[1] == 3:
        # [n, H, W, C]
        rows = np.ascontiguousarray(np.moveaxis(x, 1, 3))
        colour = tuple(round(value) for value in values)
        found = [np.asarray(change(Image.fromarray(row), i, colour)) for i, row in enumerate(rows)]
        return np.ascontiguousarray(np.moveaxis(np.stack(found), 3, 1))
    numbers = [round(value) for value in values] if x.dtype == np.uint8 else values
    planes = [[change(Image.fromarray(plane), i, numbers[c]) for c, plane in enumerate(x[i])] for i in range(len(x))]
    return np.stack([np.stack([np.asarray(plane) for plane in image]) for image in planes])


def resized(name: str, x: Images, size: tuple[int, int], interpolation: str) -> Images:
    """Return images resized to (rows, columns), antialiased."""
    if x.shape[2:] == size:
        return x
    how = resampling(interpolation)
    return on_pictures(name, x, lambda picture, i, colour: picture.resize(size[::-1], how))


def affine_matrices(
    angle: Ndarray, translate: Ndarray, scale: Ndarray, shear: Ndarray, center: Sequence[float]
) -> list[list[float]]:
    """Return for each image the six numbers that take a place (x, y) of the result to that of the image.

    angle [n] in degrees, translate [n, 2] in pixels, scale [n], shear [n, 2] in degrees, center (x, y): where the image
    is turned. The image is scaled, sheared and turned about the centre, then moved: the inverse of
    T(translate) C R(angle) shear scale C^-1.
    """
    turn, (x_shear, y_shear) = np.radians(angle), np.radians(shear).T
    # Rotation times shear, [[a, b], [c, d]]; its determinant is 1.
    a = np.cos(turn - y_shear) / np.cos(y_shear)
    b = -a * np.tan(x_shear) - np.sin(turn)
    c = np.sin(turn - y_shear) / np.cos(y_shear)
    d = -c * np.tan(x_shear) + np.cos(turn)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    x, y = center
    right, down = -x - translate[:, 0], -y - translate[:, 1]
    rows = np.stack([a, b, a * right + b * down + x, c, d, c * right + d * down + y], axis=1)
    return [[float(number) for number in row] for row in rows]


def affine(
    name: str,
    x: Images,
    angle: Ndarray,
    translate: Ndarray,
    scale: Ndarray,
    shear: Ndarray,
    center: Sequence[float] | None,
    interpolation: str,
    fill: Fill,
) -> Images:
    """Return images x [n, C, H, W] scaled, sheared and turned about the centre, then moved (`affine_matrices`)."""
    from PIL.Image import Transform as Kind

    height, width = x.shape[2:]
    matrices = affine_matrices(angle, translate, scale, shear, (width / 2, height / 2) if center is None else center)
    how = resampling(interpolation)

    def change(picture: Image.Image, i: int, colour: Any) -> Image.Image:
        return picture.transform((width, height), Kind.AFFINE, matrices[i], how, fillcolor=colour)

    return on_pictures(name, x, change, fill)


def rotate(
    name: str,
    x: Images,
    angle: Ndarray,
    interpolation: str,
    fill: Fill,
    center: Sequence[float] | None = None,
    expand: bool = False,
) -> Images:
    """Return images turned counter-clockwise by degrees [n]; expand: made large enough to hold all of the image."""
    how, degrees = resampling(interpolation), angle.tolist()
    middle = None if center is None else (center[0], center[1])

    def change(picture: Image.Image, i: int, colour: Any) -> Image.Image:
        return picture.rotate(degrees[i], how, expand, middle, fillcolor=colour)

    return on_pictures(name, x, change, fill)


def perspective(name: str, x: Images, ends: Ndarray, interpolation: str, fill: Fill) -> Images:
    """Return images whose corners are moved to `ends` [n, 4, 2], as (x, y), clockwise from the upper left."""
    from PIL.Image import Transform as Kind

    height, width = x.shape[2:]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    numbers = [perspective_numbers(corners, end) for end in ends]
    how = resampling(interpolation)

    def change(picture: Image.Image, i: int, colour: Any) -> Image.Image:
        return picture.transform((width, height), Kind.PERSPECTIVE, numbers[i], how, fillcolor=colour)

    return on_pictures(name, x, change, fill)


def perspective_numbers(start: Ndarray, end: Ndarray) -> list[float]:
    """Return a .. h of x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1).

    They take the four places `end` [4, 2] of the result to the places `start` [4, 2] of the image.
    """
    equations, values = np.zeros((8, 8)), np.empty(8)
    for i, ((x, y), (u, v)) in enumerate(zip(end, start, strict=True)):
        equations[2 * i] = [x, y, 1, 0, 0, 0, -u * x, -u * y]
        equations[2 * i + 1] = [0, 0, 0, x, y, 1, -v * x, -v * y]
        values[2 * i : 2 * i + 2] = u, v
    # Corners on one line, of an image of one row, have many solutions; the smallest of them is taken.
    # Rounded as torchvision's are, which decides about pixels at an edge.
    return [float(number) for number in np.linalg.lstsq(equations, values, rcond=None)[0].astype(np.float32)]
