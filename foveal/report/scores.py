"""What a model's answers are worth: scores by class with intervals, curves, confusion, calibration, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveal import metrics
from foveal.display import escaped
from foveal.errors import DataError
from foveal.metrics.curves import count_by_threshold
from foveal.report import charts, page
from foveal.report.charts import Axis, Series
from foveal.report.pictures import heat_map
from foveal.report.predictions import Predictions

# Classes that have a row of their own in the table, a curve each, a row in the matrix of numbers, and a name in a text.
MAX_ROWS, MAX_CURVES, MAX_CELLS, MAX_PAIRS = 100, 8, 20, 12
# Points of a curve.
MAX_POINTS = 500
# Numbers that a temperature is fitted on.
MAX_FITTED = 1 << 20
# Probabilities that calibration is measured on.
MAX_CALIBRATED = 1 << 23
# What answers are wanted to be right by, as shares.
PRECISIONS = (0.9, 0.95, 0.98, 0.99)
# The precision that a class of its own is asked for.
WANTED = 0.95


@dataclass(frozen=True)
class Ranked:
    """One class against the rest, at every threshold.

    It is what `metrics.roc_curve` and `precision_recall_curve` compute by scikit-learn, which takes longer to be
    imported than all of a report takes otherwise; a test compares both.
    """

    #: from the highest threshold on, with the point at which no image is of the class: [T + 1]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    false_positive_rate: NDArray[np.float64]

    @classmethod
    def of(cls, positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Ranked:
        """Return it for scores [n] of images that are of the class, or not."""
        counts = count_by_threshold(positive, scores, above=False)
        rate = counts.false_positives / counts.negatives
        return cls(np.append(0.0, counts.recall), np.append(1.0, counts.precision), np.append(0.0, rate))

    @property
    def auc(self) -> float:
        """The area below the ROC curve."""
        steps, sums = np.diff(self.false_positive_rate), self.recall[1:] + self.recall[:-1]
        return float((steps * sums).sum() / 2)

    @property
    def average_precision(self) -> float:
        """sum_n (R_n - R_{n-1}) P_n"""
        return float((np.diff(self.recall) * self.precision[1:]).sum())

    @property
    def precision_recall(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The points of the curve of precision (y) by recall (x)."""
        return self.recall, self.precision

    @property
    def roc(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The points of the curve of the true positive rate (y) by the false positive rate (x)."""
        return self.false_positive_rate, self.recall


AUC, AVERAGE = attrgetter("auc"), attrgetter("average_precision")


class Scores:
    """All sections about what a model says on one part, with the validation part to fit temperature and thresholds.

    temperature: that of the model file, by which `foveal predict` divides logits. Thresholds are on its probabilities.
    """

    def __init__(self, parts: Mapping[str, Predictions], classes: Sequence[str], temperature: float = 1.0) -> None:
        self.classes, self.temperature = classes, temperature
        #: the part that is measured, and the one that is fitted on; None if there is one part alone
        self.part = parts.get("test") or parts["validation"]
        self.fitting = parts.get("validation") if "test" in parts else None
        #: what thresholds are picked on, and what they are tried on
        self.picked, self.tried = calibrated(self.fitting or self.part, temperature), calibrated(self.part, temperature)
        K = len(classes)
        self.counts = metrics.confusion_matrix(self.part.label, self.part.predicted, K)
        self.scores = metrics.class_scores(self.counts)
        # The classes with rows of their own: all, or those that are recognised worst.
        known = np.flatnonzero(np.asarray(self.scores.images) > 0)
        worst = known[np.argsort(np.asarray(self.scores.f1)[known], kind="stable")][:MAX_ROWS]
        self.shown: NDArray[np.int64] = np.arange(K) if K <= MAX_ROWS else np.sort(worst)
        p, y = self.part.probability, self.part.label
        #: by class, where there are images of it and others
        self.ranked = {
            int(k): Ranked.of(y == k, p[:, k].astype(np.float64))
            for k in self.shown
            if (y == k).any() and not (y == k).all()
        }

    @property
    def where(self) -> str:
        """On which images, as words."""
        count, images = len(self.part.label), self.part.images
        some = f"{count:,} of " if count < images else ""
        return f"{some}{images:,} {self.part.part} images"

    def numbers(self) -> list[tuple[str, str, str]]:
        """Return the large numbers: accuracy with its interval, loss, calibration."""
        right, n = int(self.part.right.sum()), len(self.part.label)
        low, high = metrics.wilson_interval(right, n)
        note = f"95 %: {100 * low:.1f} to {100 * high:.1f} %"
        found = [
            (f"{self.part.part} accuracy", f"{right / n:.2%}", note),
            (f"{self.part.part} loss", f"{self.part.loss:.4f}", "cross-entropy, as the network says"),
        ]
        if self.temperature != 1:
            note = f"cross-entropy, calibrated, T = {self.temperature:.3g}"
            found.append((f"{self.part.part} loss, calibrated", f"{self.tried.loss:.4f}", note))
        return found

    def by_class(self) -> str:
        """Return the table of classes."""
        s, rows = self.scores, []
        for k in self.shown.tolist():
            images, hits = int(s.images[k]), int(self.counts[k, k])
            low, high = metrics.wilson_interval(hits, images)
            # Rows of the confusion matrix are labels, columns answers: recall is of row k, precision of column k.
            asked = int(self.counts[:, k].sum())
            p_low, p_high = metrics.wilson_interval(hits, asked)
            ranked = self.ranked.get(k)
            rows.append(
                [
                    self.classes[k],
                    f"{images:,}",
                    f"{s.precision[k]:.3f}" if asked else "-",
                    f"{p_low:.3f} - {p_high:.3f}" if asked else "-",
                    f"{s.recall[k]:.3f}" if images else "-",
                    f"{low:.3f} - {high:.3f}" if images else "-",
                    f"{s.f1[k]:.3f}",
                    "-" if ranked is None else f"{ranked.auc:.4f}",
                    "-" if ranked is None else f"{ranked.average_precision:.4f}",
                    self.threshold(k),
                ]
            )
        columns = [
            "class",
            "images",
            "precision",
            "95 %",
            "recall",
            "95 %",
            "F1",
            "AUC",
            "AP",
            f"threshold for {WANTED:.0%}",
        ]
        left_out = (
            "" if len(self.classes) <= MAX_ROWS else f" The {len(rows)} of the lowest F1 of {len(self.classes):,}."
        )
        caption = f"By class, on {self.where}.{left_out}"
        note = (
            "Intervals are Wilson's (1927), of 95 %. AUC: the probability that an image of the class scores above one"
            " of another class. AP: average precision. The threshold is the lowest probability of the class from which"
            f" on {WANTED:.0%} of the images are of it{self.picked_on()}."
        )
        return page.table(caption, columns, rows) + page.paragraph(note, "soft")

    def picked_on(self) -> str:
        """Return on what thresholds were picked, as words."""
        how = "" if self.temperature == 1 else f", by probabilities calibrated with T = {self.temperature:.3g}"
        if self.fitting is not None:
            return f", picked on the validation images{how}"
        return (
            f", picked on the {self.part.part} images themselves{how}, as there are no others: elsewhere it is a bit"
            " lower"
        )

    def threshold(self, k: int) -> str:
        """Return the threshold of a class for the wanted precision; a dash where none reaches it."""
        chosen = self.picked
        try:
            found = metrics.pick_threshold(chosen.label == k, chosen.probability[:, k], precision=WANTED)
        except DataError:
            return "-"
        return f"{found.threshold:.3f}"

    def curves(self) -> str:
        """Return the figures of precision and recall, and of ROC, each class against the others."""
        order = sorted(self.ranked, key=lambda k: self.ranked[k].average_precision)
        if not order:
            return ""
        chosen = order if len(order) <= charts.COLOURS + 2 else order[:MAX_CURVES]
        chosen = sorted(chosen)
        which = "" if len(chosen) == len(self.classes) else f"; the {len(chosen)} of the lowest AP are drawn"
        chosen_ones = [self.ranked[k] for k in chosen]
        made = []
        for title, area, axes, points, areas in (
            ("Precision and recall", "AP", ("recall", "precision"), [r.precision_recall for r in chosen_ones], AVERAGE),
            ("ROC", "AUC", ("false positive rate", "true positive rate"), [r.roc for r in chosen_ones], AUC),
        ):
            names = [f"{short(self.classes[k])} ({area} {areas(self.ranked[k]):.3f})" for k in chosen]
            series = [Series(name, *spread(*both)) for name, both in zip(names, points, strict=True)]
            mean = float(np.mean([areas(ranked) for ranked in self.ranked.values()]))
            told = f"each class against the others; mean {area} {mean:.4f}{which}"
            across, up = (Axis(name, 0.0, 1.0) for name in axes)
            drawn = charts.line_chart(series, across, up, f"{title}: {told}", diagonal=area == "AUC")
            made.append(page.figure(title, told, drawn, series))
        return page.figures(*made)

    def confusion(self) -> str:
        """Return the confusion matrix, as numbers or as a picture, and the pairs that are confused most."""
        K, counts = len(self.classes), np.asarray(self.counts)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        if K <= MAX_CELLS:
            names = [escaped(short(name)) for name in self.classes]
            # Long names stand upright, so that the cells stay narrow.
            upright = max(map(len, self.classes)) > 3
            head = "".join(
                f'<th scope="col" class="name">{f"<span>{name}</span>" if upright else name}</th>' for name in names
            )
            cells = ["".join(map(cell, *both)) for both in zip(counts.tolist(), share.tolist(), strict=True)]
            body = "".join(
                f'<tr><th scope="row">{escaped(name)}</th>{row}</tr>'
                for name, row in zip(self.classes, cells, strict=True)
            )
            shown = page.paragraph("Rows are labels, columns are predictions; colours are shares of a row.", "soft") + (
                '<div class="wide" tabindex="0" role="group" aria-label="Confusion matrix"><table class="confusion">'
                f'<thead><tr><th scope="col">label</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
            )
        else:
            told = f"Confusion matrix of {K:,} classes: rows are labels, columns are predictions"
            note = (
                f"rows are labels, columns are predictions, in the order of the {K:,} classes; darker is more of a row"
            )
            shown = page.figure("Confusion matrix", note, page.picture(heat_map(share), "png", told, "pixels heat"))
        wrong = counts - np.diag(np.diag(counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
        pairs = [(i, j) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
        rows = [[self.classes[i], self.classes[j], f"{wrong[i, j]:,}", f"{share[i, j]:.1%}"] for i, j in pairs]
        columns = ["label", "taken for", "images", "of the class"]
        pairs_table = page.table("What is confused most", columns, rows) if rows else ""
        return page.figures(f"<div>{shown}</div>", f"<div>{pairs_table}</div>")

    def calibration(self) -> str:
        """Return the reliability diagrams before and after temperature scaling."""
        # What is drawn into fifteen bars takes no more.
        part, fitting = self.part.thinned(MAX_CALIBRATED), self.fitting
        before = metrics.calibration(part.probability, part.label)
        if self.temperature != 1:
            T = self.temperature
            scaled, how = softened(part.logits, T), f"T = {T:.3f}, that of the model file, by which it answers"
        elif fitting is not None:
            T = fitted(fitting, slice(None))
            scaled, how = softened(part.logits, T), f"T = {T:.3f}, fitted on {len(fitting.label):,} validation images"
        elif len(part.label) >= 2:
            # Each half is measured with the temperature of the other, so that no image is judged by itself.
            halves = np.arange(len(part.label)) % 2
            both = [fitted(part, halves == h) for h in (0, 1)]
            scaled = softened(part.logits, np.where(halves == 0, both[1], both[0])[:, None])
            how = f"T = {both[0]:.3f} and {both[1]:.3f}, each fitted on one half of these images and used on the other"
        else:
            return ""
        after = metrics.calibration(scaled, part.label)
        made = []
        for title, note, found in (
            ("Calibration", "as the network says", before),
            ("Calibration with temperature scaling", how, after),
        ):
            told = f"expected calibration error {found.ece:.4f}, largest gap {found.mce:.3f}; {note}"
            made.append(page.figure(title, told, charts.reliability_chart(found, f"{title}: {told}")))
        some = len(part.label) < len(self.part.label)
        note = (f"On {len(part.label):,} of the images. " if some else "") + (
            "A bar is how often the network is right at this confidence, the dashed frame reaches to how sure it was."
            " Temperature scaling divides the logits by T (Guo et al. 2017), which changes no prediction."
        )
        return page.figures(*made) + page.paragraph(note, "soft")

    def thresholds(self) -> str:
        """Return a table: from which confidence on so many of the answers are right, and how many are given."""
        rows = []
        for wanted in PRECISIONS:
            t = confidence_for(self.picked, wanted)
            given = self.tried.confidence >= t if t is not None else np.zeros(len(self.part.label), bool)
            hits = int(self.tried.right[given].sum())
            low, high = metrics.wilson_interval(hits, int(given.sum()))
            some = bool(given.any())
            rows.append(
                [
                    f"{wanted:.0%}",
                    "-" if t is None else f"{t:.3f}",
                    f"{hits / given.sum():.2%}" if some else "-",
                    f"{low:.3f} - {high:.3f}" if some else "-",
                    f"{given.mean():.1%}",
                ]
            )
        caption = "Answers from a confidence on, all else is none of these classes, or for a person to look at"
        columns = ["right, wanted", "confidence from", "right", "95 %", "answered"]
        return page.table(f"{caption}{self.picked_on()}.", columns, rows)


def confidence_for(part: Predictions, wanted: float) -> float | None:
    """Return the lowest confidence from which on this share of the answers is right; None if there is none."""
    order = np.argsort(-part.confidence, kind="stable")
    confidence, right = part.confidence[order], part.right[order]
    # Equal confidences are answered together: only the last of them is a place to stop.
    last = np.append(confidence[1:] != confidence[:-1], True)
    share = np.cumsum(right) / np.arange(1, len(right) + 1)
    places = np.flatnonzero(last & (share >= wanted))
    return float(confidence[places[-1]]) if len(places) else None


def spread(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float | None]]:
    """Return the points of a curve; of very many, some at equal distances along it."""
    if len(x) > MAX_POINTS:
        along = np.append(0.0, np.cumsum(abs(np.diff(x)) + abs(np.diff(y))))
        chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], MAX_POINTS)).clip(max=len(x) - 1))
        x, y = x[chosen], y[chosen]
    return x.tolist(), y.tolist()


def fitted(part: Predictions, rows: Any) -> float:
    """Return the temperature of some rows; of very many, as many as are enough for one number, at equal distances."""
    chosen = Predictions(part.part, part.index[rows], part.label[rows], part.probability[rows], part.images)
    chosen = chosen.thinned(MAX_FITTED)
    return metrics.fit_temperature(chosen.logits, chosen.label)


def calibrated(part: Predictions, temperature: float) -> Predictions:
    """Return what `foveal predict` says of the images of a part."""
    if temperature == 1:
        return part
    return replace(part, probability=softened(part.logits, temperature).astype(np.float32))


def softened(logits: NDArray[np.float64], temperature: Any) -> NDArray[np.float64]:
    """Return softmax(logits / T)."""
    return np.exp(metrics.log_softmax(logits / temperature))


def cell(count: int, share: float) -> str:
    """Return a cell of the confusion matrix."""
    kind = "none" if count == 0 else ""
    return f'<td{page.of_class(kind)} style="--s:{share:.2f}">{count}</td>'


def short(name: str, letters: int = 22) -> str:
    """Return a name as a figure shows it: a long one loses its middle."""
    return name if len(name) <= letters else f"{name[: letters // 2]}…{name[-(letters // 2 - 1) :]}"
