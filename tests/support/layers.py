"""One table of all public layers: how to build each, and the shape of an input; and other values for attributes."""

import numpy as np

from foveal import nn

IMAGES, SEQUENCES, FEATURES = (2, 4, 5, 5), (2, 4, 5), (2, 4)

# (builder, shape of an input) by the name of the class
LAYERS = {
    "AdaptiveAvgPool1d": (lambda: nn.AdaptiveAvgPool1d(2), SEQUENCES),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 3)), IMAGES),
    "AdaptiveMaxPool1d": (lambda: nn.AdaptiveMaxPool1d(2), SEQUENCES),
    "AdaptiveMaxPool2d": (lambda: nn.AdaptiveMaxPool2d((2, 3)), IMAGES),
    "AvgPool1d": (lambda: nn.AvgPool1d(4, stride=2, padding=1), SEQUENCES),
    "AvgPool2d": (lambda: nn.AvgPool2d(4, stride=2, padding=1), IMAGES),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), FEATURES),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), IMAGES),
    "CELU": (lambda: nn.CELU(), IMAGES),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), IMAGES),
    "CircularPad1d": (lambda: nn.CircularPad1d(1), SEQUENCES),
    "CircularPad2d": (lambda: nn.CircularPad2d(1), IMAGES),
    "Concat": (lambda: nn.Concat(nn.ReLU(), nn.Sigmoid()), IMAGES),
    "ConstantPad1d": (lambda: nn.ConstantPad1d(1, 0.5), SEQUENCES),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 0.5), IMAGES),
    "Conv1d": (lambda: nn.Conv1d(4, 4, 3, padding=1), SEQUENCES),
    "Conv2d": (lambda: nn.Conv2d(4, 4, 3, padding=1), IMAGES),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 4, 3, stride=2), SEQUENCES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2), IMAGES),
    "DepthwiseSeparableConv1d": (lambda: nn.DepthwiseSeparableConv1d(4, 4), SEQUENCES),
    "DepthwiseSeparableConv2d": (lambda: nn.DepthwiseSeparableConv2d(4, 4), IMAGES),
    "Dropout": (lambda: nn.Dropout(0.5), IMAGES),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), SEQUENCES),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), IMAGES),
    "ELU": (lambda: nn.ELU(), IMAGES),
    "Flatten": (lambda: nn.Flatten(), IMAGES),
    "Fold": (lambda: nn.Fold((4, 4), 2), (2, 16, 9)),
    "Fold1d": (lambda: nn.Fold1d(4, 2), (2, 8, 3)),
    "GELU": (lambda: nn.GELU(), IMAGES),
    "GLU": (lambda: nn.GLU(1), IMAGES),
    "GlobalAvgPool1d": (lambda: nn.GlobalAvgPool1d(), SEQUENCES),
    "GlobalAvgPool2d": (lambda: nn.GlobalAvgPool2d(), IMAGES),
    "GlobalMaxPool1d": (lambda: nn.GlobalMaxPool1d(), SEQUENCES),
    "GlobalMaxPool2d": (lambda: nn.GlobalMaxPool2d(), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(1, 4), IMAGES),
    "Hardshrink": (lambda: nn.Hardshrink(), IMAGES),
    "Hardsigmoid": (lambda: nn.Hardsigmoid(), IMAGES),
    "Hardswish": (lambda: nn.Hardswish(), IMAGES),
    "Hardtanh": (lambda: nn.Hardtanh(), IMAGES),
    "Identity": (lambda: nn.Identity(), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), SEQUENCES),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGES),
    "LPPool1d": (lambda: nn.LPPool1d(2, 2), SEQUENCES),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(5), IMAGES),
    "LeakyReLU": (lambda: nn.LeakyReLU(), IMAGES),
    "Linear": (lambda: nn.Linear(4, 4), FEATURES),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), IMAGES),
    "LocallyConnected1d": (lambda: nn.LocallyConnected1d(4, 4, 5, 3), SEQUENCES),
    "LocallyConnected2d": (lambda: nn.LocallyConnected2d(4, 4, (5, 5), 3), IMAGES),
    "LogSigmoid": (lambda: nn.LogSigmoid(), IMAGES),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), IMAGES),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), SEQUENCES),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), IMAGES),
    "Mish": (lambda: nn.Mish(), IMAGES),
    "PReLU": (lambda: nn.PReLU(4), IMAGES),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), IMAGES),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (2, 4, 4, 4)),
    "RMSNorm": (lambda: nn.RMSNorm(5), IMAGES),
    "ReLU": (lambda: nn.ReLU(), IMAGES),
    "ReLU6": (lambda: nn.ReLU6(), IMAGES),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d(1), SEQUENCES),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), IMAGES),
    "ReplicationPad1d": (lambda: nn.ReplicationPad1d(1), SEQUENCES),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(1), IMAGES),
    "SELU": (lambda: nn.SELU(), IMAGES),
    "Sequential": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), IMAGES),
    "SiLU": (lambda: nn.SiLU(), IMAGES),
    "Sigmoid": (lambda: nn.Sigmoid(), IMAGES),
    "Softmax": (lambda: nn.Softmax(1), IMAGES),
    "Softmax2d": (lambda: nn.Softmax2d(), IMAGES),
    "Softmin": (lambda: nn.Softmin(1), IMAGES),
    "Softplus": (lambda: nn.Softplus(), IMAGES),
    "Softshrink": (lambda: nn.Softshrink(), IMAGES),
    "Softsign": (lambda: nn.Softsign(), IMAGES),
    "SqueezeExcitation": (lambda: nn.SqueezeExcitation(4, 2), IMAGES),
    "SqueezeExcitation1d": (lambda: nn.SqueezeExcitation1d(4, 2), SEQUENCES),
    "StochasticDepth": (lambda: nn.StochasticDepth(0.5, "row"), IMAGES),
    "Tanh": (lambda: nn.Tanh(), IMAGES),
    "Tanhshrink": (lambda: nn.Tanhshrink(), IMAGES),
    "Threshold": (lambda: nn.Threshold(0.1, 0.5), IMAGES),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), IMAGES),
    "Unfold": (lambda: nn.Unfold(2), IMAGES),
    "Unfold1d": (lambda: nn.Unfold1d(2), SEQUENCES),
    "Upsample": (lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"), IMAGES),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(size=(7, 8)), IMAGES),
    "UpsamplingNearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2.0), IMAGES),
    "ZeroPad1d": (lambda: nn.ZeroPad1d(1), SEQUENCES),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGES),
}
# which are not called as layer(x): those of two inputs, of which unpoolings keep no program; the others hold layers
NOT_CALLED = {
    "CosineSimilarity",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "PairwiseDistance",
    "Module",
    "ModuleDict",
    "ModuleList",
}

# another word for one that an attribute is
WORDS = {"zeros": "reflect", "none": "tanh", "row": "batch", "bilinear": "bicubic", "nearest": "bilinear"}
NUMBERS = (1, 2, 0.3)


def layer(name):
    """A layer of that name, with the same starting values each time."""
    nn.seed(3)
    return LAYERS[name][0]()


def batch(name):
    """An input of that layer."""
    shape = LAYERS[name][1]
    return np.random.default_rng(5).standard_normal(shape, np.float32)


def others(name, value):
    """Other values that an attribute of that name could have, from the type of the value that it has."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, 2 * value, value - 1)
        case float():
            return tuple(x for x in (0.0, value * 0.5 + 0.125, 1.0) if x != value)
        case str():
            return (WORDS[value],)
        case tuple():
            return (tuple(x + 1 for x in value), tuple(2 * x for x in value))
        case dict():
            return tuple(value | {key: np.array(held).item() + 1} for key, held in value.items() if np.ndim(held) == 0)
        case nn.Parameter():
            return (nn.Parameter(np.asarray(value.data) + 1), None)
        case nn.Buffer():
            return (nn.Buffer(np.asarray(value.data) + 1),)
        case nn.Module():
            return (nn.Tanh(), None)
    return NUMBERS


def attributes(module):
    """(name, value) of all attributes that decide what a layer computes."""
    return [("training", True), *module.parts()]
