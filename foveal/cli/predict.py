"""foveal predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.augment_options import tta_option
from foveal.cli.options import (
    classes_in,
    code_option,
    echo,
    json_option,
    run_argument,
    set_threads,
    show_json,
    show_table,
    threads_option,
)
from foveal.cli.streams import without_library_lines
from foveal.errors import DataError

if TYPE_CHECKING:
    from foveal.data.statistics import Floats
    from foveal.train.checkpoint import ModelDescription
    from foveal.train.evaluate import Network

# One shape, so one compiled program, for any number of images.
PREDICT_BATCH = 16
# Classes that are shown of each image.
TOP = 3


@click.command()
@run_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@threads_option
@code_option
@tta_option
@json_option
@click.pass_context
@without_library_lines()
def predict(
    ctx: click.Context,
    run: Path,
    images: tuple[str, ...],
    threads: int | None,
    code: tuple[str, ...],
    tta: str | None,
    as_json: bool,
) -> None:
    """Classify each IMAGE with the model of RUN.

    Images are PNG, JPEG, GIF, BMP, TIFF, WebP or PPM, whatever their names say, of up to 50 megapixels (JPEG: 120); of
    an animation or a file with pages the first image counts. They are rotated as their metadata say, converted to grey
    or RGB and resized as the model needs. Nothing is inverted: a model trained on MNIST expects white on black.

    --json prints a list with an entry for each image: "image", "class", "probability", and "top", the classes that come
    next.

    An image that cannot be read is named on standard error and left out. The status is then 1, or 2 if none can be
    read.

    A network of one's own is built from its class, which has to be imported: --code mynet.py.
    """
    from foveal.train.checkpoint import load_net

    set_threads(threads)
    net, trained = load_net(run, cls=classes_in(code))
    results = [{"image": image, **top[0], "top": top} for image, top in classify(net, trained, images, tta)]
    if not results:
        ctx.exit(2)
    if as_json:
        show_json(results)
    else:
        rows = [
            (result["image"] if rank == 0 else "", entry["class"], f"{entry['probability']:.2%}")
            for result in results
            for rank, entry in enumerate(result["top"])
        ]
        show_table(("image", "class", "probability"), rows)
    if len(results) < len(images):
        ctx.exit(1)


def classify(
    net: Network, trained: ModelDescription, images: Iterable[str], tta: str | None = None
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each image file that can be read with its TOP classes, the most probable first.

    tta: test-time augmentation, as of `train.predict`. Each class is {"class", "probability"}. Files that cannot be
    read are named on standard error. Raises DataError if the model was trained on pixels of another range than image
    files have.
    """
    import numpy as np

    from foveal.data.dataset import UNIT
    from foveal.data.loader import filled
    from foveal.metrics import log_softmax
    from foveal.train.evaluate import predict

    low, high = trained.value_range
    if (low, high) != UNIT:
        raise DataError(
            f"the model was trained on pixels from {low:g} to {high:g}, image files hold 0 to 1 "
            "(bytes / 255): train it on images scaled to the whole range, uint8 from 0 to 255 or floats from 0 to 1"
        )
    # A batch at a time, so that no more than its images are in memory; the last one is filled up.
    readable = pixels(trained, images)
    while batch := list(islice(readable, PREDICT_BATCH)):
        # [n, C, H, W], then logits [n, K]
        x = np.stack([image for _, image in batch])
        logits = predict(net, filled(x, PREDICT_BATCH), mean=trained.mean, std=trained.std, tta=tta)[: len(batch)]
        if logits.shape[1] != len(trained.classes):
            raise DataError(
                f"the model returns {logits.shape[1]} numbers for an image and was trained on {len(trained.classes)}"
                " classes; train a network with one output for each class"
            )
        probability = np.exp(log_softmax(logits))
        order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
        for (path, _), row, ranks in zip(batch, probability, order, strict=True):
            yield path, [{"class": trained.classes[k], "probability": float(row[k])} for k in ranks]


def pixels(trained: ModelDescription, images: Iterable[str]) -> Iterator[tuple[str, Floats]]:
    """Yield each image file that can be read with its pixels as the model takes them; name the others on stderr."""
    from foveal.data.images import read_image

    for path in images:
        try:
            yield path, read_image(path, trained.channels, *trained.size)
        except DataError as error:
            echo(f"Error: {error}", err=True)
