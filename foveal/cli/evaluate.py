"""foveal evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from foveal.cli.augment_options import tta_option
from foveal.cli.data_dir_options import data_dir_option
from foveal.cli.folders_options import folder_options_of_run, read_data
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
from foveal.errors import DataError

if TYPE_CHECKING:
    from foveal.data.dataset import Dataset, Images, Labels
    from foveal.data.decoding.preprocessing import Preprocessing
    from foveal.train.checkpoint import ModelDescription


@click.command()
@run_argument
@click.argument("data")
@threads_option
@code_option
@click.option("--threshold", "target", metavar="CLASS", help="Pick a threshold for the probability of this class.")
@click.option(
    "--by",
    metavar="RULE",
    default="f1",
    show_default=True,
    help="What --threshold optimizes: f1, precision=0.9, recall=0.9, or cost=1:5 (of a false positive : of a false"
    " negative).",
)
@click.option(
    "--part",
    type=click.Choice(["test", "validation", "train", "all"]),
    default="test",
    show_default=True,
    help="The images that are looked at. A folder without parts is divided as in training; of new images take all.",
)
@folder_options_of_run
@tta_option
@data_dir_option
@json_option
def evaluate(
    run: Path,
    data: str,
    threads: int | None,
    code: tuple[str, ...],
    target: str | None,
    by: str,
    part: str,
    tta: str | None,
    as_json: bool,
    images: dict[str, Any],
) -> None:
    """Test the model of RUN on the test images of DATA.

    Classes are the same in both if they have the same name, in any order, and DATA may lack some. Where one of both has
    numbers instead of names, there have to be as many classes in both, and their order counts.

    Prints loss, accuracy and calibration, precision, recall and F1 of each class, and, for up to 20 classes, which are
    taken for which. The loss, and all that is told of probabilities, is of those that the network says; where the model
    is calibrated, cross-entropy and calibration are told with its temperature too.

    --json prints "data", "images", "accuracy", "loss", "top_k", "classes" (one entry each), "averages", "confusion"
    (rows are labels), "calibration", "calibrated" ("temperature", and "loss", "ece" and "brier" with it; null where
    the model is not calibrated), "tta" (the test-time augmentation, or null), and "threshold" with its curves where
    one is picked.

    A network of one's own is built from its class, which has to be imported: --code mynet.py.
    """
    import numpy as np

    from foveal.metrics.curves import parse_rule
    from foveal.metrics.tables import tables
    from foveal.train.checkpoint import load_net
    from foveal.train.evaluate import calibrated_scores, classification_report, predict, threshold_report
    from foveal.train.views import NONE, views

    set_threads(threads)
    net, trained = load_net(run, cls=classes_in(code))
    dataset = read_data(data, images, err=as_json, like=reading(trained), run=run)
    # All arguments are checked before the network runs, which may take minutes.
    numbers = trained.check(dataset)
    chosen = None if target is None else class_number(target, trained.classes)
    rule = parse_rule(by)
    # The labels as numbers of the model's classes, whose order may be another one.
    parts = parts_of(dataset, part)
    labels = numbers[np.concatenate([y for _, y in parts])]
    tta = None if tta == NONE else tta or trained.tta
    logits = np.concatenate([predict(net, x, mean=trained.mean, std=trained.std, tta=tta) for x, _ in parts])
    results = {"data": dataset.name, "images": len(labels), **classification_report(logits, labels, trained.classes)}
    results |= {"calibrated": calibrated_scores(logits, labels, trained.temperature), "tta": tta}
    if chosen is not None:
        picked = threshold_report(logits, labels, chosen, rule)
        results["threshold"] = {"class": trained.classes[chosen], "by": by, **picked}
    if as_json:
        show_json(results)
        return
    if tta is not None:
        echo(f"Each image is averaged over {len(views(tta))} views ({tta}).")
    for heading, columns, rows in tables(results):
        if heading:
            echo(heading)
        show_table(columns, rows)


def reading(trained: ModelDescription) -> Preprocessing:
    """Return how the model reads image files."""
    from foveal.data.decoding.pixels import BLACK
    from foveal.data.decoding.preprocessing import Preprocessing

    # Where a model file says nothing of it, what is transparent is black.
    return trained.preprocessing or Preprocessing(trained.channels, trained.size, background=BLACK)


def parts_of(dataset: Dataset, part: str) -> list[tuple[Images, Labels]]:
    """Return images and labels of a part of the data, or of all. Raises DataError where there is no such part."""
    found: dict[str, tuple[Any, Any]] = {
        "train": (dataset.images_train, dataset.y_train),
        "validation": (dataset.images_validation, dataset.y_validation),
        "test": (dataset.images_test, dataset.y_test),
    }
    there = {name: pair for name, pair in found.items() if pair[0] is not None}
    if part != "all" and part not in there:
        raise DataError(f"--part {part}: {dataset.name} has no such part; it has {', '.join(there)}")
    return list(there.values()) if part == "all" else [there[part]]


def class_number(name: str, classes: Sequence[str]) -> int:
    """Return the number of a class from its name or its number; raise DataError if there is no such class."""
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise DataError(f"--threshold {name}: the model knows the classes {', '.join(classes)}")
