"""foveal calibrate, and what `foveal train` does with a model when it is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.evaluate import reading
from foveal.cli.folders_options import folder_options_of_run, read_data
from foveal.cli.options import (
    DataCommand,
    FiniteRange,
    classes_in,
    code_option,
    echo,
    json_option,
    run_argument,
    set_threads,
    show_json,
    threads_option,
)

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset
    from foveal.data.loader import Loader

SHARE = FiniteRange(0, 1, min_open=True)


@click.command(cls=DataCommand)
@run_argument
@click.argument("data")
@click.option(
    "--none-below",
    type=SHARE,
    metavar="P",
    help='Let `foveal predict` answer "none of these" where the most probable class is less probable than this.',
)
@click.option(
    "--precision",
    type=SHARE,
    metavar="P",
    help="Instead, find for each class the lowest threshold with which this share of its answers is right, e.g. 0.95.",
)
@threads_option
@code_option
@folder_options_of_run
@data_dir_option
@json_option
def calibrate(
    run: Path,
    data: str,
    none_below: float | None,
    precision: float | None,
    threads: int | None,
    code: tuple[str, ...],
    images: dict[str, Any],
    as_json: bool,
) -> None:
    """Make the probabilities of RUN's model agree with how often it is right on DATA.

    A temperature is fitted on the training images that RUN has held out by --validation; without such, on the
    validation images of DATA, or on its test images where there are none. It is stored in the model file, with
    thresholds for "none of these" if some are asked for; without --none-below and --precision there are none
    afterwards. The images should not be among those that the model was trained on; they are seen as it is used, with
    its test-time augmentation. No class changes, and MODEL.md is written anew.

    --json prints "data", "part", "images", "temperature", "ece_before", "ece", "loss_before", "loss", "thresholds" (by
    class, or null), "answered" and "accuracy": the share of the images that gets a class, and of these the right ones.
    """
    from foveal.train.calibration import calibrate as calibrated
    from foveal.train.checkpoint import load_run
    from foveal.train.held_out import held_out_of
    from foveal.train.model_card import write_card

    set_threads(threads)
    classes = classes_in(code)
    dataset = read_data(data, images, err=as_json, like=reading(load_run(run)[0]), run=run)
    own = held_out_of(run, dataset)
    found = calibrated(run, dataset, none_below=none_below, precision=precision, validation=own, cls=classes)
    if run.is_dir():
        write_card(run, dataset, classes)
    if as_json:
        show_json(asdict(found))
    else:
        echo(str(found))


def finish(folder: Path, dataset: Dataset, validation: Loader | None = None) -> None:
    """Calibrate a model that was trained, if there are enough validation images, and write its card.

    validation: walks through those that the training has held out of its images, by a share.

    Without them its probabilities stay as they are: the test images have to stay unseen, and the network is too certain
    of those that it was trained on.
    """
    from foveal.train.calibration import FEW_IMAGES
    from foveal.train.calibration import calibrate as calibrated
    from foveal.train.model_card import write_card

    given = 0 if dataset.images_validation is None else len(dataset.images_validation)
    count = given if validation is None else validation.count
    if count is not None and count >= FEW_IMAGES:
        calibrated(folder, dataset, validation=validation)
    write_card(folder, dataset)
