"""Receptive fields of global operators: what they read of the image itself, against gradients and changed pixels."""

import numpy as np
import pytest

from foveal import nn, ops
from foveal.autodiff import gradients
from foveal.explain import explain
from foveal.explain.reach import Line
from foveal.explain.render import one_or_each, sizes
from foveal.nn import init
from foveal.ops.op import Type
from foveal.trace import trace


class Of(nn.Module):
    """A layer that is a function of the image after a padded convolution."""

    def __init__(self, function, channels=2):
        self.conv, self.function = nn.Conv2d(1, channels, 3, padding=1), function

    def forward(self, x):
        return self.function(self.conv(x))


def total(y):
    return ops.sum(y, axes=(2, 3))


def attention(y):
    """Each pixel reads the values of all pixels, weighed by how their channels agree with its own."""
    N, C, H, W = y.shape
    tokens = y.reshape(N, C, H * W)
    weights = ops.softmax(ops.batch_matmul(ops.permute(tokens, order=(0, 2, 1)), tokens), axis=-1)
    return ops.batch_matmul(tokens, ops.permute(weights, order=(0, 2, 1)))


def conv(channels=2, **how):
    return nn.Conv2d(1, channels, 3, **{"padding": 1, **how})


# Nets for images 1x10x12 whose every output reads all of the image.
GLOBAL = {
    "flatten": lambda: nn.Sequential(nn.Flatten(), nn.Linear(120, 3)),
    "convolution": lambda: nn.Sequential(conv(1), nn.Flatten(), nn.Linear(120, 3)),
    "channels": lambda: nn.Sequential(conv(), nn.Flatten(), nn.Linear(240, 3)),
    "two linear layers": lambda: nn.Sequential(conv(), nn.Flatten(), nn.Linear(240, 5), nn.ReLU(), nn.Linear(5, 2)),
    "adaptive mean": lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)),
    "adaptive mean, then convolution": lambda: nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1)),
    "pooling as large as the image": lambda: nn.Sequential(conv(), nn.AvgPool2d((10, 12))),
    "convolution as large as the image": lambda: nn.Sequential(conv(), nn.Conv2d(2, 2, (10, 12))),
    "mean": lambda: Of(lambda y: ops.mean(y, axes=(2, 3))),
    "mean that keeps axes": lambda: Of(lambda y: ops.mean(y, axes=(2, 3), keepdims=True) * 2.0),
    "sum of one axis, then of the other": lambda: Of(lambda y: ops.sum(ops.sum(y, axes=(2,)), axes=(2,))),
    "strides before": lambda: nn.Sequential(conv(stride=2), conv2(stride=2), nn.Flatten(), nn.Linear(18, 2)),
    "two branches": lambda: Of(lambda y: total(y) + total(ops.avg_pool2d(y, kernel_size=2))),
    "attention": lambda: Of(attention),
    "an index": lambda: Of(lambda y: ops.mean(ops.permute(y, order=(1, 0, 2, 3))[1], axes=(1, 2))),
}


def conv2(**how):
    return nn.Conv2d(2, 2, 3, **{"padding": 1, **how})


def read_by(net, shape, at):
    """The rows and columns that the output at an index reads, by NumPy's gradient with positive weights."""
    for p in net.parameters():
        p.data = np.random.default_rng(0).uniform(0.5, 1.0, p.shape)
    outputs = trace(net, Type((1, *shape))).outputs[0].shape
    chosen = np.zeros(outputs)
    chosen[at] = 1

    def slope(x, dy):
        return gradients(net(x), [x], dy)[0]

    x = np.random.default_rng(1).uniform(0.5, 1.0, (1, *shape))
    found = trace(slope, Type((1, *shape)), Type(outputs)).evaluate(x, chosen)[0][0].any(0)
    return np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))


@pytest.mark.parametrize("name", GLOBAL)
def test_what_reads_everything_has_the_field_of_the_image(name):
    net = GLOBAL[name]()
    field = explain(net, (1, 10, 12), memory=False).field
    outputs = trace(net, Type((1, 1, 10, 12))).outputs[0].shape
    for at in ((0,) * len(outputs), tuple(n - 1 for n in outputs)):
        for extent, read, size in zip(field, read_by(net, (1, 10, 12), at), (10, 12), strict=True):
            assert read.tolist() == list(range(size))
            assert (extent.size, extent.covered) == (size, size)
            if name != "attention":
                assert (extent.line, extent.centre) == (Line(0, size, 0), (size - 1) / 2)


@pytest.mark.parametrize("image", [(1, 1024, 1024), (3, 1024, 1024), (1, 1024, 768), (3, 768, 1024), (1, 1000, 3)])
def test_linear_layers_on_large_images(image):
    C, *size = image
    with init.without_values():
        plain = nn.Sequential(nn.Flatten(), nn.Linear(C * size[0] * size[1], 10))
        behind = nn.Sequential(nn.Conv2d(C, 1, 7, padding=3), nn.Flatten(), nn.Linear(size[0] * size[1], 10))
    for net in (plain, behind):
        summary = explain(net, image, memory=False)
        for extent, length in zip(summary.rows[-1].field, size, strict=True):
            assert (extent.size, extent.line, extent.covered) == (length, Line(0, length, 0), length)
        entry = summary.as_json()["field"]
        assert [(e["size"], e["start"], e["stride"], e["centre"]) for e in entry] == [
            (length, 0, None, (length - 1) / 2) for length in size
        ]
        shown = one_or_each(summary.rows[-1].field, sizes)
        assert shown == ("x".join(map(str, size)) if size[0] != size[1] else str(size[0]))


def test_what_is_left_out_is_not_of_the_field():
    """A stride that skips the last rows and columns, and a crop, before a linear layer."""
    net = nn.Sequential(nn.Conv2d(1, 1, 2, stride=4), nn.Flatten(), nn.Linear(9, 2))
    field = explain(net, (1, 11, 11), memory=False).field
    read = read_by(net, (1, 11, 11), (0, 1))
    for extent, positions in zip(field, read, strict=True):
        assert extent.reads(0) == positions.tolist() == [0, 1, 4, 5, 8, 9]
        assert (extent.size, extent.line) == (10, Line(0, 10, 0))
    crop = Of(lambda y: total(ops.narrow(ops.narrow(y, axis=2, start=3, length=4), axis=3, start=5, length=2)))
    field = explain(crop, (1, 10, 12), memory=False).field
    assert [extent.line for extent in field] == [Line(2, 6, 0), Line(4, 4, 0)]
    assert [r.tolist() for r in read_by(crop, (1, 10, 12), (0, 0))] == [list(range(2, 8)), list(range(4, 8))]


@pytest.mark.parametrize("rows", [slice(None, None, 3), slice(8, 2, -2), slice(None, None, -1)])
def test_slices_in_steps_read_the_rows_that_they_name(rows):
    net = Of(lambda y: y[:, :, rows, 1:9:4])
    field = explain(net, (1, 10, 12), memory=False).field
    read = read_by(net, (1, 10, 12), (0, 0, 0, 0))
    for extent, positions in zip(field, read, strict=True):
        assert extent.reads(0) == positions.tolist()
    assert field[1].line.stride == 4


HEADS = (
    lambda P, Q: [nn.Flatten(), nn.Linear(P * Q, 2)],
    lambda P, Q: [nn.AdaptiveAvgPool2d(1)],
    lambda P, Q: [nn.AvgPool2d((P, Q))],
    lambda P, Q: [nn.AdaptiveAvgPool2d((1, Q)), nn.Conv2d(1, 1, (1, Q))],
    lambda P, Q: [nn.Flatten(), nn.Linear(P * Q, 4), nn.ReLU(), nn.Linear(4, 2)],
)


@pytest.mark.configurations(full=500, quick=25)
def test_random_networks_that_end_in_a_global_operator(configuration):
    """The field is from the first to the last position that a gradient reaches, whatever the padding before it."""
    rng = np.random.default_rng(configuration)
    layers, shape = [], (1, *map(int, rng.integers(9, 16, 2)))
    for _ in range(rng.integers(1, 4)):
        k, u, d, pad = (int(rng.integers(low, high)) for low, high in ((1, 4), (1, 3), (1, 3), (0, 3)))
        layers.append(nn.Conv2d(1, 1, k, stride=u, padding=pad, dilation=d))
        P, Q = trace(nn.Sequential(*layers), Type((1, *shape))).outputs[0].shape[2:]
        if min(P, Q) < 6:
            break
    net = nn.Sequential(*layers, *HEADS[configuration % len(HEADS)](P, Q))
    first = (0,) * len(trace(net, Type((1, *shape))).outputs[0].shape)
    for extent, read in zip(explain(net, shape, memory=False).field, read_by(net, shape, first), strict=True):
        assert (extent.line.start, extent.line.start + extent.size - 1) == (read[0], read[-1])
        assert extent.reads(0) == read.tolist()


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (lambda: [nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1)], 2),
        (lambda: [nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)], 2),
        (lambda: [nn.ConvTranspose2d(1, 1, 2, stride=2)], 1),
        (lambda: [nn.Conv2d(1, 1, 3, padding=1), nn.ConvTranspose2d(1, 1, 2, stride=2)], 3),
        (lambda: [nn.Conv2d(1, 1, 3, padding=1), nn.ConvTranspose2d(1, 1, 5, stride=3, padding=1)], 4),
    ],
)
def test_transposed_convolutions_read_whole_positions(layers, wanted):
    """The line is a bound in fractions; the size is the most that one output reads."""
    net, shape = nn.Sequential(*layers()), (1, 9, 9)
    rows, columns = explain(net, shape, memory=False).field
    P, Q = trace(net, Type((1, *shape))).outputs[0].shape[2:]
    found = [read_by(net, shape, (0, 0, p, Q // 2))[0] for p in range(P)]
    assert rows.size == columns.size == wanted == max(read[-1] - read[0] + 1 for read in found)
