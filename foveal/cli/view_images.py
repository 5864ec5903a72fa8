"""Images for the views of `foveal explain --view`: those that are named, else the first ones of the run's own data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli.evaluate import reading
from foveal.cli.folders_options import read_data
from foveal.cli.photos import Photos as Words
from foveal.errors import DataError

if TYPE_CHECKING:
    from foveal.cli.views import Photos, Request
    from foveal.data.dataset import Dataset

# Images that are drawn at most, of those that are named.
MOST = 64


def dataset_of(request: Request) -> Dataset:
    """Return the data set that is named, else the run's own. Raises DataError where there is none."""
    data, images = request.data, dict[str, Any]()
    run = Path(request.source) if request.trained else None
    if data is None:
        data, images = own_data(request)
    dataset = read_data(data, images, quiet=True, like=reading(request.description), run=run)
    request.description.check(dataset)
    return dataset


def own_data(request: Request) -> tuple[str, dict[str, Any]]:
    """Return what names the data that a run was trained on, and how they were read. Raises DataError if lost."""
    from foveal.data.readers import SOURCES
    from foveal.train.checkpoint import RUN

    way_out = "name images by --image FILE, or a data set by --data DATA"
    if not request.trained:
        raise DataError(f"{request.source}: a model by its name has no images of its own; {way_out}")
    run = Path(request.source)
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


def photos_of(request: Request, count: int) -> Photos:
    """Return the images that are named, else the first `count` test images of the data set."""
    import numpy as np

    from foveal.cli.views import Photos
    from foveal.data.statistics import Normalisation
    from foveal.train.classifier import Classifier

    normalised = Normalisation(request.description.mean, request.description.std)
    if not request.images:
        pixels: Any = np.asarray(request.dataset.images_test[:count])
        return Photos([f"test image {i}" for i in range(len(pixels))], pixels, normalised(pixels))
    words = Words(request.images)
    classifier, names, read = Classifier(request.net, request.description), [], []
    for word in words:
        name, x = classifier.read(word)
        if isinstance(x, DataError):
            raise x
        names.append(name or "standard input")
        read.append(x)
        if len(read) > MOST:
            raise DataError(f"--image names more than {MOST} images, which one picture cannot show; name fewer")
    if words.failed:
        raise DataError("an image that is named cannot be read, as is said above")
    photos = np.stack(read)
    return Photos(names, photos, normalised(photos))
