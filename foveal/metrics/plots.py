"""Pictures of what metrics measure, as Matplotlib figures: ROC, precision and recall, confusion, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from foveal.arguments import checked
from foveal.errors import DataError
from foveal.metrics import checks
from foveal.metrics.calibration import BINS, calibration
from foveal.metrics.classes import ConfusionMatrix, checked_counts, share
from foveal.metrics.curves import Curve, average_precision, precision_recall_curve, roc_auc, roc_curve
from foveal.plotting import COLOURS, blank, short, whole_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# So many curves have a colour and a line of the legend each; more of them are drawn alike.
MAX_CURVES = len(COLOURS)
# Numbers are written into the cells of a matrix of up to so many classes, and names next to one of up to so many.
MAX_WRITTEN, MAX_NAMED = 20, 60
# What a confusion matrix may be divided by: the images of each row, of each column, or all of them; as scikit-learn.
NORMALIZE = ("true", "pred", "all")


@checked
def plot_roc(labels: ArrayLike, scores: ArrayLike, classes: Sequence[str] | None = None, title: str = "ROC") -> Figure:
    """Return a figure of the true positive rate by the false positive rate, with the area below each curve (AUC).

    Of one class: labels [N], True for its images, and scores [N]. Of all classes, each against the others: labels [N],
    class numbers, and scores [N, K], probabilities for instance; classes: their K names. A class without images among
    the labels has no curve, which the legend says. Raises DataError as `roc_curve`, PackageError without Matplotlib.

        metrics.plot_roc(labels, probabilities, classes=data.classes).savefig("roc.png")
    """
    return plot_curves("plot_roc", labels, scores, classes, title, roc_curve, roc_auc, "AUC")


@checked
def plot_precision_recall(
    labels: ArrayLike, scores: ArrayLike, classes: Sequence[str] | None = None, title: str = "Precision and recall"
) -> Figure:
    """Return a figure of the precision by the recall, with the average precision of each curve (AP).

    labels, scores, classes: as `plot_roc` takes them. The dotted line of one class is the precision of guessing.
    Raises DataError as `precision_recall_curve`, PackageError without Matplotlib.
    """
    return plot_curves(
        "plot_precision_recall", labels, scores, classes, title, precision_recall_curve, average_precision, "AP"
    )


def plot_curves(
    metric: str,
    labels: ArrayLike,
    scores: ArrayLike,
    classes: Sequence[str] | None,
    title: str,
    curve_of: Callable[[ArrayLike, ArrayLike], Curve],
    area_of: Callable[[ArrayLike, ArrayLike], float],
    area: str,
) -> Figure:
    """Return a figure of one curve, or of one for each class. area: the name of what `area_of` returns."""
    pairs = list(against_the_rest(metric, labels, scores, classes))
    drawn = [(name, curve_of(y, s), area_of(y, s)) for name, y, s in pairs if y.any() and not y.all()]
    if not drawn:
        raise DataError(f"{metric}: a curve needs images of a class and others; all images have one label")
    figure = blank(7.6 if len(drawn) > 1 else 5, 4.8)
    axis = figure.subplots()
    many = len(drawn) > MAX_CURVES
    for i, (name, curve, value) in enumerate(drawn):
        text = ", ".join(filter(None, (short(name), f"{area} {value:.3f}")))
        style = {"color": COLOURS[0], "alpha": 0.3} if many else {"color": COLOURS[i], "label": text}
        axis.plot(curve.x, curve.y, drawstyle="default" if area == "AUC" else "steps-post", **style)
    # What guessing gives.
    base = float(pairs[0][1].mean())
    if area == "AUC":
        axis.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    elif len(pairs) == 1:
        axis.plot([0, 1], [base, base], ":", color="grey", linewidth=1)
    areas = [value for _, _, value in drawn]
    notes = [f"{len(drawn)} classes: {area} {min(areas):.3f} to {max(areas):.3f}"] if many else []
    missing = len(pairs) - len(drawn)
    notes += [f"{missing} without images, not drawn"] if missing else []
    for note in notes:
        axis.plot([], [], " ", label=note)
    axis.set(xlabel=drawn[0][1].x_name, ylabel=drawn[0][1].y_name, title=short(title, 60))
    axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axis.grid(alpha=0.25)
    # Beside the curves, unless there is one: it leaves the corner below free.
    if len(drawn) > 1:
        figure.legend(fontsize=8, loc="outside right center")
    else:
        axis.legend(fontsize=8, loc="lower right" if area == "AUC" else "lower left")
    return figure


def against_the_rest(
    metric: str, labels: ArrayLike, scores: ArrayLike, classes: Sequence[str] | None
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, labels [N] as booleans and scores [N] of each class, or of the one that is meant."""
    values = checks.numbers(metric, "scores", scores)
    if values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1):
        if classes is not None and len(classes) != 1:
            raise DataError(f"{metric}: {len(classes)} names of classes and scores of one; give scores [N, K]")
        y = checks.class_numbers(metric, "label", labels, len(values), 2)
        yield (classes[0] if classes else ""), y == 1, values.reshape(len(values))
        return
    values, y = checks.scores_and_labels(metric, scores, labels)
    names = checked_names(metric, classes, values.shape[1])
    for k, name in enumerate(names):
        yield name, y == k, values[:, k]


def checked_names(metric: str, classes: Sequence[str] | None, count: int) -> list[str]:
    """Return a name for each class; their numbers if none are given."""
    if classes is None:
        return [str(k) for k in range(count)]
    if len(classes) != count:
        raise DataError(f"{metric}: {len(classes)} names of classes, and {count} classes; give one name for each")
    return list(map(str, classes))


@checked
def plot_confusion(
    confusion: ArrayLike | Mapping[str, Any],
    classes: Sequence[str] | None = None,
    normalize: str | None = None,
    title: str = "Confusion matrix",
) -> Figure:
    """Return a figure of a confusion matrix: a row for each label, a column for each prediction.

    confusion: counts [K, K] as `confusion_matrix` returns them, or what `train.classification_report` returns.
    classes: the K names; those of the matrix or the report, or numbers, if not given. normalize: "true" divides each
    row by its sum, so that the diagonal is the recall of each class; "pred" each column (precision), "all" everything
    by the number of images, as in scikit-learn. Numbers stand in the cells of up to 20 classes. Raises DataError for
    what is no matrix of counts, PackageError without Matplotlib.
    """
    if isinstance(confusion, Mapping):
        if not {"confusion", "classes"} <= confusion.keys():
            raise DataError(
                "plot_confusion: the mapping has no 'confusion' and 'classes'; give what train.classification_report"
                " returns, or the counts [K, K]"
            )
        classes = [entry["class"] for entry in confusion["classes"]] if classes is None else classes
        confusion = confusion["confusion"]
    if normalize is not None and normalize not in NORMALIZE:
        raise DataError(f"plot_confusion: normalize is {normalize!r}; choose one of {', '.join(NORMALIZE)}, or None")
    if classes is None and isinstance(confusion, ConfusionMatrix):
        classes = confusion.classes
    counts = checked_counts(np.asarray(confusion), "plot_confusion")
    names = checked_names("plot_confusion", classes, len(counts))
    values = normalized(counts.astype(np.float64), normalize)
    # With many classes, every n-th is named.
    step = max(1, -(-len(names) // MAX_NAMED))
    ticks, size = range(0, len(names), step), 9 if len(names) <= MAX_WRITTEN else 6
    shown = [short(names[k], 18) for k in ticks]
    # Inches: of the cells, and of the names beside and below them.
    side, beside = min(max(2.4, 0.44 * len(names)), 9), 0.085 * max(map(len, shown))
    figure = blank(side + beside + 1.7, side + beside + 0.9)
    axis = figure.subplots()
    image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1 if normalize in ("true", "pred") else None)
    axis.set(xlabel="prediction", ylabel="label", title=short(title, 60))
    axis.set_xticks(ticks, shown, fontsize=size, rotation=90 if max(map(len, shown)) > 3 else 0)
    axis.set_yticks(ticks, shown, fontsize=size)
    if len(names) <= MAX_WRITTEN:
        write_cells(axis, values, counts if normalize is None else None)
    bar = figure.colorbar(image, ax=axis, label="images" if normalize is None else "share of images", shrink=0.85)
    if normalize is None:
        whole_steps(bar.ax.yaxis)
    return figure


def normalized(counts: Any, normalize: str | None) -> Any:
    """Return the counts [K, K] divided as `plot_confusion` says; 0 / 0 is 0."""
    if normalize == "true":
        return np.stack([share(row, np.full(len(row), row.sum())) for row in counts])
    if normalize == "pred":
        return normalized(counts.T, "true").T
    return counts / counts.sum() if normalize == "all" else counts


def write_cells(axis: Axes, values: Any, counts: Any) -> None:
    """Write each cell's number into it, light on dark cells. counts: None for shares."""
    middle = values.max() / 2
    for i, j in np.ndindex(values.shape):
        text = f"{values[i, j]:.2f}" if counts is None else str(counts[i, j])
        size = 9 if len(text) < 4 else 7 if len(text) < 6 else 5
        # Zeros are faint, as they would hide what is there.
        alpha, colour = 0.35 if values[i, j] == 0 else 1.0, "white" if values[i, j] > middle else "black"
        axis.text(j, i, text, ha="center", va="center", fontsize=size, color=colour, alpha=alpha)


@checked
def plot_calibration(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS, title: str = "Calibration"
) -> Figure:
    """Return a reliability diagram: how often the network was right by how sure it was, and how many images there are.

    probabilities [N, K], labels [N], bins: as `calibration` takes them. A bar below the diagonal is a network that is
    surer than it is right. Raises DataError as `calibration`, PackageError without Matplotlib.
    """
    found = calibration(probabilities, labels, bins)
    figure = blank(5, 5.4, title)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = [one for one in found.bins if one.images]
    starts, width = [one.low for one in filled], found.bins[0].high - found.bins[0].low
    upper.bar(starts, [one.accuracy for one in filled], width, align="edge", color=COLOURS[0], label="accuracy")
    # From the accuracy to the mean confidence.
    gaps = [one.confidence - one.accuracy for one in filled]
    upper.bar(
        starts,
        gaps,
        width,
        bottom=[one.accuracy for one in filled],
        align="edge",
        color="none",
        edgecolor=COLOURS[1],
        hatch="//",
        label="to mean confidence",
    )
    upper.plot([0, 1], [0, 1], ":", color="grey", linewidth=1)
    upper.set(ylabel="accuracy", ylim=(0, 1), xlim=(0, 1))
    upper.set_title(f"ECE {found.ece:.3f}, largest gap {found.mce:.3f}", fontsize=10)
    upper.legend(fontsize=8, loc="upper left")
    lower.bar(starts, [one.images for one in filled], width, align="edge", color=COLOURS[0])
    lower.set(xlabel="confidence", ylabel="images")
    return figure
