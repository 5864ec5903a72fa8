"""foveal evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
from foveal.errors import DataError


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
@tta_option
@json_option
def evaluate(
    run: Path,
    data: str,
    threads: int | None,
    code: tuple[str, ...],
    target: str | None,
    by: str,
    tta: str | None,
    as_json: bool,
) -> None:
    """Test the model of RUN on the test images of DATA.

    Classes are the same in both if they have the same name, in any order, and DATA may lack some. Where one of both has
    numbers instead of names, there have to be as many classes in both, and their order counts.

    Prints loss, accuracy and calibration, precision, recall and F1 of each class, and, for up to 20 classes, which are
    taken for which.

    --json prints "data", "images", "accuracy", "loss", "top_k", "classes" (one entry each), "averages", "confusion"
    (rows are labels), "calibration", and "threshold" with its curves where one is picked.

    A network of one's own is built from its class, which has to be imported: --code mynet.py.
    """
    from foveal.data.readers import load
    from foveal.metrics.curves import parse_rule
    from foveal.metrics.tables import tables
    from foveal.train.checkpoint import load_net
    from foveal.train.evaluate import classification_report, predict, threshold_report

    set_threads(threads)
    net, trained = load_net(run, cls=classes_in(code))
    dataset = load(data)
    # All arguments are checked before the network runs, which may take minutes.
    numbers = trained.check(dataset)
    chosen = None if target is None else class_number(target, trained.classes)
    rule = parse_rule(by)
    # The labels as numbers of the model's classes, whose order may be another one.
    labels = numbers[dataset.y_test]
    logits = predict(net, dataset.images_test, mean=trained.mean, std=trained.std, tta=tta)
    results = {
        "data": dataset.name,
        "images": len(dataset.images_test),
        **classification_report(logits, labels, trained.classes),
    }
    if chosen is not None:
        picked = threshold_report(logits, labels, chosen, rule)
        results["threshold"] = {"class": trained.classes[chosen], "by": by, **picked}
    if as_json:
        show_json(results)
        return
    for heading, columns, rows in tables(results):
        if heading:
            echo(heading)
        show_table(columns, rows)


def class_number(name: str, classes: Sequence[str]) -> int:
    """Return the number of a class from its name or its number; raise DataError if there is no such class."""
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    raise DataError(f"--threshold {name}: the model knows the classes {', '.join(classes)}")
