"""Occlusion: how much less sure a network is of a class where a part of the image is covered.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.explain.asked import Classes, Floats, Result, chosen_classes, images_of, logits
from foveal.explain.model import Model, modes_restored
from foveal.explain.panels import Panel, drawn_images, sheet
from foveal.strides import Ndarray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A patch covers this part of the shorter side if no size is given, and so many pixels at least.
SHARE, LEAST = 6, 2


@dataclass(frozen=True, eq=False, repr=False)
class Occlusion(Result):
    """What covering parts of some images does to the probability of a class."""

    #: [N, C, H, W]: the images, as the network took them.
    image: Floats
    #: int32 [N]: the classes.
    target: Classes
    #: [N]: the probability of the class of each image as it is.
    probability: Floats
    #: [N, P, Q]: the same with the patch at each of its places.
    occluded: Floats
    #: int32 [P] and [Q]: the first row and the first column that the patch covers there.
    rows: Classes
    columns: Classes
    #: [N, H, W]: the mean drop of the probability over all patches that cover a pixel; below 0 where it rises.
    heat: Floats
    #: Rows and columns of the patch, [2].
    size: Classes

    def figure(self, pixels: ArrayLike | None = None, names: Sequence[str] | None = None) -> Figure:
        """Return a figure with a row for each image: itself, and how much each pixel matters, red where it is needed.

        pixels: [N, C, H, W], the images before they were normalised. names: of the classes of the network.
        """
        rows = []
        for i, picture in enumerate(drawn_images(self.image, pixels)):
            k = int(self.target[i])
            named = f"class {k}" if names is None else str(names[k])
            rows.append([Panel(picture, f"{named}: {self.probability[i]:.0%}"), self.panel(i)])
        return sheet(rows, f"Occlusion by patches of {self.size[0]}x{self.size[1]}")

    def panel(self, i: int, title: str = "drop of the probability") -> Panel:
        """Return the picture of the map of image i."""
        limit = float(np.abs(self.heat[i]).max()) or 1.0
        return Panel(self.heat[i], title, "RdBu_r", -limit, limit, scale=True)


def occlusion(
    net: Model,
    image: ArrayLike,
    target: ArrayLike | None = None,
    size: int | Sequence[int] | None = None,
    stride: int | None = None,
    fill: float = 0.0,
) -> Occlusion:
    """Return how the probability of a class drops when a patch covers a part of the image, for all places of the patch.

        found = explain.occlusion(net, image, size=7, stride=3)
        found.heat  # [1, H, W]: how much each pixel is needed

    Of each image the patch is put at P x Q places, `stride` pixels apart; the last ones end with the image, so that
    each pixel is covered. The network computes P Q images. The probability is the softmax of the logits.

    net, image, target: as `grad_cam` takes them. size: rows and columns of the patch, or one number; a sixth of the
    shorter side, and 2 at least, if not given. stride: half of the patch if not given. fill: the value of the patch,
    of normalised pixels; 0 is the mean colour. Raises ShapeError for a patch that is larger than the image, for a
    stride that leaves pixels out, and as `grad_cam` does.
    """
    batch = images_of("occlusion", image)
    H, W = batch.shape[2:]
    if size is None:
        size = max(min(LEAST, H, W), min(H, W) // SHARE)
    tall, wide = (size, size) if isinstance(size, int) else tuple(size)
    step = max(1, min(tall, wide) // 2) if stride is None else stride
    if not (1 <= tall <= H and 1 <= wide <= W and 1 <= step <= min(tall, wide)):
        raise ShapeError(
            f"occlusion: a patch of {tall}x{wide} every {step} pixels on images of {H}x{W}; give a size from 1 to the"
            " image's, and a stride from 1 to the patch's"
        )
    rows, columns = starts(H, tall, step), starts(W, wide, step)
    with modes_restored(net):
        net.eval()
        wanted = chosen_classes("occlusion", net, batch, target)
        whole = probabilities(net, batch)[np.arange(len(batch)), wanted]
        occluded = np.empty((len(batch), len(rows), len(columns)), np.float32)
        for i, k in enumerate(wanted):
            for p, top in enumerate(rows):
                # A row of places at a time, so that memory stays small.
                covered = np.repeat(batch[i : i + 1], len(columns), 0)
                for q, left in enumerate(columns):
                    covered[q, :, top : top + tall, left : left + wide] = fill
                occluded[i, p] = probabilities(net, covered)[:, k]
    # Sums over the patches that cover each pixel, and how many these are.
    total, count = np.zeros((len(batch), H, W)), np.zeros((H, W))
    for p, top in enumerate(rows):
        for q, left in enumerate(columns):
            place = np.s_[..., top : top + tall, left : left + wide]
            total[place] += (whole - occluded[:, p, q])[:, None, None]
            count[place] += 1
    heat = (total / count).astype(np.float32)
    sizes = np.array([tall, wide], np.int32)
    return Occlusion(batch, wanted, whole.astype(np.float32), occluded, rows, columns, heat, sizes)


def starts(length: int, size: int, step: int) -> Classes:
    """Return where a patch begins along an axis: every `step` positions, and where it ends with the axis."""
    return np.unique([*range(0, length - size + 1, step), length - size]).astype(np.int32)


def probabilities(net: Model, batch: Ndarray) -> Ndarray:
    """Return the softmax of the network's logits, [N, K], in float64."""
    scores = logits("occlusion", net, batch).astype(np.float64)
    powers = np.exp(scores - scores.max(1, keepdims=True))
    found: Ndarray = powers / powers.sum(1, keepdims=True)
    return found
