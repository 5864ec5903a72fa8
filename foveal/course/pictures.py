"""Small arrays drawn as grids of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from foveal.errors import ShapeError
from foveal.plotting import COLOURS, literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# An array with more rows or columns than this is drawn without numbers, which nobody could read.
MAX_NUMBERS = 16


def grid(
    axes: Axes, values: ArrayLike, title: str = "", marked: ArrayLike | None = None, crossed: ArrayLike | None = None
) -> None:
    """Draw an array [H, W] on Matplotlib's axes as a grid of grey cells, each with its number.

    marked: a mask [H, W] of cells with a frame, such as those that a window reads. crossed: a mask [H, W] of cells that
    are crossed out, such as those that no window reads. Both are told apart without colour. Raises ShapeError for other
    shapes.

        figure, axes = plt.subplots()
        course.grid(axes, x, "the image", crossed=unread)
    """
    shown = np.asarray(values, float)
    if shown.ndim != 2:
        raise ShapeError(f"grid: values have shape {shown.shape}; give one array of rows and columns [H, W]")
    H, W = shown.shape
    low, high = float(shown.min(initial=0.0)), float(shown.max(initial=0.0))
    # From white to a middle grey, on which black numbers are read well.
    axes.imshow(shown, cmap="Greys", vmin=low, vmax=high + (high - low or 1.0), interpolation="nearest")
    if max(H, W) <= MAX_NUMBERS:
        for p, q in np.ndindex(H, W):
            text = f"{shown[p, q]:.3g}"
            axes.text(q, p, text, ha="center", va="center", fontsize=10 if len(text) < 4 else 7)
    for mask, is_frame in ((marked, True), (crossed, False)):
        if mask is None:
            continue
        where = np.asarray(mask, bool)
        if where.shape != (H, W):
            raise ShapeError(
                f"grid: a mask has shape {where.shape}, the values {shown.shape}; they have to be the same"
            )
        for p, q in np.argwhere(where):
            draw_mark(axes, int(p), int(q), is_frame)
    axes.set_xticks(range(W) if max(H, W) <= MAX_NUMBERS else [])
    axes.set_yticks(range(H) if max(H, W) <= MAX_NUMBERS else [])
    axes.tick_params(length=0)
    axes.set_title(literal(title), fontsize=10)


def draw_mark(axes: Axes, p: int, q: int, is_frame: bool) -> None:
    """Draw a frame around the cell in row p and column q, or a cross through it."""
    from matplotlib.patches import Rectangle

    if is_frame:
        axes.add_patch(Rectangle((q - 0.46, p - 0.46), 0.92, 0.92, fill=False, edgecolor=COLOURS[0], linewidth=2))
    else:
        for slope in (1, -1):
            axes.plot([q - 0.45, q + 0.45], [p - 0.45 * slope, p + 0.45 * slope], color=COLOURS[1], linewidth=1.5)
