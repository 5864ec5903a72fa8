"""What a unit of a layer looks for: the images that activate it most, cut out where it reads them.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4 (figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.explain.asked import KEY, Classes, Floats, Result, images_of, in_rounds, kept, traced
from foveal.explain.cam import called
from foveal.explain.explainer import explain
from foveal.explain.model import Model, modes_restored
from foveal.explain.panels import GREY, Box, Panel, drawn_images, sheet
from foveal.explain.plots import has_places
from foveal.strides import Ndarray
from foveal.trace import Symbol

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class ActivatingImages(Result):
    """The images that activate some units of a layer most, the strongest one first."""

    #: The dotted name of the layer.
    layer: str
    #: int32 [U]: the units, which are channels of the layer.
    unit: Classes
    #: int32 [U, k]: the places of the images among those that were looked at.
    index: Classes
    #: [U, k]: the largest activation of the unit on each of them.
    activation: Floats
    #: int32 [U, k, 2]: row and column of the output where that is; 0 for a layer without rows and columns.
    place: Classes
    #: int32 [U, k, 4]: what that output reads of the image, (top, bottom, left, right), first and last ones included.
    box: Classes
    #: [U, k, C, H, W]: the images, as the network took them.
    image: Floats

    def crops(self, u: int = 0) -> list[Floats]:
        """Return what unit number u of `unit` reads of each of its images, [C, h, w]; smaller ones at the border."""
        boxes = self.box[u].tolist()
        return [
            one[:, top : bottom + 1, left : right + 1]
            for one, (top, bottom, left, right) in zip(self.image[u], boxes, strict=True)
        ]

    def figure(self, pixels: ArrayLike | None = None, crop: bool | None = None) -> Figure:
        """Return a figure with a row for each unit: what it reads of the images that activate it most.

        pixels: [n, C, H, W], all images that were looked at, before they were normalised. crop: True to draw the
        fields alone, False for whole images with the fields framed; the fields where they are smaller than a half of
        the image, if not given.
        """
        H, W = self.image.shape[3:]
        sides = (self.box[..., 1] - self.box[..., 0] + 1) * (self.box[..., 3] - self.box[..., 2] + 1)
        crop = bool(sides.max() <= H * W / 2) if crop is None else crop
        largest = tuple((self.box[..., i + 1] - self.box[..., i] + 1).max() for i in (0, 2))
        rows = []
        for u, unit in enumerate(self.unit):
            shown = drawn_images(self.image[u], None if pixels is None else np.asarray(pixels)[self.index[u]])
            row = []
            for i, picture in enumerate(shown):
                top, bottom, left, right = self.box[u, i].tolist()
                title = f"{'unit ' + str(unit) + ': ' if i == 0 else ''}{self.activation[u, i]:.3g}"
                if crop:
                    row.append(Panel(cut(picture, (top, bottom, left, right), largest), title))
                else:
                    row.append(Panel(picture, title).framed((top, bottom, left, right)))
            rows.append(row)
        return sheet(rows, f"What activates {self.layer} most")


def cut(picture: Ndarray, box: Box, size: Sequence[int]) -> Ndarray:
    """Return what lies in a box of a picture [H, W, 3], with grey where the field goes on beyond the image."""
    top, bottom, left, right = box
    inside = picture[top : bottom + 1, left : right + 1]
    lacks = [whole - part for whole, part in zip(size, inside.shape[:2], strict=True)]
    # A field that is cut off reaches beyond the side at which it begins or ends.
    sides = [(lack, 0) if first == 0 else (0, lack) for lack, first in zip(lacks, (top, left), strict=True)]
    return np.pad(inside, (*sides, (0, 0)), constant_values=GREY)


def activating_images(
    net: Model, images: ArrayLike, layer: str, unit: int | Sequence[int] | None = None, count: int = 9
) -> ActivatingImages:
    """Return the images on which a unit of a layer is activated most, and where.

        found = explain.activating_images(net, images, "conv2", unit=5)
        found.crops()  # what the unit reads of each of the 9

    A unit is a channel k of the layer's outputs A [N, K, P, Q], as it returns them, or one number of outputs [N, K].
    Images are ranked by max_{p,q} A[n,k,p,q], each one once; of equal ones the first comes first. images: [n, C, H, W],
    normalised as the network takes them, of which `count` are returned. unit: one, or several; all of the layer if not
    given. The box is the receptive field of the output where the maximum is, as far as it lies in the image. Raises
    ShapeError for a layer or a unit that there is not.
    """
    batch = images_of("activating_images", images)
    if count < 1:
        raise ShapeError(f"activating_images: count is {count}, it has to be 1 or more")

    def function(x: Symbol, key: Symbol) -> Any:
        _, call = traced(net, x, key)
        return called(net, call, layer, "activating_images")

    with modes_restored(net):
        net.eval()
        program = kept(net, ("output", layer), function)

        def largest(x: Ndarray) -> list[Ndarray]:
            """Return the largest activation of each channel, [N, K], and where it is, [N, K]."""
            A = np.asarray(program(x, KEY))
            if A.ndim not in (2, 4):
                raise ShapeError(
                    f"activating_images: {layer} returns {list(A.shape)}; choose a layer of [N, K, P, Q] or [N, K]"
                )
            flat = A.reshape(*A.shape[:2], -1)
            return [flat.max(2), flat.argmax(2)]

        values, places = in_rounds(largest, batch)
    K = values.shape[1]
    units = list(range(K)) if unit is None else [unit] if isinstance(unit, int) else list(unit)
    if not units or not all(0 <= k < K for k in units):
        raise ShapeError(f"activating_images: unit is {unit}, and {layer} has {K} of them, 0 to {K - 1}")
    # [U, k]: NaN, which no activation should be, comes last.
    index = np.stack([np.argsort(-values[:, k], kind="stable")[:count] for k in units]).astype(np.int32)
    at = np.stack([places[rows, k] for rows, k in zip(index, units, strict=True)])
    row = explain(net, batch.shape[1:], memory=False).row(layer)
    Q = row.shape[3] if len(row.shape) == 4 else 1
    place = np.stack([at // Q, at % Q], -1).astype(np.int32)
    box = np.array([[box_of(row, tuple(one)) for one in line] for line in place.tolist()], np.int32)
    return ActivatingImages(
        layer=layer,
        unit=np.array(units, np.int32),
        index=index,
        activation=np.stack([values[rows, k] for rows, k in zip(index, units, strict=True)]),
        place=place,
        box=box,
        image=batch[index],
    )


def box_of(row: Any, place: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the first and last row and column of the image that the output at a place reads."""
    found: list[int] = []
    for extent, position in zip(row.field, place, strict=True):
        read = extent.reads(position if has_places(row) else 0)
        # An output of padding alone reads nothing; it lies at the border.
        found += [read[0], read[-1]] if read else [0, 0]
    return cast(tuple[int, int, int, int], tuple(found))
