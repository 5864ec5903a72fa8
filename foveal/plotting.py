"""Matplotlib's figures, made without its global state: no backend is chosen, no window opened, nothing kept open.

Matplotlib is an extra, imported when the first figure is made.
"""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foveal.errors import PackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of lines and points, in this order; distinct for readers who see no red or no green (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31", "#7f3c8d", "#777777")
# Letters of a name that a picture shows.
MAX_NAME = 24
DPI = 100
# Of the heights of a surface.
CONTOURS = 24


def blank(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure of this size in inches, which a notebook shows when it is a cell's result.

    Raises PackageError where Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PackageError(
            f"plots need Matplotlib, which cannot be imported here ({error}): pip install 'foveal[plot]', or"
            " pip install matplotlib"
        ) from None

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    # Notebooks show figures of pyplot only once that is imported; this one shows itself.
    figure._repr_png_ = partial(png, figure)  # type: ignore[attr-defined]
    if title:
        figure.suptitle(literal(title))
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def literal(text: str) -> str:
    """Return a text as Matplotlib shows it letter by letter: it would read formulas between dollar signs."""
    return text.replace("$", r"\$")


def short(name: object, letters: int = MAX_NAME) -> str:
    """Return a name as a picture shows it: a long one loses its middle."""
    text = str(name)
    if len(text) > letters:
        text = f"{text[: letters // 2]}…{text[-(letters - letters // 2 - 1) :]}"
    # Matplotlib leaves lines whose names begin with an underscore out of legends.
    return literal(f" {text}" if text.startswith("_") else text)


def whole_steps(axis: Any) -> None:
    """Let ticks of an axis stand at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def contours(axis: Any, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any], label: str) -> None:
    """Draw heights z [m, n] over x [n] and y [m] as contours, closer together where they are low.

    Where a height is no number nothing is drawn, nor where all are equal. label: of the scale beside them.
    """
    finite = z[np.isfinite(z)]
    if not finite.size or finite.min() == finite.max():
        return
    levels = finite.min() + (finite.max() - finite.min()) * np.linspace(0, 1, CONTOURS) ** 3
    heights = np.ma.masked_invalid(z)
    drawn = axis.contourf(x, y, heights, levels=levels, cmap="Greys_r", alpha=0.55)
    axis.contour(x, y, heights, levels=levels, colors="grey", linewidths=0.4)
    axis.figure.colorbar(drawn, ax=axis, label=label, format="%.3g")
