"""Images for the views of `foveal explain --view`: those that are named, else the first ones of the run's own data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli.evaluate import reading
from foveal.cli.folders_options import read_data
from foveal.cli.photos import Photos as Words
from foveal.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foveal.data.dataset import Dataset
    from foveal.nn.module import Module
    from foveal.train.checkpoint import ModelDescription

# Images that are drawn at most, of those that are named.
MOST = 64


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


def dataset_of(source: str, description: ModelDescription, trained: bool, data: str | None) -> Dataset:
    """Return the data set that is named, else that of the run `source`. Raises DataError where there is none."""
    images: dict[str, Any] = {}
    if data is None:
        data, images = own_data(source, trained)
    run = Path(source) if trained else None
    dataset = read_data(data, images, quiet=True, like=reading(description), run=run)
    description.check(dataset)
    return dataset


def own_data(source: str, trained: bool) -> tuple[str, dict[str, Any]]:
    """Return what names the data that a run was trained on, and how they were read. Raises DataError if lost."""
    from foveal.data.readers import SOURCES
    from foveal.train.checkpoint import RUN

    way_out = "name images by --image FILE, or a data set by --data DATA"
    if not trained:
        raise DataError(f"{source}: a model by its name has no images of its own; {way_out}")
    run = Path(source)
    path = (run if run.is_dir() else run.parent) / RUN
    try:
        command = json.loads(path.read_text(encoding="utf-8"))["command"]
        data, options = str(command["data"]), dict(command["options"])
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(f"{run}: nothing says which data it was trained on, as {path} would; {way_out}") from None
    if not any(source.holds(data, Path(data)) for source in SOURCES):
        raise DataError(f"{run}: the data that it was trained on, {data}, are not there any more; {way_out}")
    of_files = ("group_by", "split", "background", "strict", "memory_limit", "data_cache")
    # What was a tuple is a list in JSON.
    kept = {name: options[name] for name in of_files if name in options}
    return data, {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}


def first(dataset: Dataset, description: ModelDescription, count: int) -> Photos:
    """Return the first `count` test images of a data set."""
    import numpy as np

    from foveal.data.statistics import Normalisation

    pixels: Any = np.asarray(dataset.images_test[:count])
    names = [f"test image {i}" for i in range(len(pixels))]
    return Photos(names, pixels, Normalisation(description.mean, description.std)(pixels))


def named(images: tuple[str, ...], net: Module, description: ModelDescription) -> Photos:
    """Return the images that are named, read as those that the network was trained on. Raises DataError for others."""
    import numpy as np

    from foveal.data.statistics import Normalisation
    from foveal.train.classifier import Classifier

    words, classifier = Words(images), Classifier(net, description)
    names, read = [], []
    for word in words:
        name, x = classifier.read(word)
        if isinstance(x, DataError):
            raise x
        names.append(name or "standard input")
        read.append(x)
        if len(read) > MOST:
            raise DataError(f"--image names more than {MOST} images, which one picture cannot show; name fewer")
    if words.failed or not read:
        raise DataError("--image names what cannot be read, as is said above; leave it out, or repair it")
    pixels = np.stack(read)
    return Photos(names, pixels, Normalisation(description.mean, description.std)(pixels))
