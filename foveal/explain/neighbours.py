"""Similar images: the nearest ones by their features, as cosine similarity measures it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.arguments import checked
from foveal.display import Table, Tables
from foveal.errors import DataError, NumericsError, ShapeError
from foveal.plotting import COLOURS, blank, short
from foveal.strides import Ndarray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Queries at once, so that their similarities to all images stay small.
QUERIES = 256
# Inches of one image; images of a row, and rows, at most.
TILE, MOST_COLUMNS, MOST_ROWS = 0.95, 20, 40


@dataclass(frozen=True, repr=False)
class Similar(Tables):
    """The nearest images of each query: what `similar` returns."""

    #: [q, k]: the numbers of the nearest images, the nearest first.
    indices: NDArray[np.int64]
    #: [q, k]: their cosine similarities, from -1 to 1.
    similarities: NDArray[np.float64]

    def tables(self) -> Iterator[Table]:
        """Yield a row for each query."""
        rows = [
            (str(i), ", ".join(f"{j} ({s:.3f})" for j, s in zip(*one, strict=True)))
            for i, one in enumerate(zip(self.indices, self.similarities, strict=True))
        ]
        yield "", ("query", "nearest images (cosine similarity)"), rows


@checked
def similar(features: ArrayLike, queries: ArrayLike | None = None, count: int = 5) -> Similar:
    """Return the images that are nearest to each query by their features, by cosine similarity.

        embeddings = train.features(net, images, mean=trained.mean, std=trained.std)
        found = explain.similar(embeddings, embeddings[:4])
        explain.plot_similar(found, images, images[:4])

    features: [n, D], of the images, such as `foveal.train.features` computes them: what the network's last layer is
    given. queries: [q, D], the features of the images that are looked for; None to take each image as a query, whose
    nearest images are others than itself. count: k, how many are found.

    The similarity of a and b is a . b / (||a|| ||b||). Of equally near ones the first comes first. Raises ShapeError
    for features of other shapes and for more neighbours than there are, NumericsError for features that are NaN,
    infinite or all 0, which have no direction.
    """
    known = unit("features", features)
    asked = known if queries is None else unit("queries", queries)
    if known.shape[1] != asked.shape[1]:
        raise ShapeError(f"similar: queries have {asked.shape[1]} numbers each, features {known.shape[1]}")
    most = len(known) - (queries is None)
    if not 1 <= count <= most:
        raise ShapeError(f"similar: count is {count}, it has to be from 1 to {most}, the number of other images")
    nearest, values = [], []
    for first in range(0, len(asked), QUERIES):
        near = asked[first : first + QUERIES] @ known.T
        if queries is None:
            rows = np.arange(len(near))
            near[rows, first + rows] = -np.inf
        # A stable order, so that equal ones stay as they were.
        order = np.argsort(-near, axis=1, kind="stable")[:, :count]
        nearest.append(order)
        values.append(np.take_along_axis(near, order, axis=1))
    return Similar(np.concatenate(nearest), np.concatenate(values))


def unit(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return vectors [n, D] with a length of 1. Raises ShapeError and NumericsError for what has none."""
    vectors = np.asarray(values, np.float64)
    if vectors.ndim != 2 or not vectors.size:
        raise ShapeError(f"similar: {name} have shape {list(vectors.shape)}; give vectors [n, D], one for each image")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(wrong):
        raise NumericsError(
            f"similar: {name} of image {wrong[0]} are NaN, infinite or all 0 ({len(wrong)} of {len(vectors)} are): they"
            " have no direction, so nothing is similar to them"
        )
    return np.asarray(vectors / length)


@checked
def plot_similar(
    found: Similar, images: Any, queries: Any = None, names: Sequence[str] | None = None, title: str = ""
) -> Figure:
    """Return a figure of `similar`: a row for each query, on the left, with its nearest images beside it.

    images: [n, C, H, W], those whose features were given; bytes, or floats, which are drawn from the lowest value of
    all to the highest. queries: [q, C, H, W]; `images` themselves if not given. names: one for each of `images`, such
    as its class, to stand above it beside the similarity. Raises DataError for images of other shapes, PackageError
    without Matplotlib.
    """
    known, asked = pictures("images", images), pictures("queries", images if queries is None else queries)
    if len(known) <= int(found.indices.max()) or len(asked) != len(found.indices):
        raise DataError(
            f"plot_similar: {len(known)} images and {len(asked)} queries do not belong to what was found, of"
            f" {len(found.indices)} queries; give those whose features were given"
        )
    if names is not None and len(names) != len(known):
        raise DataError(f"plot_similar: {len(names)} names and {len(known)} images; give a name for each image")
    shown, columns = min(len(asked), MOST_ROWS), min(found.indices.shape[1], MOST_COLUMNS)
    drawn = f"the first {shown} of {len(asked)} queries" if shown < len(asked) else ""
    figure = blank(TILE * (columns + 1) + 0.3, 1.3 * TILE * shown + 0.4, title or drawn)
    axes = np.array(figure.subplots(shown, columns + 1), dtype=object).reshape(shown, columns + 1)
    low, high = float(min(known.min(), asked.min())), float(max(known.max(), asked.max()))
    for i, row in enumerate(axes):
        for j, axis in enumerate(row):
            index = int(found.indices[i, j - 1])
            picture = (asked[i] if j == 0 else known[index]).astype(np.float32)
            scaled = ((picture - low) / (high - low or 1.0)).transpose(1, 2, 0)
            axis.imshow(scaled if scaled.shape[2] == 3 else scaled.mean(2), cmap="gray", vmin=0, vmax=1)
            label = f"{found.similarities[i, j - 1]:.2f}" if j else "query"
            if names is not None and (j or queries is None):
                label = f"{short(names[index if j else i], 14)}\n{label}"
            axis.set_title(label, fontsize=7, color=COLOURS[6] if j else COLOURS[0])
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set(color=COLOURS[0], linewidth=2.0 if j == 0 else 0.0)
    return figure


def pictures(name: str, images: Any) -> Ndarray:
    """Return images [n, C, H, W] as an array. Raises DataError for others."""
    array = np.asarray(images)
    if array.ndim != 4 or not array.size or array.dtype.kind not in "uif":
        raise DataError(f"plot_similar: {name} have shape {list(array.shape)}; give images [n, C, H, W]")
    return array
