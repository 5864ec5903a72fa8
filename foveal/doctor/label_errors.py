"""`label_errors`: the images whose labels are likely wrong, as a table, a CSV and a page with pictures."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foveal.data.dataset import Dataset
from foveal.data.threads import Bar
from foveal.display import Table, Tables, escaped
from foveal.doctor import page
from foveal.doctor.confident import Confident, confident
from foveal.doctor.pictures import ArrayPictures
from foveal.doctor.probing import by_probe, by_training, check_folds, features_of, of_size
from foveal.errors import DataError
from foveal.files import write_whole
from foveal.names import printable
from foveal.train.checkpoint import METRICS, load_net
from foveal.train.settings import Options

Method = Literal["training", "probe"]
Probabilities = NDArray[np.float64]

# Rows of the table, and pictures of the page.
SHOWN, ERRORS = 20, 300
# The estimated share of wrong labels from which on it is the network that is doubted first. Of ten well-known sets at
# most about 10% are wrong (Northcutt, Athalye and Mueller 2021).
DOUBTED = 0.2
# Options of the run that a training without a fold takes over.
_TAKEN = (
    "epochs",
    "batch_size",
    "lr",
    "optimizer",
    "schedule",
    "momentum",
    "momentum_low",
    "weight_decay",
    "clip_norm",
    "flip",
    "balance",
    "label_smoothing",
)
# Epochs of a training without a fold that half of the run's are not cut below: a network that has hardly learned its
# images takes many hard ones for errors.
ENOUGH = 8
COLUMNS = ("image", "part", "given", "likely", "p_given", "p_likely")


@dataclass(frozen=True)
class LabelError:
    """An image whose label is likely wrong."""

    #: Its path, or its part and place in the arrays, such as "train[17]".
    image: str
    part: str
    #: The name of the class that it is labelled as, and of the one that is likelier.
    given: str
    likely: str
    #: Their probabilities by models that were not trained on the image.
    p_given: float
    p_likely: float
    #: Its place among all images of the data set.
    index: int

    def as_json(self) -> dict[str, Any]:
        """Return all but the index as a dict, ready for JSON."""
        values = {name: getattr(self, name) for name in COLUMNS}
        return {name: printable(v) if isinstance(v, str) else round(v, 6) for name, v in values.items()}


@dataclass(frozen=True, eq=False, repr=False)
class LabelErrors(Tables):
    """The images whose labels are likely wrong, the most likely first. It prints as a table.

    `write_csv(path)` writes all of them, `write_html(path)` a page with pictures.
    """

    #: The name of the data set.
    name: str
    #: How the probabilities came about: "training" or "probe", and the folds of the cross-validation.
    method: str
    folds: int
    #: Images that were judged, and the share of them whose labels are wrong by the estimated joint distribution.
    images: int
    share: float
    #: How many images of each label (row) count as each class [K, K], and the names of the classes.
    joint: NDArray[np.int64]
    classes: tuple[str, ...]
    errors: tuple[LabelError, ...]
    seconds: float
    #: Where the pictures of a page come from.
    pictures: ArrayPictures

    def lines(self) -> Iterator[str]:
        """Yield what was found as sentences."""
        how = "networks trained" if self.method == "training" else "linear classifiers on the run's features, trained"
        yield (
            f"{len(self.errors):,} of {self.images:,} labels of {self.name} are likely wrong, by {how} without the"
            f" image in question ({self.folds} folds); about {self.share:.1%} of all labels are estimated to be wrong."
        )
        if self.errors:
            yield "Look at each: some are only hard, or show two things at once."
        if self.share > DOUBTED:
            yield (
                "So large a share comes from a weak network more often than from wrong labels: if the first ones look"
                " right to you, train a better one (more epochs, larger images) before you believe the others."
            )

    def tables(self) -> Iterator[Table]:
        rows = [(e.image, e.given, e.likely, f"{e.p_given:.1%}", f"{e.p_likely:.1%}") for e in self.errors[:SHOWN]]
        yield " ".join(self.lines()), ("image", "label", "likelier", "p(label)", "p(likelier)"), rows

    def as_json(self) -> dict[str, Any]:
        """Return "data", "method", "folds", "images", "share", "classes", "joint", "errors", "seconds"."""
        return {
            "data": printable(self.name),
            "method": self.method,
            "folds": self.folds,
            "images": self.images,
            "share": self.share,
            "classes": [printable(name) for name in self.classes],
            "joint": self.joint.tolist(),
            "errors": [error.as_json() for error in self.errors],
            "seconds": round(self.seconds, 3),
        }

    def write_csv(self, path: str | Path) -> None:
        """Write all of them: image, part, given, likely, p_given, p_likely. Raises DataError if it cannot be."""
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(COLUMNS)
        for error in self.errors:
            table.writerow(
                [getattr(error, name) for name in COLUMNS[:4]] + [f"{error.p_given:.6f}", f"{error.p_likely:.6f}"]
            )
        try:
            write_whole(Path(path), text.getvalue().encode(errors="surrogateescape"))
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}; choose another file") from None

    def write_html(self, path: str | Path) -> None:
        """Write a page with pictures of the most likely ones: one file, which needs nothing else."""
        figures = []
        for error in self.errors[:ERRORS]:
            lines = [
                f"<b>{escaped(error.given)}</b> &rarr; <b>{escaped(error.likely)}</b>",
                f"{error.p_given:.1%} &rarr; {error.p_likely:.1%}",
                escaped(page.short(error.image)),
            ]
            figures.append(f'<div class="group">{page.figure(self.pictures, error.index, error.image, lines)}</div>')
        more = len(self.errors) - ERRORS
        notes = list(self.lines())
        if more > 0:
            notes.append(f"The {ERRORS} most likely ones are shown; the CSV has all.")
        legend = '<p class="quiet">Under each image: its label &rarr; the likelier class, their probabilities.</p>'
        body = f'<section>{legend}<div class="groups">{"".join(figures)}</div></section>'
        page.write(path, f"Likely label errors: {self.name}", notes, [body])


def label_errors(
    run: str | Path,
    data: Dataset,
    *,
    method: Method = "training",
    folds: int = 4,
    epochs: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> LabelErrors:
    """Return the training images whose labels are likely wrong, by confident learning.

        errors = foveal.doctor.label_errors("runs/photos", foveal.data.load("photos"))
        print(errors)
        errors.write_html("label-errors.html")

    run: the folder of a training on `data`. method: "training" trains the run's network anew without each fold, with
    the run's options; "probe" trains linear classifiers on the features of the run's network. The probe takes seconds,
    and finds few errors if the network has learned the labels by heart, as after many epochs on few images; it is for
    networks that have not, such as a frozen one that others trained. folds: of the cross-validation. epochs: of each
    training; half of the run's if not given, since wrong labels are learned last (Arpit et al. 2017), and no fewer than
    8 or those of the run. quiet: True to show no progress.

    An image is found if its probability of another class reaches what is usual for images of that class, and its own
    label's does not count for more (Northcutt, Jiang and Chuang 2021). Raises DataError if the run is not one on such
    data, and for a class of one image.
    """
    started = time.perf_counter()
    net, trained = load_net(run)
    numbers = trained.check(data)
    if not np.array_equal(numbers, np.arange(len(data.classes))) or len(data.classes) != len(trained.classes):
        raise DataError(
            f"label_errors: {data.name} has its classes in another order than the run, or lacks some of them; give the"
            " data that the run was trained on"
        )
    labels, pictures = data.y_train, ArrayPictures(data)
    check_folds(labels, folds, data.classes)
    # Either way gives probabilities [n, K], each image's by networks that were fitted without its fold.
    with Bar("judging labels in", folds, "folds", quiet=quiet) as bar:
        if method == "probe":
            features = features_of(net, of_size(data.images_train, data.size), trained)
            found = by_probe(features, labels, len(data.classes), folds, seed, bar.advance)
        elif trained.model is None:
            raise DataError(
                f'{run}: holds a network of one\'s own, which cannot be built anew here; take method="probe" (--method'
                " probe)"
            )
        else:
            options = options_of(Path(run), epochs)
            found = by_training(data, trained.model, folds, seed, bar.advance, **options)
    result = confident(labels, found)
    return LabelErrors(
        name=data.name,
        method=method,
        folds=folds,
        images=len(labels),
        share=result.share,
        joint=result.joint,
        classes=data.classes,
        errors=errors_of(pictures, labels, found, result),
        seconds=time.perf_counter() - started,
        pictures=pictures,
    )


def errors_of(
    pictures: ArrayPictures, labels: NDArray[np.int64], found: Probabilities, result: Confident
) -> tuple[LabelError, ...]:
    """Return the likely errors among training images."""
    names, start = pictures.classes, pictures.starts["train"]
    return tuple(
        LabelError(
            image=pictures.title(start + row),
            part="train",
            given=names[labels[row]],
            likely=names[result.counted[row]],
            p_given=float(found[row, labels[row]]),
            p_likely=float(found[row, result.counted[row]]),
            index=start + row,
        )
        for row in result.wrong.tolist()
    )


def options_of(run: Path, epochs: int | None) -> dict[str, Any]:
    """Return the options of `train` for a training without a fold: those of the run, and half of its epochs."""
    folder = run if run.is_dir() else run.parent
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{folder}: {METRICS}, which says how the network was trained, is not there or damaged; give the folder of"
            ' a finished run, or take method="probe" (--method probe)'
        ) from None
    known = {field.name for field in fields(Options)}
    options = {name: metrics[name] for name in _TAKEN if name in known and metrics.get(name) is not None}
    if isinstance(metrics.get("augment"), str):
        options["augment"] = metrics["augment"]
    whole = int(options.get("epochs", ENOUGH))
    options["epochs"] = epochs or min(whole, max(ENOUGH, -(-whole // 2)))
    return options
