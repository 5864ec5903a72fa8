"""What a view of `foveal explain --view` is given, what it returns, and what its row in the table of all views says.

A view is a function of a Request that returns what is Shown. Its row names the options that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foveal.cli import view_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from foveal.data.dataset import Dataset
    from foveal.explain.layer_kernels import Stage
    from foveal.nn.module import Module
    from foveal.train.checkpoint import ModelDescription


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
        return view_images.dataset_of(self.source, self.description, self.trained, self.data)

    def photos(self, count: int) -> view_images.Photos:
        """Return the images of --image, else the first `count` test images of the data set."""
        if self.images:
            return view_images.named(self.images, self.net, self.description)
        return view_images.first(self.dataset, self.description, count)


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
    """A row of the table of views."""

    #: What it shows, in a line of the help.
    help: str
    draw: Callable[[Request], Shown]
    #: Which of the options layer, unit, class, image, data, stage and seed it takes; others are refused.
    takes: frozenset[str]
    #: The ending of the file that is written where --out does not say it.
    ending: str = ".png"
    #: True for text, which is printed and not written where there is no --out.
    printed: bool = False
