"""Figures of losses around a network, along a line and on the plane of a training's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from foveal.arguments import checked
from foveal.explain.landscape import Floats, Landscape, Line, Way
from foveal.plotting import COLOURS, blank, contours, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Names of points are drawn if they are so far apart, as a share of the picture.
APART = 0.08


@checked
def plot_loss_landscape(found: Landscape, title: str = "") -> Figure:
    """Return a figure of `loss_landscape`: a curve along one direction, contours along two; a cross is the network.

    Raises PackageError without Matplotlib.
    """
    figure = blank(6.0, 4.6, title or f"{found.model}: loss {found.loss:.4g}")
    axis = figure.subplots()
    if found.y is None:
        axis.plot(found.x, found.losses, color=COLOURS[0])
        axis.plot(0, found.loss, "x", color="black")
        axis.set(xlabel="along a random direction, normalised by filters", ylabel="loss")
        axis.grid(alpha=0.25)
        return figure
    contours(axis, found.x, found.y, found.losses, "loss")
    axis.plot(0, 0, "x", color="black")
    axis.set(xlabel="first direction", ylabel="second direction")
    axis.locator_params(nbins=6)
    axis.set_box_aspect(1)
    return figure


@checked
def plot_loss_line(found: Line, title: str = "") -> Figure:
    """Return a figure of `loss_line`: the loss from the start, 0, to the end, 1.

    Raises PackageError without Matplotlib.
    """
    figure = blank(5.6, 3.8, title or f"{found.model}: the straight line from start to end")
    axis = figure.subplots()
    axis.plot(found.along, found.losses, ".-", color=COLOURS[0], markersize=4)
    for place in (0.0, 1.0):
        axis.axvline(place, color="grey", linewidth=0.8, linestyle=":")
    axis.set(xlabel="along: 0 is the start, 1 the end", ylabel="loss")
    axis.grid(alpha=0.25)
    return figure


@checked
def plot_loss_path(found: Way, title: str = "") -> Figure:
    """Return a figure of `loss_path`: contours of the loss on the plane, and the way from point to point on it.

    Both axes are in units of the weights, and each has its own scale. A circle is the first point, a cross the last.
    Raises PackageError without Matplotlib.
    """
    figure = blank(6.2, 4.8, title or f"{found.model}: the way of the training")
    axis = figure.subplots()
    contours(axis, found.x, found.y, found.surface, "loss")
    axis.plot(found.points[:, 0], found.points[:, 1], ".-", color=COLOURS[1], linewidth=1.2)
    axis.plot(*found.points[0], "o", color=COLOURS[1], markersize=7, fillstyle="none")
    axis.plot(*found.points[-1], "x", color="black", markersize=8)
    # Names that would cover each other are left out, the ends' never.
    last = len(found.names) - 1
    size = np.array([np.ptp(found.x), np.ptp(found.y)])
    named: list[Floats] = [found.points[0], found.points[last]]
    for i, name in enumerate(found.names):
        near = min((np.abs((found.points[i] - one) / size).max() for one in named), default=1.0)
        if i in (0, last) or near > APART:
            axis.annotate(short(name), found.points[i], (5, 5), textcoords="offset points", fontsize=8)
            named.append(found.points[i])
    axis.set(xlabel="first principal component", ylabel="second principal component")
    return figure
