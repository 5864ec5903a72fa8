"""Layers and models in PyTorch's manner."""

from foveal.nn import init, models
from foveal.nn.activation import GELU, ReLU, ReLU6, Tanh
from foveal.nn.container import Flatten, Identity, Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout
from foveal.nn.init import seed
from foveal.nn.linear import Linear
from foveal.nn.loss import CrossEntropyLoss
from foveal.nn.module import Buffer, Module, Parameter
from foveal.nn.norm import BatchNorm2d
from foveal.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool1d,
    MaxPool2d,
)

__all__ = [
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "Identity",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "ReLU6",
    "Sequential",
    "Tanh",
    "init",
    "models",
    "seed",
]
