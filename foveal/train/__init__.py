"""The training loop, what it measures and the files it leaves."""

from foveal.metrics import accuracy, cross_entropy
from foveal.train.checkpoint import Run, RunFolder, load_net, load_run
from foveal.train.loop import train
from foveal.train.metrics import evaluate, predict, report

__all__ = [
    "Run",
    "RunFolder",
    "accuracy",
    "cross_entropy",
    "evaluate",
    "load_net",
    "load_run",
    "predict",
    "report",
    "train",
]
