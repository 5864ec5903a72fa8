"""Batch norm folded into the layer before it: the same outputs, and nothing folded that must not be."""

import numpy as np
import pytest

from foveal import nn, ops
from foveal.errors import ShapeError
from foveal.nn import models
from foveal.ops.op import Type
from foveal.trace import trace

# of the largest output that rounding may come to over all layers of a network
SHARE = 1e-4


def settled(model):
    """Statistics and scales as after training: batch norm is not the identity."""
    rng = np.random.default_rng(1)
    for _, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data = rng.uniform(-0.2, 0.2, module.num_features)
            module.running_var.data = rng.uniform(0.5, 2.0, module.num_features)
            if module.weight is not None:
                module.weight.data = rng.uniform(0.5, 1.5, module.num_features)
                module.bias.data = rng.uniform(-0.2, 0.2, module.num_features)
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for _, module in model.named_modules())


def alike(model, shape):
    """The folded copy gives the same; the model itself stays as it was."""
    before = model.state_dict()
    folded = nn.fold_batch_norm(model, shape)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    got, want = folded(x), model.eval()(x)
    assert np.max(abs(got - want)) < SHARE * np.max(abs(want))
    for name, value in model.state_dict().items():
        assert value.tobytes() == before[name].tobytes()
    return folded


@pytest.mark.parametrize(("name", "shape"), [("resnet20", (2, 3, 8, 8)), ("mobilenetv2", (1, 3, 32, 32))])
def test_networks_are_folded_whole(name, shape):
    nn.seed(0)
    model = settled(models.build(name, channels=3, size=shape[2:], classes=10))
    folded = alike(model, shape)
    assert norms(folded) == 0
    used = {node.op.name for node in trace(folded, Type(shape)).nodes if node.op is not None}
    assert "batch_norm_inference" not in used


def test_linear_layers_and_norms_without_scale_are_folded():
    nn.seed(0)
    model = settled(nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7, affine=False), nn.ReLU()))
    assert norms(alike(model, (3, 5))) == 0


class Twice(nn.Module):
    """A convolution whose result is read twice, one that is called twice, and one that shares its weight."""

    def __init__(self, kind):
        self.kind = kind
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.other = nn.Conv2d(4, 4, 1)
        if kind == "weight shared":
            self.other.weight = self.conv.weight

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "read twice":
            return self.bn(y) + y
        if self.kind == "layer called twice":
            return self.bn(y) + self.conv(y * 2.0)
        if self.kind == "norm called twice":
            return self.bn(y) + self.bn(self.other(x))
        if self.kind == "an output":
            return self.bn(y), y
        if self.kind == "weight read by an operator":
            return self.bn(y) + ops.conv2d(x, self.conv.weight)
        if self.kind == "forward called directly":
            return self.bn(y) + self.conv.forward(x)
        if self.kind == "something between":
            return self.bn(ops.relu(y))
        return self.bn(y) + self.other(x)


@pytest.mark.parametrize(
    "kind",
    [
        "read twice",
        "layer called twice",
        "norm called twice",
        "weight shared",
        "weight read by an operator",
        "forward called directly",
        "something between",
        "an output",
    ],
)
def test_what_others_read_is_not_folded(kind):
    nn.seed(0)
    assert norms(nn.fold_batch_norm(settled(Twice(kind)), (2, 4, 3, 3))) == 1


def test_statistics_of_the_batch_are_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert norms(alike(model, (2, 3, 4, 4))) == 1


def test_a_layer_deep_inside_names_itself():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5))
    with pytest.raises(ShapeError, match="the layer is made for 5; use BatchNorm2d\\(4\\)"):
        nn.fold_batch_norm(model, (1, 3, 4, 4))
