"""The training loop, what it measures and the files it leaves."""

from foveal.train.checkpoint import Run, RunFolder, load_net, load_run
from foveal.train.loop import train
from foveal.train.metrics import accuracy, cross_entropy, evaluate, predict

__all__ = [
    "Run",
    "RunFolder",
    "accuracy",
    "cross_entropy",
    "evaluate",
    "load_net",
    "load_run",
    "predict",
    "train",
]
