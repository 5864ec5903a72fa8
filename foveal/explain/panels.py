"""Sheets of pictures: what views of a network are drawn as, one picture beside the other, a row for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.plotting import COLOURS, blank, literal
from foveal.strides import Ndarray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches of a picture's height, less where a row would be wider than WIDE, and of its title and the space about it.
TALL, WIDE, ROOM = 2.1, 10.0, 0.45
# How much of an image is seen below a map, in grey.
BELOW = 0.45
# Signed values are drawn up to this percentile of their magnitudes: a few pixels are far beyond the others.
PERCENTILE = 99.5
# What is left of the contrast of pixels that are not read, and the grey that they come near to.
CONTRAST, GREY = 0.25, 0.5

# From the first to the last row and column, both included: (top, bottom, left, right).
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """A picture with its title."""

    #: [H, W, 3], or [H, W] in the colours of a Matplotlib's map, from `low` to `high`.
    picture: Ndarray
    title: str = ""
    colours: str = "gray"
    low: float | None = None
    high: float | None = None
    #: Frames on the picture, with the number of their colour, and whether their lines are broken.
    frames: tuple[tuple[Box, int, bool], ...] = ()
    #: True for a scale of the colours beside the picture.
    scale: bool = False

    def framed(self, box: Box, colour: int = 1, broken: bool = False) -> Panel:
        """Return the same with one more frame."""
        return replace(self, frames=(*self.frames, (box, colour, broken)))


def sheet(rows: Sequence[Sequence[Panel]], title: str = "") -> Figure:
    """Return a figure of pictures in rows."""
    columns = max(map(len, rows))
    H, W = rows[0][0].picture.shape[:2]
    ratio = min(max(W / H, 0.5), 2.0)
    tall = min(TALL, WIDE / (columns * ratio))
    wide = tall * ratio
    scales = 0.5 * max(sum(panel.scale for panel in row) for row in rows)
    figure = blank(max(3.2, columns * (wide + 0.15) + scales), len(rows) * (tall + ROOM) + 0.3 * bool(title), title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, line in zip(axes, rows, strict=True):
        for axis in row:
            axis.set_axis_off()
        for axis, panel in zip(row, line, strict=False):
            drawn = axis.imshow(
                panel.picture, cmap=panel.colours, vmin=panel.low, vmax=panel.high, interpolation="nearest"
            )
            for box, colour, broken in panel.frames:
                frame(axis, box, colour, broken)
            axis.set_title(literal(panel.title), fontsize=9)
            if panel.scale:
                figure.colorbar(drawn, ax=axis, shrink=0.8)
    return figure


def frame(axis: object, box: Box, colour: int = 1, broken: bool = False) -> None:
    """Draw a frame from the first to the last row and column of a box, both included."""
    from matplotlib.patches import Rectangle

    top, bottom, left, right = box
    shown = Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False)
    shown.set(edgecolor=COLOURS[colour], linewidth=2, linestyle="--" if broken else "-")
    axis.add_patch(shown)  # type: ignore[attr-defined]


def in_colour(pixels: Ndarray) -> Ndarray:
    """Return an image [C, H, W] as [H, W, 3] with values from 0 to 1, from its lowest to its highest."""
    shown = pixels if len(pixels) == 3 else pixels.mean(0, keepdims=True).repeat(3, 0)
    low, high = float(shown.min()), float(shown.max())
    return ((shown - low) / (high - low or 1.0)).transpose(1, 2, 0).astype(np.float64)


def drawn_images(image: Ndarray, pixels: ArrayLike | None) -> list[Ndarray]:
    """Return images [N, C, H, W] in colour, [H, W, 3] each. pixels: as they were before they were normalised.

    Raises ShapeError for pixels of other sizes than the images.
    """
    if pixels is None:
        return [in_colour(one) for one in image]
    shown = np.asarray(pixels, np.float64)
    shown = shown[None] if shown.ndim == 3 else shown
    if shown.ndim != 4 or len(shown) != len(image) or shown.shape[2:] != image.shape[2:]:
        raise ShapeError(
            f"figure: pixels have shape {np.shape(pixels)}, and the images {image.shape}; give [N, C, H, W] of the same"
            " images before they were normalised"
        )
    return [in_colour(one) for one in shown]


def over(picture: Ndarray, heat: Ndarray) -> Ndarray:
    """Return a map [H, W] from 0 to 1, in colours, over a picture [H, W, 3] in grey."""
    import matplotlib

    grey = picture.mean(2, keepdims=True)
    colours: Ndarray = matplotlib.colormaps["inferno"](np.clip(heat, 0, 1))[..., :3]
    return BELOW * grey + (1 - BELOW) * colours


def faded(picture: Ndarray, mask: Ndarray) -> Ndarray:
    """Return a picture [H, W, 3] that is nearly grey outside of a mask [H, W]."""
    return np.where(mask[..., None], picture, GREY + CONTRAST * (picture - 0.5))


def signed(values: Ndarray, title: str = "") -> Panel:
    """Return the picture of values [C, H, W], summed over channels: blue below zero, red above."""
    total = values.sum(0, dtype=np.float64)
    limit = float(np.percentile(np.abs(total), PERCENTILE)) or float(np.abs(total).max()) or 1.0
    return Panel(total, title, "RdBu_r", -limit, limit)


def about_grey(values: Ndarray, title: str = "") -> Panel:
    """Return the picture of values [C, H, W] as an image, in which zero is a middle grey."""
    limit = float(np.percentile(np.abs(values), PERCENTILE)) or float(np.abs(values).max()) or 1.0
    shown = values if len(values) == 3 else values.mean(0, keepdims=True).repeat(3, 0)
    return Panel(np.clip(0.5 + shown / (2 * limit), 0, 1).transpose(1, 2, 0).astype(np.float64), title)
