"""Receptive fields on a photo: what an output can read, how much it does, and what is never read by any output.

The effective field is that of Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal import ops
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.explain.asked import KEY, Floats, Result, images_of, in_rounds, kept, traced
from foveal.explain.cam import looked_at
from foveal.explain.explainer import explain
from foveal.explain.model import Model, modes_restored
from foveal.explain.panels import Box, Panel, drawn_images, faded, over, sheet
from foveal.explain.plots import drawn_row, placed
from foveal.explain.windows import ranges
from foveal.trace import Symbol, current

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A pixel belongs to the effective field if it has more than this share of the largest gradient: what two standard
# deviations of a Gaussian leave outside (section 4.1).
SHARE = 1 - 0.9545


@dataclass(frozen=True, eq=False, repr=False)
class ReceptiveField(Result):
    """What one output of a layer can read of the image, and how much each pixel moves it."""

    #: The dotted name of the layer; row and column of the output.
    layer: str
    at: tuple[int, int]
    #: [1, C, H, W]: the first image, as the network took it.
    image: Floats
    #: bool [H, W]: the theoretical field, the pixels that the output reads.
    mask: NDArray[np.bool_]
    #: [H, W]: the mean magnitude of the gradient in each pixel, as a share of the largest one; 0 if all are 0.
    effective: Floats

    @property
    def box(self) -> Box:
        """The first and last row and column of the theoretical field in the image: (top, bottom, left, right)."""
        return around(self.mask)

    @property
    def effective_box(self) -> Box:
        """The same of the pixels of the effective field."""
        return around(self.effective > SHARE)

    @property
    def effective_size(self) -> float:
        """The side of a square of as many pixels as the effective field has."""
        return sqrt(int((self.effective > SHARE).sum()))

    def figure(self, pixels: ArrayLike | None = None) -> Figure:
        """Return a figure of both fields on the image. pixels: [1, C, H, W], the image before it was normalised."""
        return sheet([self.panels(pixels)], f"Output {self.at} of {self.layer}")

    def panels(self, pixels: ArrayLike | None = None) -> list[Panel]:
        """Return the two pictures: the theoretical field, and the effective one with both framed."""
        (picture,) = drawn_images(self.image, pixels)
        top, bottom, left, right = self.box
        size = f"{bottom - top + 1}x{right - left + 1}"
        theory = Panel(faded(picture, self.mask), f"reads {size} of {'x'.join(map(str, self.mask.shape))}")
        # The root lets small gradients be seen.
        heat = Panel(over(picture, np.sqrt(self.effective)), f"effective: a square of side {self.effective_size:.1f}")
        return [theory.framed(self.box), heat.framed(self.box).framed(self.effective_box, 5, broken=True)]


@dataclass(frozen=True, eq=False, repr=False)
class Coverage(Result):
    """How many outputs of a layer read each pixel, and which pixels none of them does."""

    #: The dotted name of the layer, up to whose outputs it is counted.
    layer: str
    #: [1, C, H, W]: the image, as the network took it.
    image: Floats
    #: int64 [H, W]: the number of the layer's outputs, of P x Q, that read each pixel.
    count: NDArray[np.int64]
    #: bool [H, W]: True where no output does.
    unread: NDArray[np.bool_]
    #: A line for each layer that leaves rows or columns of its own input unread, with a change after which it does not.
    notes: tuple[str, ...]

    def figure(self, pixels: ArrayLike | None = None) -> Figure:
        """Return a figure of the pixels that are never read, and of the counts. pixels: before they were normalised."""
        return sheet([self.panels(pixels)], f"What outputs of {self.layer} read")

    def panels(self, pixels: ArrayLike | None = None) -> list[Panel]:
        """Return the two pictures: the image without what is never read, which is red, and the counts."""
        (picture,) = drawn_images(self.image, pixels)
        shown = faded(picture, ~self.unread)
        shown[self.unread] = 0.5 * shown[self.unread] + 0.5 * np.array([1.0, 0.0, 0.0])
        share = f"{self.unread.sum():,} of {self.unread.size:,} pixels are never read"
        return [Panel(shown, share), Panel(self.count, "outputs that read it", "viridis", 0, None, scale=True)]

    def __str__(self) -> str:
        text = f"{self.unread.sum():,} of {self.unread.size:,} pixels are read by no output of {self.layer}"
        return "\n".join([text, *self.notes])


def receptive_field(
    net: Model, image: ArrayLike, layer: str | None = None, at: Sequence[int] | None = None, unit: int | None = None
) -> ReceptiveField:
    """Return what one output of a layer can read, and its effective receptive field on the given images.

        found = explain.receptive_field(net, image, "layer3")
        found.effective_size  # far less than the side of the theoretical field

    The theoretical field is that of `net.summary(...).row(layer).field`. The effective one is the mean over images and
    channels of |d y / d x[c,h,w]|, where y is the sum over the channels of the outputs at the place (Luo et al. 2016,
    section 2); a pixel belongs to it if it has more than 4.55 % of the largest value.

    net: any network on images; it computes in evaluation mode. image: [C, H, W], or a batch [N, C, H, W] of which the
    mean is taken, normalised. layer: the dotted name; the last one whose outputs have rows and columns if not given.
    at: (row, column) of the output; the middle if not given. unit: the channel y alone; all if not given. Raises
    ShapeError for what there is not.
    """
    batch = images_of("receptive_field", image)
    row = drawn_row(explain(net, batch.shape[1:], memory=False), layer, "receptive_field")
    place = placed(row, at, "receptive_field")
    K = row.shape[1]
    if unit is not None and not 0 <= unit < K:
        raise ShapeError(f"receptive_field: unit is {unit}, and {row.name} has {K} of them, 0 to {K - 1}")
    read = [extent.reads(i) for extent, i in zip(row.field, place, strict=True)]
    mask = np.zeros(batch.shape[2:], bool)
    mask[np.ix_(*read)] = True
    # [N, K, P, Q]: 1 for the outputs whose sum is y.
    chosen = np.zeros((len(batch), *row.shape[1:]), np.float32)
    chosen[:, slice(None) if unit is None else unit, place[0], place[1]] = 1

    def function(x: Symbol, weight: Symbol, key: Symbol) -> Any:
        _, call = traced(net, x, key)
        y = ops.sum(looked_at(net, call, row.name, "receptive_field") * weight)
        return gradients(current().lift(y), [x])

    with modes_restored(net):
        net.eval()
        program = kept(net, ("field", row.name), function)
        (slopes,) = in_rounds(lambda x, weight: program(x, weight, KEY), batch, chosen)
    # Outside of the theoretical field, where kernels that transform tiles leave rounding errors, the gradient is 0.
    mean = np.where(mask, np.abs(slopes).mean((0, 1), dtype=np.float64), 0.0)
    largest = float(mean.max())
    return ReceptiveField(row.name, place, batch[:1], mask, (mean / (largest or 1.0)).astype(np.float32))


def coverage(net: Model, image: ArrayLike, layer: str | None = None) -> Coverage:
    """Return how many outputs of a layer read each pixel of an image, and which pixels are never read.

        print(explain.coverage(net, image))  # a line for each layer that leaves something out

    Where a stride is larger than the window, or the last window ends before the image does, pixels are left that no
    output reads; the network is blind to them. net, image, layer: as `receptive_field` takes them; of a batch the first
    image is drawn. Counts are products of those of rows and columns, which is exact for networks without branches.
    Raises ShapeError for a layer that there is not.
    """
    batch = images_of("coverage", image)[:1]
    summary = explain(net, batch.shape[1:], memory=False)
    row = drawn_row(summary, layer, "coverage")
    # How many rows of outputs read each row of the image, and the same of columns.
    rows, columns = (
        np.array([sum(mask >> i & 1 for mask in extent.masks) for i in range(extent.image)]) for extent in row.field
    )
    count = np.outer(rows, columns)
    notes = []
    for one in summary.rows:
        for lost in one.unread:
            axes = [
                f"{axis} {ranges(positions)}"
                for axis, positions in zip(("rows", "columns"), lost.positions, strict=True)
                if positions
            ]
            fix = f"; {lost.fixes[0].text} reads all" if lost.fixes else ""
            elsewhere = ", which another layer reads" if lost.elsewhere else ""
            notes.append(f"{one.name or one.kind} never reads {' and '.join(axes)} of its input{elsewhere}{fix}")
    return Coverage(row.name, batch, count, count == 0, tuple(notes))


def around(mask: NDArray[np.bool_]) -> Box:
    """Return the first and last row and column of a mask, (top, bottom, left, right); all 0 of an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])) if len(rows) else (0, 0, 0, 0)
