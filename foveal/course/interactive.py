"""Figures that a reader changes: what Foveal computed, as JSON, and the script that shows it."""

from __future__ import annotations

import functools
import html
import itertools
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foveal import ops
from foveal.errors import DataError, ShapeError
from foveal.explain.explainer import explain
from foveal.explain.model import Model
from foveal.explain.panels import in_colour
from foveal.explain.plots import has_places, size_of
from foveal.explain.windows import AxisWindow
from foveal.files import write_whole
from foveal.metrics.curves import (
    average_precision,
    checked,
    count_by_threshold,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from foveal.strides import Ndarray

# What the reader chooses of the sliding window: strides, paddings and dilations; image and filter are cut to each size
# from SMALLEST on.
STRIDES, PADDINGS, DILATIONS = (1, 2, 3), (0, 1, 2), (1, 2)
SMALLEST = 3
# Larger ones have cells that are too small to be seen, and more numbers than a page should carry.
LARGEST, LARGEST_FILTER, LARGEST_IMAGE = 9, 5, 48
# Images whose scores are shown; the page carries a few numbers for each.
MOST_SCORES = 2000


class OnPage:
    """Base of what a notebook and a built page show, and `save` writes as a page of its own.

    label: what it is, for readers who do not see it.
    """

    def __init__(self, label: str) -> None:
        self.label = label

    def _repr_html_(self) -> str:
        """Return it as a part of an HTML page."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure as an HTML page that needs nothing else; return the path."""
        target = Path(path)
        write_whole(target, page_of(self.label, self._repr_html_()))
        return target


class Interactive(OnPage):
    """A figure that a reader changes; a notebook and a built page show it, and `save` writes it as a page of its own.

    kind: the name under which interactive.js draws it. label: what the figure is, for readers who do not see it.
    numbers: what it shows, lists and numbers that become JSON. Nothing is loaded from anywhere else.
    """

    def __init__(self, kind: str, label: str, numbers: dict[str, Any]) -> None:
        super().__init__(label)
        self.kind, self.numbers = kind, numbers

    def _repr_html_(self) -> str:
        """Return the figure as a part of an HTML page."""
        # `<` would end the script that holds the numbers.
        data = json.dumps(self.numbers, separators=(",", ":")).replace("<", "\\u003c")
        return (
            f'<div class="foveal-figure" data-figure="{html.escape(self.kind)}" role="group"'
            f' aria-label="{html.escape(self.label)}"><script type="application/json">{data}</script>'
            f"<noscript>This figure needs JavaScript.</noscript></div>\n"
            f"<style>{own_file('interactive.css')}</style>\n<script>{own_file('interactive.js')}</script>"
        )

    def __repr__(self) -> str:
        return f"{self.label}: a notebook shows this figure, and its save(path) writes a page with it"


def page_of(title: str, body: str) -> bytes:
    """Return the bytes of an HTML page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"></head>\n'
        f"<body>{body}</body></html>\n"
    ).encode()


@functools.cache
def own_file(name: str) -> str:
    """Return the text of a file that lies beside this one."""
    return files("foveal.course").joinpath(name).read_text("utf-8")


def plain(values: Ndarray) -> list[Any]:
    """Return numbers as lists, whole ones as whole numbers, which are shorter."""
    rounded: list[Any] = [[int(v) if v == int(v) else float(f"{v:.6g}") for v in row] for row in values.tolist()]
    return rounded


def sliding_window(x: ArrayLike, w: ArrayLike) -> Interactive:
    """Return a figure of a filter that slides over an image, whose sizes, stride, padding, dilation and flip are
    chosen.

    x: a square image [H, H], 3 to 9 pixels wide. w: a square filter [R, R], up to 5 wide; the reader chooses parts of
    both, from their top left corner. For each choice that fits, the outputs are those of `ops.conv2d`, or with the
    filter turned, of `ops.convolve2d`, and the pixels that no window reads are those of `explain`. Raises ShapeError
    for other shapes.

        course.sliding_window(digit, sobel)  # as the last line of a cell
    """
    image, filters = np.asarray(x, np.float32), np.asarray(w, np.float32)
    for what, value, smallest, largest in (("x", image, SMALLEST, LARGEST), ("w", filters, 1, LARGEST_FILTER)):
        if value.ndim != 2 or value.shape[0] != value.shape[1] or not smallest <= len(value) <= largest:
            raise ShapeError(
                f"sliding_window: {what} has shape {value.shape}; give a square array, {smallest} to {largest} wide"
            )
    sizes, taps = range(SMALLEST, len(image) + 1), range(1, len(filters) + 1)
    runs: dict[str, Any] = {}
    for H, R, u, a, d in itertools.product(sizes, taps, STRIDES, PADDINGS, DILATIONS):
        window = AxisWindow(length=H, taps=R, stride=u, dilation=d, before=a, after=a)
        if not window.outputs:
            continue
        pixels, part = image[None, None, :H, :H], filters[None, None, :R, :R]
        how = {"stride": u, "padding": a, "dilation": d}
        runs[f"{H},{R},{u},{a},{d}"] = {
            "y": plain(np.asarray(ops.conv2d(pixels, part, **how))[0, 0]),
            "flipped": plain(np.asarray(ops.convolve2d(pixels, part, **how))[0, 0]),
            "unread": window.unread(),
        }
    choices = {
        "size": list(sizes),
        "kernel": list(taps),
        "stride": list(STRIDES),
        "padding": list(PADDINGS),
        "dilation": list(DILATIONS),
    }
    numbers = {"x": plain(image), "w": plain(filters), "choices": choices, "runs": runs}
    return Interactive("window", "A filter slides over an image", numbers)


def receptive_fields(net: Model, image: ArrayLike) -> Interactive:
    """Return a figure of what each output of a network reads of an image: a reader moves over the outputs of each
    layer.

    net: any network whose first layers have rows and columns. image: [C, H, W], or grey [H, W], up to 48 rows and
    columns. What is read is exact, as in `net.summary(...).row(layer).field`: padding, strides and dilation leave
    holes. Raises ShapeError for other images, and for networks that have no such layer.

        course.receptive_fields(net, digits.x_test[0])  # as the last line of a cell
    """
    pixels = np.asarray(image, np.float32)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or max(pixels.shape[1:]) > LARGEST_IMAGE:
        raise ShapeError(
            f"receptive_fields: the image has shape {np.shape(image)}; give one image [C, H, W] of up to"
            f" {LARGEST_IMAGE} rows and columns"
        )
    summary = explain(net, pixels.shape, memory=False)
    layers = []
    for row in summary.rows:
        if not row.name or row.holds or not has_places(row):
            continue
        rows, columns = row.field
        P, Q = row.shape[-2:]
        layers.append(
            {
                "name": f"{row.name} {row.kind}",
                "rows": [rows.reads(p) for p in range(P)],
                "columns": [columns.reads(q) for q in range(Q)],
                "field": f"{size_of(rows)}x{size_of(columns)}",
            }
        )
    if not layers:
        raise ShapeError(f"receptive_fields: no layer of {summary.model} has outputs with rows and columns")
    grey = np.round(in_colour(pixels).mean(2) * 255)
    numbers = {"image": plain(grey), "layers": layers}
    return Interactive("field", f"What each output of {summary.model} reads of an image", numbers)


def threshold(positive: ArrayLike, scores: ArrayLike, name: str = "the class") -> Interactive:
    """Return a figure of one class against the rest, whose threshold is moved by a slider.

    positive [N]: True or 1 for images of the class. scores [N]: the higher, the more an image looks like the class; up
    to 2000 images. name: of the class. An image is found if its score reaches the threshold. The figure shows the
    scores, the counts, and the place on the ROC curve and on that of precision by recall; curves, areas and counts are
    those of `foveal.metrics`. Raises DataError as `metrics.roc_curve` does, and for more images.

        course.threshold(digits.y_test == 8, logits[:, 8], "eights")  # as the last line of a cell
    """
    labels, values = checked("threshold", positive, scores)
    if len(labels) > MOST_SCORES:
        raise DataError(f"threshold: {len(labels)} scores; give {MOST_SCORES} at most, such as every tenth")
    # Numbers of a page have 6 digits, and what is counted there has to be counted of the same numbers here.
    values = np.array([float(f"{value:.6g}") for value in values])
    counts = count_by_threshold(labels, values, above=True)
    if not np.isfinite(counts.thresholds).all():
        raise DataError(
            f"threshold: the highest score is {values.max():g}; divide scores, so that a higher number remains"
        )
    roc, curve = roc_curve(labels, values), precision_recall_curve(labels, values)
    numbers = {
        "name": name,
        "scores": values.tolist(),
        "labels": labels.astype(int).tolist(),
        # From the lowest on, so that the slider's right end is the highest.
        "thresholds": counts.thresholds[::-1].tolist(),
        "found": np.stack([counts.true_positives, counts.false_positives], 1)[::-1].astype(int).tolist(),
        "roc": plain(np.stack([roc.x, roc.y], 1)),
        "precisionRecall": plain(np.stack([curve.x, curve.y], 1)),
        "auc": roc_auc(labels, values),
        "averagePrecision": average_precision(labels, values),
    }
    return Interactive("threshold", f"A threshold for {name}, moved by a slider", numbers)
