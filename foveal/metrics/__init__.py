"""How good a classifier's outputs are, computed in float64.

checks.py       what every metric asks of scores and labels: one rule for all
scores.py       accuracy, top-k accuracy and cross-entropy over all images
classes.py      the confusion matrix, and precision, recall and F1 of each class
curves.py       one class against the rest: ROC and precision-recall curves, and picking a threshold
calibration.py  how well a network's confidence agrees with its accuracy, the Brier score, temperature scaling
intervals.py    confidence intervals of shares such as an accuracy
tables.py       the tables that `foveal evaluate` prints
plots.py        figures of ROC and precision-recall curves, confusion and calibration
history_plot.py  the figure of a training's values by epoch
"""

from foveal.metrics.calibration import Calibration, brier_score, calibration, fit_temperature
from foveal.metrics.classes import ClassScores, ConfusionMatrix, class_scores, confusion_matrix
from foveal.metrics.curves import (
    Curve,
    Threshold,
    average_precision,
    pick_threshold,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from foveal.metrics.history_plot import plot_history
from foveal.metrics.intervals import wilson_interval
from foveal.metrics.plots import plot_calibration, plot_confusion, plot_precision_recall, plot_roc
from foveal.metrics.scores import accuracy, cross_entropy, log_softmax, top_k
from foveal.metrics.tables import ClassificationReport

__all__ = [
    "Calibration",
    "ClassScores",
    "ClassificationReport",
    "ConfusionMatrix",
    "Curve",
    "Threshold",
    "accuracy",
    "average_precision",
    "brier_score",
    "calibration",
    "class_scores",
    "confusion_matrix",
    "cross_entropy",
    "fit_temperature",
    "log_softmax",
    "pick_threshold",
    "plot_calibration",
    "plot_confusion",
    "plot_history",
    "plot_precision_recall",
    "plot_roc",
    "precision_recall_curve",
    "roc_auc",
    "roc_curve",
    "top_k",
    "wilson_interval",
]


def __dir__() -> list[str]:
    return __all__
