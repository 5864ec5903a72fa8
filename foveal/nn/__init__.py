"""Layers, losses and models, with PyTorch's names, arguments and layouts. The files of this folder:

parameter.py         Parameter, Buffer and Counter: what layers hold
tree.py              Tree: what a module consists of, by name
activations.py       results of inner layers, by name
stored.py            stored states, also from elsewhere, fitted to a model's names
hooks.py             forward hooks: functions that see what layers take and return
recorded.py          the arguments that a module was made with
architecture.py      a network as a description in JSON, and back
saving.py            networks in files: what net.save writes and foveal.load reads
calls.py             Called: what happens when a module is called, on arrays and on Tensors
module.py            Module, the base of layers and models; ModuleList, ModuleDict
arguments.py         types and checks of hyper-parameters that many layers take
activation.py        ReLU, GELU, Softmax, ...
container.py         Sequential, Concat, Identity, Flatten, Unflatten
conv.py              convolutions and transposed convolutions
locally_connected.py layers with filters of their own at each position
linear.py            fully connected layers
pool.py              max, average, adaptive, global and Lp pooling, and unpooling
pad.py               borders about images and sequences
resize.py            Upsample, PixelShuffle and others that change sizes without weights
unfold.py            windows as columns and back: Unfold, Fold
norm.py              batch, instance, group, layer, RMS and local response norm
dropout.py           dropout of elements, of channels and of residual branches
blocks.py            blocks of several layers: DepthwiseSeparableConv2d, SqueezeExcitation
one_dimensional.py   what the layers for sequences (Conv1d, ...) share
loss.py              the base of losses, and those of classes: cross-entropy, focal, ...
loss_balanced.py    the focal loss with weights by the number of images of each class
loss_margin.py       losses with a margin: of scores, signs, classes, pairs and triples
loss_distribution.py losses of predicted distributions: Kullback-Leibler divergence, Poisson, Gauss
similarity.py        layers of two inputs: CosineSimilarity, PairwiseDistance
loss_regression.py   losses of predicted numbers: squared error, Huber, ...
plots.py             figures of filters and feature maps
tree_html.py         a network as a tree that unfolds, for notebooks
init.py              starting values of parameters, and the seed that they are drawn from
whitening.py         a first layer that whitens patches of the images that it is to see
tools/               functions of a finished model: fold_batch_norm, variance_report
models/              networks by name, and loading stored weights into them
"""

from typing import TYPE_CHECKING, NoReturn

from foveal.arguments import check_calls
from foveal.names import missing_in
from foveal.nn import init, models
from foveal.nn.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmax2d,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from foveal.nn.blocks import DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, SqueezeExcitation, SqueezeExcitation1d
from foveal.nn.container import Concat, Flatten, Identity, Sequential, Unflatten
from foveal.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from foveal.nn.dropout import Dropout, Dropout1d, Dropout2d, StochasticDepth
from foveal.nn.init import seed
from foveal.nn.linear import Linear
from foveal.nn.locally_connected import LocallyConnected1d, LocallyConnected2d
from foveal.nn.loss import (
    AuxiliaryLoss,
    BCELoss,
    BCEWithLogitsLoss,
    BinaryFocalLoss,
    CrossEntropyLoss,
    FocalLoss,
    Loss,
    NLLLoss,
    class_balanced_weights,
)
from foveal.nn.loss_balanced import ClassBalancedFocalLoss
from foveal.nn.loss_distribution import GaussianNLLLoss, KLDivLoss, PoissonNLLLoss
from foveal.nn.loss_margin import (
    CosineEmbeddingLoss,
    HingeEmbeddingLoss,
    MarginRankingLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    SoftMarginLoss,
    TripletMarginLoss,
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
from foveal.nn.pad import (
    CircularPad1d,
    CircularPad2d,
    ConstantPad1d,
    ConstantPad2d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReplicationPad1d,
    ReplicationPad2d,
    ZeroPad1d,
    ZeroPad2d,
)
from foveal.nn.parameter import Buffer, Counter, Parameter
from foveal.nn.plots import plot_feature_maps, plot_filters
from foveal.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    LPPool1d,
    LPPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxUnpool1d,
    MaxUnpool2d,
)
from foveal.nn.resize import (
    ChannelShuffle,
    PixelShuffle,
    PixelUnshuffle,
    Upsample,
    UpsamplingBilinear2d,
    UpsamplingNearest2d,
)
from foveal.nn.saving import save as save
from foveal.nn.similarity import CosineSimilarity, PairwiseDistance
from foveal.nn.tools.fold_batch_norm import fold_batch_norm
from foveal.nn.tools.variance_report import variance_report
from foveal.nn.unfold import Fold, Fold1d, Unfold, Unfold1d

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
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
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "ClassBalancedFocalLoss",
    "Concat",
    "ConstantPad1d",
    "ConstantPad2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "Counter",
    "CrossEntropyLoss",
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Flatten",
    "FocalLoss",
    "Fold",
    "Fold1d",
    "GaussianNLLLoss",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "KLDivLoss",
    "L1Loss",
    "LPPool1d",
    "LPPool2d",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "LocallyConnected1d",
    "LocallyConnected2d",
    "LogSigmoid",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "MarginRankingLoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PReLU",
    "PairwiseDistance",
    "Parameter",
    "PixelShuffle",
    "PixelUnshuffle",
    "PoissonNLLLoss",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SqueezeExcitation",
    "SqueezeExcitation1d",
    "StochasticDepth",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "TripletMarginLoss",
    "Unflatten",
    "Unfold",
    "Unfold1d",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
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


# Type checkers would take every name for one that exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(missing_in("foveal.nn", name, __all__), name=name)
