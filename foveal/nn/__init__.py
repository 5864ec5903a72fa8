"""Layers and models in PyTorch's manner."""

from foveal.nn import init, models
from foveal.nn.activation import GELU, Hardsigmoid, Hardswish, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from foveal.nn.container import Concat, Flatten, Identity, Sequential
from foveal.nn.conv import Conv2d
from foveal.nn.dropout import Dropout, Dropout1d, Dropout2d, StochasticDepth
from foveal.nn.fold import fold_batch_norm
from foveal.nn.init import seed
from foveal.nn.linear import Linear
from foveal.nn.loss import AuxiliaryLoss, CrossEntropyLoss
from foveal.nn.module import Buffer, Counter, Module, Parameter
from foveal.nn.norm import (
    BatchNorm1d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from foveal.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    LPPool1d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxUnpool2d,
)
from foveal.nn.squeeze import SqueezeExcitation

__all__ = [
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AuxiliaryLoss",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Concat",
    "Conv2d",
    "Counter",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Flatten",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "LPPool1d",
    "LPPool2d",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool2d",
    "Module",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tanh",
    "fold_batch_norm",
    "init",
    "models",
    "seed",
]
