"""The picture of a receptive field, drawn on the image that the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.explain.explainer import explain
from foveal.explain.model import Model
from foveal.explain.panels import faded, frame, in_colour
from foveal.explain.rows import Extent, Row
from foveal.explain.summary import Summary
from foveal.plotting import blank, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_receptive_field(
    net: Model, image: ArrayLike, layer: str | None = None, at: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Return a figure of an image with what one output of a layer reads of it: the rest is grey.

    image: [C, H, W], or a batch [1, C, H, W], or grey [H, W], C being 1 or 3 for a picture in colour; of other images
    the mean over channels is drawn. layer: the layer's dotted name; the last one whose outputs have rows and columns if
    not given. at: (row, column) of the output; the middle if not given. The pixels are exactly those of
    `net.summary(...).row(layer).field`: padding, strides that skip pixels and dilation leave holes. A frame goes from
    the first to the last of them; where the field goes beyond the image, the title says its whole size. Raises
    ShapeError for a layer or a position that there is not, PackageError without Matplotlib.

        explain.plot_receptive_field(net, image, layer="features.6", at=(3, 4)).savefig("field.png")
    """
    pixels = np.asarray(image, np.float32)
    pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise ShapeError(f"plot_receptive_field: the image has shape {np.shape(image)}; give one image [C, H, W]")
    summary = explain(net, pixels.shape, memory=False)
    row = drawn_row(summary, layer)
    rows, columns = row.field
    place = placed(row, at, "plot_receptive_field")
    read = rows.reads(place[0]), columns.reads(place[1])
    # [H, W]: what is read, of the image in colour [H, W, 3].
    mask = np.zeros(pixels.shape[1:], bool)
    mask[np.ix_(*read)] = True
    colours = faded(in_colour(pixels), mask)
    H, W = mask.shape
    figure = blank(4.6 * max(0.6, min(W / H, 2.0)) + 0.8, 5.2)
    axis = figure.subplots()
    axis.imshow(colours, interpolation="nearest")
    if read[0] and read[1]:
        frame(axis, (read[0][0], read[0][-1], read[1][0], read[1][-1]))
    axis.set(xlabel="column", ylabel="row")
    sizes = "x".join(size_of(extent) for extent in (rows, columns))
    inside = f"{len(read[0])}x{len(read[1])} of {H}x{W} pixels"
    text = f"{row.name} {row.kind}, output ({place[0]}, {place[1]})\nreads {inside}; its field is {sizes}"
    axis.set_title(short(title, 90) if title else text.replace("$", r"\$"), fontsize=10)
    return figure


def placed(row: Row, at: Sequence[int] | None, call: str) -> tuple[int, int]:
    """Return row and column of the output that is meant, the middle if none is named."""
    P, Q = row.shape[-2:]
    place = (P // 2, Q // 2) if at is None else tuple(at)
    if len(place) != 2 or not all(0 <= i < n for i, n in zip(place, (P, Q), strict=True)):
        raise ShapeError(
            f"{call}: at is {place}, and {row.name} has {P}x{Q} outputs: rows 0 to {P - 1}, columns 0 to {Q - 1}"
        )
    return place


def drawn_row(summary: Summary, layer: str | None, call: str = "plot_receptive_field") -> Row:
    """Return the row of the layer that is meant."""
    if layer is not None:
        row = summary.row(layer)
        if not has_places(row):
            raise ShapeError(
                f"{call}: an output of {layer} reads all of the image, or nothing of it by rows and"
                f" columns; its shape is {row.shape}. Choose a layer before the image is flattened or averaged"
            )
        return row
    places = [row for row in summary.rows if row.name and not row.holds and has_places(row)]
    if not places:
        raise ShapeError(f"{call}: no layer of {summary.model} has outputs with rows and columns")
    last = places[-1]
    # A block with branches reads more than the layer in it that is called last, such as its shortcut.
    blocks = [
        row
        for row in summary.rows
        if last.name.startswith(f"{row.name}.") and row.shape == last.shape and has_places(row)
    ]
    return blocks[-1] if blocks and blocks[-1].field != last.field else last


def has_places(row: Row) -> bool:
    """Return True if outputs of the layer lie in rows and columns of the image."""
    return len(row.shape) == 4 and len(row.field) == 2 and all(extent.per_position for extent in row.field)


def size_of(extent: Extent) -> str:
    """Return the size of a field, padding included, as text."""
    return str(extent.size) if extent.line is not None else f"at most {extent.size}"
