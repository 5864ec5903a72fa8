"""foveal predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.options import json_option, run_argument, set_threads, show_table, threads_option
from foveal.errors import DataError

if TYPE_CHECKING:
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
@json_option
def predict(run: Path, images: tuple[str, ...], threads: int | None, as_json: bool) -> None:
    """Classify each IMAGE with the model of RUN.

    Images are rotated as their metadata say, converted to grey or RGB and resized as the model needs. Nothing is
    inverted: a model trained on MNIST expects white on black.
    """
    from foveal.train.checkpoint import load_net

    set_threads(threads)
    net, trained = load_net(run)
    results = [
        {"image": image, **top[0], "top": top}
        for image, top in zip(images, classify(net, trained, images), strict=True)
    ]
    if as_json:
        click.echo(json.dumps(results))
        return
    rows = [
        (image if rank == 0 else "", entry["class"], f"{entry['probability']:.2%}")
        for image, result in zip(images, results, strict=True)
        for rank, entry in enumerate(result["top"])
    ]
    show_table(("image", "class", "probability"), rows)


def classify(net: Network, trained: ModelDescription, images: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Return for each image file the TOP classes, the most probable first, each as {"class", "probability"}.

    Raises DataError if the model was trained on pixels of another range than image files have.
    """
    import numpy as np

    from foveal.data.dataset import UNIT
    from foveal.data.images import read_image
    from foveal.data.loader import filled
    from foveal.metrics import log_softmax
    from foveal.train.evaluate import predict

    low, high = trained.value_range
    if (low, high) != UNIT:
        raise DataError(
            f"the model was trained on pixels from {low:g} to {high:g}, image files hold 0 to 1 "
            "(bytes / 255): train it on uint8 images or on floats between 0 and 1"
        )
    # [n, C, H, W], then logits [n, K], a batch at a time; the last batch is filled up.
    x = np.stack([read_image(image, trained.channels, *trained.size) for image in images])
    logits = np.concatenate(
        [
            predict(net, filled(part, PREDICT_BATCH), mean=trained.mean, std=trained.std)[: len(part)]
            for part in (x[i : i + PREDICT_BATCH] for i in range(0, len(x), PREDICT_BATCH))
        ]
    )
    probability = np.exp(log_softmax(logits))
    order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
    return [
        [{"class": trained.classes[k], "probability": float(row[k])} for k in ranks]
        for row, ranks in zip(probability, order, strict=True)
    ]
