"""Layers, losses and models, with PyTorch's names, arguments and layouts. The files of this folder:

parameter.py         Parameter, Buffer and Counter: what layers hold
tree.py              Tree: what a module consists of, by name
activations.py       results of inner layers, by name
module.py            Module, the base of layers and models; ModuleList, ModuleDict
arguments.py         types and checks of hyper-parameters that many layers take
activation.py        ReLU, GELU, Softmax, ...
container.py         Sequential, Concat, Identity, Flatten
conv.py              convolutions, transposed convolutions, and locally connected layers
linear.py            fully connected layers
pool.py              max, average, adaptive, global and Lp pooling, and unpooling
pad.py               borders about images
unfold.py            windows as columns and back: Unfold, Fold
norm.py              batch, instance, group, layer, RMS and local response norm
dropout.py           dropout of elements, of channels and of residual branches
blocks.py            blocks of several layers: DepthwiseSeparableConv2d, SqueezeExcitation
one_dimensional.py   what the layers for sequences (Conv1d, ...) share
loss.py              the base of losses, and those of classes: cross-entropy, focal, ...
loss_regression.py   losses of predicted numbers: squared error, Huber, ...
plots.py             figures of filters and feature maps
tree_html.py         a network as a tree that unfolds, for notebooks
init.py              starting values of parameters, and the seed that they are drawn from
tools/               functions of a finished model: fold_batch_norm, variance_report
models/              networks by name, and loading stored weights into them
"""

from foveal.arguments import check_calls
from foveal.nn import init, models
from foveal.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from foveal.nn.blocks import DepthwiseSeparableConv2d, SqueezeExcitation
from foveal.nn.container import Concat, Flatten, Identity, Sequential
from foveal.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, LocallyConnected2d
from foveal.nn.dropout import Dropout, Dropout1d, Dropout2d, StochasticDepth
from foveal.nn.init import seed
from foveal.nn.linear import Linear
from foveal.nn.loss import (
    AuxiliaryLoss,
    BCELoss,
    BCEWithLogitsLoss,
    BinaryFocalLoss,
    CrossEntropyLoss,
    FocalLoss,
    NLLLoss,
    class_balanced_weights,
)
from foveal.nn.loss_regression import HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from foveal.nn.module import Module, ModuleDict, ModuleList
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
from foveal.nn.pad import CircularPad2d, ConstantPad2d, ReflectionPad2d, ReplicationPad2d, ZeroPad2d
from foveal.nn.parameter import Buffer, Counter, Parameter
from foveal.nn.plots import plot_feature_maps, plot_filters
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
from foveal.nn.tools.fold_batch_norm import fold_batch_norm
from foveal.nn.tools.variance_report import variance_report
from foveal.nn.unfold import Fold, Unfold

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AuxiliaryLoss",
    "AvgPool1d",
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BinaryFocalLoss",
    "Buffer",
    "CircularPad2d",
    "Concat",
    "ConstantPad2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Counter",
    "CrossEntropyLoss",
    "DepthwiseSeparableConv2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Flatten",
    "FocalLoss",
    "Fold",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "L1Loss",
    "LPPool1d",
    "LPPool2d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LocallyConnected2d",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "PReLU",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "ReflectionPad2d",
    "ReplicationPad2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tanh",
    "Unfold",
    "ZeroPad2d",
    "class_balanced_weights",
    "fold_batch_norm",
    "init",
    "models",
    "plot_feature_maps",
    "plot_filters",
    "seed",
    "variance_report",
]

check_calls(__name__)


def __dir__() -> list[str]:
    return __all__
