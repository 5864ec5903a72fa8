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
    "CircularPad2d": (lambda: nn.CircularPad2d(1), IMAGES),
    "Concat": (lambda: nn.Concat(nn.ReLU(), nn.Sigmoid()), IMAGES),
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 0.5), IMAGES),
    "Conv1d": (lambda: nn.Conv1d(4, 4, 3, padding=1), SEQUENCES),
    "Conv2d": (lambda: nn.Conv2d(4, 4, 3, padding=1), IMAGES),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 4, 3, stride=2), SEQUENCES),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2), IMAGES),
    "DepthwiseSeparableConv2d": (lambda: nn.DepthwiseSeparableConv2d(4, 4), IMAGES),
    "Dropout": (lambda: nn.Dropout(0.5), IMAGES),
    "Dropout1d": (lambda: nn.Dropout1d(0.5), SEQUENCES),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), IMAGES),
    "ELU": (lambda: nn.ELU(), IMAGES),
    "Flatten": (lambda: nn.Flatten(), IMAGES),
    "Fold": (lambda: nn.Fold((4, 4), 2), (2, 16, 9)),
    "GELU": (lambda: nn.GELU(), IMAGES),
    "GlobalAvgPool2d": (lambda: nn.GlobalAvgPool2d(), IMAGES),
    "GlobalMaxPool2d": (lambda: nn.GlobalMaxPool2d(), IMAGES),
    "GroupNorm": (lambda: nn.GroupNorm(1, 4), IMAGES),
    "Hardsigmoid": (lambda: nn.Hardsigmoid(), IMAGES),
    "Hardswish": (lambda: nn.Hardswish(), IMAGES),
    "Identity": (lambda: nn.Identity(), IMAGES),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), SEQUENCES),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGES),
    "LPPool1d": (lambda: nn.LPPool1d(2, 2), SEQUENCES),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), IMAGES),
    "LayerNorm": (lambda: nn.LayerNorm(5), IMAGES),
    "LeakyReLU": (lambda: nn.LeakyReLU(), IMAGES),
    "Linear": (lambda: nn.Linear(4, 4), FEATURES),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), IMAGES),
    "LocallyConnected2d": (lambda: nn.LocallyConnected2d(4, 4, (5, 5), 3), IMAGES),
    "LogSoftmax": (lambda: nn.LogSoftmax(1), IMAGES),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), SEQUENCES),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), IMAGES),
    "PReLU": (lambda: nn.PReLU(4), IMAGES),
    "RMSNorm": (lambda: nn.RMSNorm(5), IMAGES),
    "ReLU": (lambda: nn.ReLU(), IMAGES),
    "ReLU6": (lambda: nn.ReLU6(), IMAGES),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), IMAGES),
    "ReplicationPad2d": (lambda: nn.ReplicationPad2d(1), IMAGES),
    "Sequential": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), IMAGES),
    "SiLU": (lambda: nn.SiLU(), IMAGES),
    "Sigmoid": (lambda: nn.Sigmoid(), IMAGES),
    "Softmax": (lambda: nn.Softmax(1), IMAGES),
    "Softplus": (lambda: nn.Softplus(), IMAGES),
    "SqueezeExcitation": (lambda: nn.SqueezeExcitation(4, 2), IMAGES),
    "StochasticDepth": (lambda: nn.StochasticDepth(0.5, "row"), IMAGES),
    "Tanh": (lambda: nn.Tanh(), IMAGES),
    "Unfold": (lambda: nn.Unfold(2), IMAGES),
    "ZeroPad2d": (lambda: nn.ZeroPad2d(1), IMAGES),
}
# which are not called as layer(x): MaxUnpool2d takes indices too and keeps no program; the others hold layers
NOT_CALLED = {"MaxUnpool2d", "Module", "ModuleDict", "ModuleList"}

# the words that an attribute may be
WORDS = {"padding_mode": ("reflect",), "approximate": ("tanh",), "mode": ("batch",)}
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
            return WORDS[name]
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
