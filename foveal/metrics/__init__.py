"""What a classifier's outputs are worth: scores, tables by class, curves, thresholds, calibration. In float64."""

from foveal.metrics.calibration import Calibration, brier_score, calibration
from foveal.metrics.classes import ClassScores, class_scores, confusion_matrix
from foveal.metrics.curves import (
    Curve,
    Threshold,
    average_precision,
    pick_threshold,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from foveal.metrics.scores import accuracy, cross_entropy, log_softmax, top_k

__all__ = [
    "Calibration",
    "ClassScores",
    "Curve",
    "Threshold",
    "accuracy",
    "average_precision",
    "brier_score",
    "calibration",
    "class_scores",
    "confusion_matrix",
    "cross_entropy",
    "log_softmax",
    "pick_threshold",
    "precision_recall_curve",
    "roc_auc",
    "roc_curve",
    "top_k",
]
