"""Pictures that follow each other: drawn by Matplotlib, chosen by a slider or played."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from foveal.course.interactive import OnPage, own_file
from foveal.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More pictures than these are more than a page should carry.
MOST = 60


class Frames(OnPage):
    """Pictures of which one is seen; a notebook and a built page show it, and `save` writes it as a page of its own.

    label: what all of them are, for readers who do not see them. pictures: what each one shows, as a text, and its SVG.
    The first is seen first. Nothing is loaded from anywhere else.
    """

    def __init__(self, label: str, pictures: Sequence[tuple[str, bytes]]) -> None:
        super().__init__(label)
        self.pictures = list(pictures)

    def _repr_html_(self) -> str:
        """Return the pictures as a part of an HTML page; without JavaScript all of them are seen."""
        images = "".join(
            f'<img src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" alt="{html.escape(text)}"'
            ' style="max-width:100%;background:white">'
            for text, svg in self.pictures
        )
        # data-ready: interactive.js leaves this figure alone.
        return (
            f'<div class="foveal-figure foveal-frames" data-ready="yes" role="group"'
            f' aria-label="{html.escape(self.label)}"><div class="pictures">{images}</div>'
            '<div class="controls"><button type="button">Play</button>'
            f'<label class="wide">picture <input type="range" min="0" max="{len(self.pictures) - 1}" value="0">'
            '</label></div><p class="told" aria-live="polite" style="min-height:3em"></p></div>\n'
            f"<style>{own_file('interactive.css')}</style>\n<script>{own_file('frames.js')}</script>"
        )

    def __repr__(self) -> str:
        return f"{self.label}: {len(self.pictures)} pictures, which a notebook shows, and save(path) writes as a page"


def frames(draw: Callable[[Any], tuple[Figure, str]], values: Sequence[Any], label: str) -> Frames:
    """Return pictures that follow each other, one for each value: draw(value) returns a figure of Matplotlib's and a
    text that says what it shows.

    values: 2 to 60 of any kind, such as the numbers of steps. label: what all of the pictures are. Figures should have
    the same size and the same limits of their axes, so that what moves is what changes. Raises ArgumentError for fewer
    or more values.

        course.frames(lambda step: (plotted(path[:step]), f"after {step} steps"), range(0, 60, 3), "a path")
    """
    if not 2 <= len(values) <= MOST:
        raise ArgumentError(f"frames: there are {len(values)} values; give 2 to {MOST}, a picture is drawn for each")
    return Frames(label, [(text, svg_of(figure)) for figure, text in map(draw, values)])


def svg_of(figure: Figure) -> bytes:
    """Return a figure as the bytes of an SVG, and close it where pyplot holds it open."""
    import matplotlib
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    # Texts stay texts, and the same picture is the same bytes each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foveal"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    plt.close(figure)
    return stream.getvalue()
