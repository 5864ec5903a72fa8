"""The views of a network that `foveal explain --view` draws: what a view is given, and a row for each of them.

A view is a function of a Request that returns what is Shown. Its row in VIEWS names the options that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foveal.cli import image_views

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from foveal.data.dataset import Dataset
    from foveal.explain.layer_kernels import Stage
    from foveal.nn.module import Module
    from foveal.train.checkpoint import ModelDescription


@dataclass(frozen=True)
class Photos:
    """Images for a view, all read as those that the network was trained on."""

    #: Of each image: its path, or its place in a data set.
    names: list[str]
    #: [n, C, H, W]: as they are drawn, bytes or floats of the description's range.
    pixels: NDArray[Any]
    #: [n, C, H, W]: normalised, as the network takes them.
    x: NDArray[Any]

    def short(self, i: int) -> str:
        """Return the name of an image as a title."""
        from pathlib import PurePath

        from foveal.plotting import short

        return short(PurePath(self.names[i]).name)


@dataclass(frozen=True)
class Request:
    """What is asked of a view: a network, in evaluation mode, and the options of the command line."""

    #: RUN or MODEL, as it was given.
    source: str
    net: Module
    #: What the model file says; of a network that is only a name, what stands in for it.
    description: ModelDescription
    #: False for a network that was built by its name, whose values are random.
    trained: bool
    #: The dotted name of a layer, which there is; the number of a channel of it; None where they are not given.
    layer: str | None = None
    unit: int | None = None
    #: The number of a class; None where it is not given.
    target: int | None = None
    #: Paths of images, and what names a data set; without both, the run's own data are meant.
    images: tuple[str, ...] = ()
    data: str | None = None
    #: Of code: a name of explain.layer_kernels.STAGES, None for all; of random numbers: their seed.
    stage: Stage | None = None
    seed: int = 0
    #: Whether a page, .html, is written.
    page: bool = False
    #: Called with lines about what is read.
    tell: Callable[[str], None] = field(default=print, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""
        return (self.description.channels, *self.description.size)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set of --data, else the run's own. Raises DataError where it is not there any more."""
        from foveal.cli.view_images import dataset_of

        return dataset_of(self)

    def photos(self, count: int) -> Photos:
        """Return the images of --image, else the first `count` test images of the data set."""
        from foveal.cli.view_images import photos_of

        return photos_of(self, count)


@dataclass(frozen=True)
class Shown:
    """What a view has found."""

    #: What a file shows; None for what is a page of text alone, `html`.
    figure: Figure | None
    #: Arrays by name, whose shapes, least, largest and mean values --json prints.
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    #: What else --json prints, by name.
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: Lines for people, which are printed.
    text: str = ""
    #: What a page, .html, has below the figure.
    html: str = ""


@dataclass(frozen=True)
class View:
    """A row of VIEWS."""

    #: What it shows, in a line of the help.
    help: str
    draw: Callable[[Request], Shown]
    #: Which of the options layer, unit, class, image, data, stage and seed it takes; others are refused.
    takes: frozenset[str]
    #: The ending of the file that is written where --out does not say it.
    ending: str = ".png"
    #: True for text, which is printed and not written where there is no --out.
    printed: bool = False


_IMAGES = frozenset({"image", "data"})

#: By the name that `--view` takes.
VIEWS: dict[str, View] = {
    "filters": View("the filters of the first convolution, or of --layer", image_views.filters, frozenset({"layer"})),
    "maps": View("what layers compute for an image", image_views.maps, _IMAGES | {"layer"}),
    "cam": View("Grad-CAM, guided too: what speaks for a class", image_views.cam, _IMAGES | {"layer", "class"}),
    "occlusion": View("how much a class needs each part", image_views.occlusion, _IMAGES | {"class"}),
    "gradients": View("gradients in the pixels, integrated too", image_views.gradients, _IMAGES | {"class"}),
    "fields": View("what an output reads, and what none does", image_views.fields, _IMAGES | {"layer", "unit"}),
    "images": View("those that activate a unit most", image_views.images, _IMAGES | {"layer", "unit"}),
}
