"""The tables that `foveal evaluate` prints, from train.evaluate.classification_report."""

from collections.abc import Iterator, Mapping
from typing import Any, NotRequired, TypedDict, cast

from foveal.display import Table, Tables

# The confusion matrix is printed for at most this many classes, which fit the width of a terminal.
MAX_CLASSES = 20
# Columns of the matrix are headed by the classes' names if none is longer than this; else classes are numbered.
MAX_NAME = 6
SCORES = ("precision", "recall", "f1")

ClassEntry = TypedDict(
    "ClassEntry",
    {
        "class": str,
        "images": int,
        "precision": float,
        "recall": float,
        "f1": float,
        "auc": float | None,
        "average_precision": float | None,
    },
)


class BinEntry(TypedDict):
    """A bin of the reliability table: calibration.Bin."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


class CalibrationEntry(TypedDict):
    """Calibration errors, the Brier score and the reliability table."""

    ece: float
    mce: float
    brier: float
    bins: list[BinEntry]


class Evaluation(TypedDict):
    """What an evaluation prints, as it stands in its JSON."""

    # The name of the data set, and how many images were tested; `foveal evaluate` alone knows them.
    data: NotRequired[str]
    images: NotRequired[int]
    accuracy: float
    loss: float
    # Top-k accuracies by k.
    top_k: dict[str, float]
    # One entry per class, and averages of SCORES by their name.
    classes: list[ClassEntry]
    averages: dict[str, dict[str, float]]
    # Rows are labels, columns predictions.
    confusion: list[list[int]]
    calibration: CalibrationEntry
    # By division of the logits by the temperature of the model file, if it has one: temperature, loss, ece, brier.
    calibrated: NotRequired[dict[str, float] | None]
    # The threshold that was picked, if one was asked for, with its curves.
    threshold: NotRequired[dict[str, object]]


def tables(evaluation: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables of an Evaluation: all images, classes, confusion matrix, calibration, threshold.

    The confusion matrix is left out if there are many classes, the threshold if none was picked.
    """
    report = cast(Evaluation, evaluation)
    yield overall(report)
    if (calibrated := report.get("calibrated")) is not None:
        yield both(report, calibrated)
    yield by_class(report)
    if len(report["classes"]) <= MAX_CLASSES:
        yield confusion(report)
    yield reliability(report)
    if "threshold" in report:
        picked = {name: value for name, value in report["threshold"].items() if value is not None}
        lines: list[tuple[str, ...]] = [
            (name.replace("_", " "), six_digits(value)) for name, value in picked.items() if "curve" not in name
        ]
        yield "", ("", ""), lines


class ClassificationReport(Tables, dict[str, Any]):
    """All metrics of a classifier as a dict, ready for JSON, that is printed as tables.

    `plot_confusion` takes it, too.
    """

    def tables(self) -> Iterator[Table]:
        """Yield the tables that `foveal evaluate` prints."""
        yield from tables(self)


def six_digits(value: object) -> str:
    """Return a float with six digits, so that a threshold can be used; anything else as it prints."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def both(report: Evaluation, calibrated: Mapping[str, float]) -> Table:
    """Return what the network's own probabilities are worth, and the calibrated ones."""
    own = report["loss"], report["calibration"]["ece"], report["calibration"]["brier"]
    rows = [
        ("as the network says", *map(four_places, own)),
        ("calibrated", *(four_places(calibrated[name]) for name in ("loss", "ece", "brier"))),
    ]
    heading = f"Probabilities, calibrated by the temperature {calibrated['temperature']:.4g}:"
    return heading, ("", "cross-entropy", "ECE", "Brier"), rows


def four_places(value: float | None) -> str:
    """Return a number with four decimal places; a dash if there is none."""
    return "-" if value is None else f"{value:.4f}"


def overall(report: Evaluation) -> Table:
    """Return the scores over all images, in one row."""
    tops = {f"top-{k}": f"{value:.2%}" for k, value in report["top_k"].items()}
    columns = ("data", "images", "loss", "accuracy", *tops, "ECE", "Brier")
    row = (
        report.get("data", ""),
        f"{sum(entry['images'] for entry in report['classes']):,}",
        four_places(report["loss"]),
        f"{report['accuracy']:.2%}",
        *tops.values(),
        four_places(report["calibration"]["ece"]),
        four_places(report["calibration"]["brier"]),
    )
    return "", columns, [row]


def by_class(report: Evaluation) -> Table:
    """Return a row per class, and a row per average."""
    rows = [
        (
            entry["class"],
            f"{entry['images']:,}",
            *map(four_places, (entry["precision"], entry["recall"], entry["f1"])),
            *map(four_places, (entry["auc"], entry["average_precision"])),
        )
        for entry in report["classes"]
    ]
    for name, average in report["averages"].items():
        rows.append((f"({name})", "", *(four_places(average[score]) for score in SCORES), "", ""))
    return "", ("class", "images", *SCORES, "AUC", "average precision"), rows


def reliability(report: Evaluation) -> Table:
    """Return a row for each bin of confidence that holds images."""
    rows: list[tuple[str, ...]] = [
        (
            f"{one['low']:.3f} - {one['high']:.3f}",
            f"{one['images']:,}",
            four_places(one["confidence"]),
            four_places(one["accuracy"]),
        )
        for one in report["calibration"]["bins"]
        if one["images"]
    ]
    heading = "How sure the network was, and how often it was right:"
    return heading, ("confidence", "images", "mean", "accuracy"), rows


def confusion(report: Evaluation) -> Table:
    """Return the confusion matrix with a dot for 0; its columns are numbered if names of classes are long."""
    names = [entry["class"] for entry in report["classes"]]
    numbered = any(len(name) > MAX_NAME for name in names)
    heads = [str(k) if numbered else name for k, name in enumerate(names)]
    rows = [
        (f"{k} {name}" if numbered else name, *(str(n) if n else "." for n in counts))
        for k, (name, counts) in enumerate(zip(names, report["confusion"], strict=True))
    ]
    return "Which class (row) was taken for which (column):", ("", *heads), rows
