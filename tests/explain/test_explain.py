"""What is said of a model before it runs: counts against published ones, fields and unread rows against gradients."""

import json
import tracemalloc

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.autodiff import gradients
from foveal.build import build
from foveal.errors import ShapeError, StateError
from foveal.explain import costs, explain, fitting_sizes, linear_cost
from foveal.explain.fields import Fields
from foveal.explain.reach import image_reach
from foveal.explain.windows import AxisWindow, fixes, ranges
from foveal.nn import init, models
from foveal.ops.op import OPS, Type
from foveal.trace import trace

LENET5 = [  # LeCun et al. 1998 on 32x32, in its common form
    nn.Conv2d(1, 6, 5),
    nn.Tanh(),
    nn.AvgPool2d(2),
    nn.Conv2d(6, 16, 5),
    nn.Tanh(),
    nn.AvgPool2d(2),
    nn.Flatten(),
    nn.Linear(400, 120),
    nn.Tanh(),
    nn.Linear(120, 84),
    nn.Tanh(),
    nn.Linear(84, 10),
]


def built(name, size, classes=10, channels=3):
    with init.without_values():
        return models.build(name, channels=channels, size=(size, size), classes=classes)


def smallest(name):
    """A model by name with images that it takes, the smallest of a few."""
    for size in (8, 12, 16, 28, 32, 64, 96, 128, 224, 299):
        try:
            net = built(name, size)
            return net, explain(net, (3, size, size), memory=False)
        except ShapeError:
            continue
    raise AssertionError(f"{name} takes no images up to 299x299")


# counts


def test_a_convolution_of_3x3_on_3_channels_with_4_filters_has_112_parameters():
    row = nn.Conv2d(3, 4, 3).summary((3, 32, 32)).rows[0]
    assert (row.parameters, row.formula, row.shape) == (112, "(3*3*3 + 1)*4", (1, 4, 30, 30))
    assert (row.macs, row.macs_formula) == (97_200, "3*3*3*4*30*30")
    assert row.output_bytes == 4 * 4 * 30 * 30


@pytest.mark.parametrize(("layers", "image"), [(LENET5, (1, 32, 32)), (None, (1, 28, 28))])
def test_lenet5_has_61706_parameters(layers, image):
    net = built("lenet5", 28, channels=1) if layers is None else nn.Sequential(*layers)
    summary = explain(net, image, memory=False)
    assert summary.parameters == summary.trainable == 61_706
    assert summary.macs == 416_520
    linear = [row.formula for row in summary.rows if row.kind == "Linear"]
    assert linear == ["(400 + 1)*120", "(120 + 1)*84", "(84 + 1)*10"]


PUBLISHED = {  # torchvision's documentation: parameters, and units of 10^9 multiply-adds on 3x224x224
    "alexnet": (61_100_840, 0.71),
    "vgg11": (132_863_336, 7.61),
    "vgg13": (133_047_848, 11.31),
    "vgg19": (143_667_240, 19.63),
    "resnet18": (11_689_512, 1.81),
    "resnet34": (21_797_672, 3.66),
    "resnet50": (25_557_032, 4.09),
    "googlenet": (6_624_904, 1.5),
    "mobilenet_v2": (3_504_872, 0.3),
    "mobilenetv2": (3_504_872, 0.3),
    "mobilenet_v3_large": (5_483_032, 0.22),
    "mobilenet_v3_small": (2_542_856, 0.06),
    "densenet121": (7_978_856, 2.83),
    "efficientnet_b0": (5_288_548, 0.39),
}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in models.NAMES])
def test_known_models_cost_what_is_published(name):
    summary = explain(built(name, 224, 1000), (3, 224, 224), memory=False)
    assert (summary.parameters, round(summary.macs / 1e9, 2)) == PUBLISHED[name]


def test_vgg16_convolutions_take_15_3_billion_multiply_adds():
    """Its three linear layers bring the published 15.47."""
    row = explain(built("vgg16", 224), (3, 224, 224), memory=False).row("features")
    assert row.macs == 15_346_630_656
    assert row.macs + 25088 * 4096 + 4096 * 4096 + 4096 * 1000 == 15_470_264_320


@pytest.mark.parametrize("name", models.NAMES)
def test_rows_add_up_for_every_model(name):
    net, summary = smallest(name)
    leaves = [row for row in summary.rows if not row.holds]
    idle = {p for name, p in net.named_variables(nn.Parameter) if name.startswith(summary.unused)}
    assert sum(row.parameters for row in leaves) + sum(p.size for p in idle) == summary.parameters
    assert summary.parameters == sum(p.size for p in net.parameters())
    assert sum(row.macs for row in leaves) == summary.macs > 0
    for row in leaves:
        if row.parameters:
            assert eval(row.formula) == row.parameters
        if row.macs_formula:
            assert eval(row.macs_formula) == row.macs
    assert summary.unknown == ()
    assert len(summary.field) == 2
    json.dumps(summary.as_json())


@pytest.mark.configurations(full=500, quick=20)
def test_multiply_adds_against_pytorchs_counter(configuration, torch):
    from torch.utils.flop_counter import FlopCounterMode

    rng = np.random.default_rng(configuration)
    ranges = (1, 4), (1, 4), (1, 3), (1, 3), (0, 3)
    groups, k, u, d, pad = (int(rng.integers(low, high)) for low, high in ranges)
    C, K = (groups * int(n) for n in rng.integers(1, 5, 2))
    how = {"stride": u, "padding": pad, "dilation": d, "groups": groups, "bias": bool(configuration % 2)}
    size = tuple(map(int, rng.integers(d * (k - 1) + 1, 15, 2)))
    conv = nn.Conv2d(C, K, k, **how)
    features = int(np.prod(conv.summary((C, *size)).rows[0].shape))
    ours = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(features, 7))
    theirs = torch.nn.Sequential(torch.nn.Conv2d(C, K, k, **how), torch.nn.Flatten(), torch.nn.Linear(features, 7))
    batch = int(rng.integers(1, 4))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        theirs(torch.zeros(batch, C, *size))
    summary = explain(ours, (C, *size), batch=batch, memory=False)
    assert 2 * summary.macs == counter.get_total_flops()
    assert summary.parameters == sum(p.numel() for p in theirs.parameters())


def test_a_batch_multiplies_work_and_values_and_no_parameters():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    one, five = (explain(net, (1, 8, 8), batch=n, memory=False) for n in (1, 5))
    assert five.macs == 5 * one.macs
    assert five.activation_bytes == 5 * one.activation_bytes
    assert five.parameters == one.parameters
    assert eval(five.row("0").macs_formula) == five.row("0").macs


class Sharing(nn.Module):
    """A layer that is called twice, one that is not called, a parameter of its own, a frozen one."""

    def __init__(self):
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.conv.bias.trainable = False
        self.idle = nn.Linear(3, 4)
        self.scale = nn.Parameter(np.ones((2, 1, 1)))

    def forward(self, x):
        return self.conv(ops.relu(self.conv(x))) * self.scale


class Lending(nn.Module):
    """Uses a layer's parameters without calling it."""

    def __init__(self):
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return ops.linear(x, self.inner.weight) + self.inner.bias


def test_parameters_that_are_used_without_a_call_are_counted():
    summary = explain(Lending(), 4, memory=False)
    assert (summary.rows[0].parameters, summary.rows[0].formula) == (15, "(4 + 1)*3")
    assert summary.unused == ()


def test_shared_frozen_own_and_idle_parameters():
    summary = Sharing().summary((2, 6, 6))
    assert (summary.parameters, summary.trainable, summary.frozen) == (56, 54, 2)
    assert [(row.kind, row.parameters, row.shared) for row in summary.rows] == [
        ("Sharing", 56, False),
        ("Parameter", 2, False),
        ("Conv2d", 38, False),
        ("relu", 0, False),
        ("Conv2d", 0, True),
        ("multiply", 0, False),
    ]
    assert summary.unused == ("idle",)
    assert "not called in evaluation mode: idle" in str(summary)


# without memory


def test_a_linear_layer_on_a_megapixel_is_counted_and_not_built():
    cost = linear_cost((3, 1024, 1024), 1000)
    assert cost.parameters == 3_145_729_000
    assert "3.1 billion parameters, 12.6 GB ((3*1024*1024 + 1)*1000" in str(cost)
    tracemalloc.start()
    try:
        with init.without_values():
            net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 1024 * 1024, 1000))
        summary = explain(net, (3, 1024, 1024))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summary.parameters == cost.parameters
    assert peak < 10e6
    with pytest.raises(ShapeError, match="have to be 1 or more"):
        linear_cost((3, 0), 10)


def test_nothing_of_the_images_size_is_allocated():
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3))
    before = foveal.kernel.compile.statistics.compiled
    tracemalloc.start()
    try:
        summary = explain(net, (3, 1024, 1024))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert summary.activation_bytes > 500e6
    assert peak < 20e6
    assert foveal.kernel.compile.statistics.compiled == before


def test_layers_without_values_say_so_when_they_are_run():
    nn.seed(5)
    wanted = init.generator().standard_normal(3)
    nn.seed(5)
    with init.without_values():
        net = models.build("resnet20", channels=3, size=(32, 32), classes=10, seed=1)
        small = nn.Linear(2, 2)
    assert np.array_equal(init.generator().standard_normal(3), wanted)
    for use in (lambda: small(np.zeros((1, 2), "f4")), net.state_dict):
        with pytest.raises(StateError, match="build the model again outside"):
            use()
    with pytest.raises(StateError, match="built without values"):
        net.conv1.weight.data = np.zeros(net.conv1.weight.shape)


def test_planned_memory_is_what_programs_take():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    image = Type((2, 1, 8, 8))
    memory = explain(net, (1, 8, 8), batch=2).memory
    net.train()
    assert memory.inference == build(costs.inference_graph(net, image)).arena_plan.size
    assert memory.training == build(costs.training_graph(net, image)).arena_plan.size
    assert memory.training > memory.inference > 0


class Twice(nn.Module):
    """Two outputs, the second from a layer of its own, and places, which have no gradient."""

    def __init__(self):
        self.first, self.second, self.pool = (
            nn.Conv2d(1, 2, 3),
            nn.Conv2d(1, 3, 3),
            nn.MaxPool2d(2, return_indices=True),
        )

    def forward(self, x):
        y, places = self.pool(x)
        return self.first(y), [self.second(y), places]


def test_models_with_several_outputs():
    summary = Twice().summary((1, 12, 12))
    assert summary.rows[0].shape == (1, 2, 4, 4)
    assert summary.memory.training > 0


def test_a_batch_that_cannot_be_trained_on_is_reported():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    summary = net.summary((1, 3, 3))
    assert summary.memory.inference > 0
    assert summary.memory.training is None
    assert "no training step on this batch: layer 1, BatchNorm2d" in str(summary)
    assert net.summary((1, 3, 3), batch=2).memory.training > 0


def test_modes_stay_as_they_were():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    net.modules = None
    net.train()
    getattr(net, "1").eval()
    net.summary((1, 8, 8))
    assert [module.training for _, module in net.named_modules()] == [True, True, False, True]


# receptive fields; all numbers of known networks are from the table published with the article

VGG16 = [(6, 2, 2), (16, 4, 6), (44, 8, 18), (100, 16, 42), (212, 32, 90)]  # pool1 ... pool5: field, stride, padding
ALEXNET = [  # alexnet_v2
    (nn.Conv2d(3, 64, 11, stride=4), (11, 4, 0)),
    (nn.MaxPool2d(3, stride=2), (19, 8, 0)),
    (nn.Conv2d(64, 192, 5, padding=2), (51, 8, 16)),
    (nn.MaxPool2d(3, stride=2), (67, 16, 16)),
    (nn.Conv2d(192, 384, 3, padding=1), (99, 16, 32)),
    (nn.Conv2d(384, 384, 3, padding=1), (131, 16, 48)),
    (nn.Conv2d(384, 256, 3, padding=1), (163, 16, 64)),
    (nn.MaxPool2d(3, stride=2), (195, 32, 64)),
]
RESNET50 = ((3, 2), (35, 8, 15)), ((4, 2), (99, 16, 47)), ((6, 2), (291, 32, 143)), ((3, 1), (483, 32, 239))


def line(row):
    """(field, stride, padding) where both axes agree."""
    assert row.field[0].line == row.field[1].line
    found = row.field[0].line
    return found.size, found.stride, -found.start


def test_fields_of_vgg16():
    summary = explain(built("vgg16", 224), (3, 224, 224), memory=False)
    assert [line(row) for row in summary.rows if row.kind == "MaxPool2d"] == VGG16


def test_fields_of_alexnet():
    layers, wanted = zip(*ALEXNET, strict=True)
    summary = explain(nn.Sequential(*layers), (3, 224, 224), memory=False)
    assert [line(row) for row in summary.rows[1:]] == list(wanted)


class Unit(nn.Module):
    """A residual unit as in slim's resnet_v1, with few channels: its stride, if any, is the 3x3 convolution's."""

    def __init__(self, stride):
        self.conv1, self.conv3 = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
        self.conv2 = nn.Conv2d(2, 2, 3, stride=stride, padding=1)
        self.shortcut = nn.MaxPool2d(1, stride=stride)

    def forward(self, x):
        return ops.relu(self.conv3(self.conv2(self.conv1(x))) + self.shortcut(x))


def test_fields_of_resnet50():
    """Branches that agree in their stride; the last unit of a block has its stride."""
    stem = [nn.Conv2d(3, 2, 7, stride=2, padding=3), nn.MaxPool2d(3, stride=2, padding=(0, 1, 0, 1))]
    blocks = [
        nn.Sequential(*(Unit(stride if i == units - 1 else 1) for i in range(units))) for (units, stride), _ in RESNET50
    ]
    summary = explain(nn.Sequential(*stem, *blocks), (3, 224, 224), memory=False)
    for i, (_, wanted) in enumerate(RESNET50):
        assert line(summary.row(str(2 + i))) == wanted
    skipping = [lost for row in summary.rows for lost in row.unread]
    assert len(skipping) == 3
    assert all(lost.elsewhere for lost in skipping)
    assert "another layer reads them" in str(summary)


class Branches(nn.Module):
    """Two paths of one stride and different fields, added up."""

    def __init__(self):
        self.left = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, dilation=2, padding=2))
        self.right = nn.Conv2d(1, 2, (5, 1), padding=(2, 0))

    def forward(self, x):
        return self.left(x) + self.right(x)


class Gate(nn.Module):
    """Channels weighed by their mean over the image."""

    def __init__(self):
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return y * ops.mean(y, axes=(2, 3), keepdims=True)


class Upsampled(nn.Module):
    """Pooled, brought back to size by repeating, and by a transposed convolution."""

    def __init__(self):
        self.weight = nn.Parameter(np.ones((1, 1, 3, 3)))

    def forward(self, x):
        y = ops.avg_pool2d(x, kernel_size=2)
        N, C, P, Q = y.shape
        wide = ops.broadcast_to(y.reshape(N, C, P, 1, Q, 1), shape=(N, C, P, 2, Q, 2))
        back = ops.conv2d_input_grad(y, self.weight, stride=2, padding=(1, 0, 1, 0), image_size=(2 * P, 2 * Q))
        return wide.reshape(N, C, 2 * P, 2 * Q) + back


NETS = {  # positive weights make every path count
    "dilated": lambda: nn.Sequential(nn.Conv2d(1, 2, 3, dilation=2), nn.Conv2d(2, 1, 2, stride=2)),
    "padded": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Conv2d(2, 1, (1, 3), padding=(0, 2, 1, 0)),
    ),
    "skipping": lambda: nn.Sequential(nn.Conv2d(1, 2, 1, stride=3), nn.Conv2d(2, 2, 2, padding=1)),
    "flattened": lambda: nn.Sequential(nn.Conv2d(1, 2, 4, stride=5), nn.Flatten(), nn.Linear(8, 3)),
    "branches": Branches,
    "gate": Gate,
    "upsampled": Upsampled,
}


@pytest.mark.parametrize("name", NETS)
def test_fields_are_where_gradients_are_not_zero(name):
    """Of single outputs, compiled: not zero at each position that is read, zero at every other one."""
    net, shape = NETS[name](), (1, 10, 12)
    for p in net.parameters():
        p.data = np.random.default_rng(0).uniform(0.5, 1.0, p.shape)
    (rows, columns) = explain(net, shape, memory=False).field
    y = net.eval()(np.ones((1, *shape), "f4"))
    slope = foveal.grad(lambda x, chosen: ops.sum(net(x) * chosen))
    for at in ((0, 0), (-1, -1), (y.shape[-2] // 2, y.shape[-1] // 2)):
        chosen = np.zeros(y.shape, "f4")
        chosen[(..., *at) if y.ndim == 4 else at] = 1
        found = slope(np.ones((1, *shape), "f4"), chosen)[0, 0] != 0
        p, q = (i % n for i, n in zip(at, y.shape[-2:], strict=True))
        read = rows.reads(p), columns.reads(q)
        if not all(read):  # a window that lies in the padding of one axis reads nothing
            read = [], []
        assert np.flatnonzero(found.any(1)).tolist() == read[0]
        assert np.flatnonzero(found.any(0)).tolist() == read[1]
        for extent, i, positions in zip((rows, columns), (p, q), read, strict=True):
            bound = extent.line
            if bound is not None:
                first = bound.start + (i * bound.stride if extent.per_position else 0)
                assert all(first <= h <= first + bound.size - 1 for h in positions)


def random_net(rng):
    """Convolutions and poolings one after another, some of them with a shortcut beside them."""

    class Beside(nn.Module):
        def __init__(self, layer, other):
            self.layer, self.other = layer, other

        def forward(self, x):
            return self.layer(x) + self.other(x)

    layers = []
    for _ in range(rng.integers(1, 4)):
        k, u, d, pad = (int(rng.integers(low, high)) for low, high in ((1, 4), (1, 4), (1, 3), (0, 3)))
        if rng.random() < 0.3:
            layers.append(nn.AvgPool2d(k, stride=u, padding=min(pad, k // 2)))
            continue
        mode = ("zeros", "zeros", "reflect", "replicate", "circular")[rng.integers(5)]
        layer = nn.Conv2d(1, 1, k, stride=u, padding=pad, dilation=d, padding_mode=mode)
        spare = 2 * pad - d * (k - 1)  # a 1x1 convolution of the same stride has as many outputs with half of it
        if spare >= 0 and spare % 2 == 0 and rng.random() < 0.7:
            layer = Beside(layer, nn.Conv2d(1, 1, 1, stride=u, padding=spare // 2))
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.mark.configurations(full=1000, quick=40)
def test_fields_of_random_networks(configuration):
    """Of every output, by NumPy's gradient: exact along one path, for branches nothing else is read."""
    rng = np.random.default_rng(configuration)
    net, shape = random_net(rng), (1, *map(int, rng.integers(9, 16, 2)))
    for p in net.parameters():
        p.data = rng.uniform(0.5, 1.0, p.shape)
    try:
        rows, columns = explain(net, shape, memory=False).field
    except ShapeError:  # the image has become smaller than a kernel
        return
    P, Q = len(rows.masks), len(columns.masks)
    single = not any(hasattr(module, "other") for _, module in net.named_modules())

    def slope(x, chosen):
        return gradients(ops.sum(net(x) * chosen), [x])[0]

    graph, x, seen = trace(slope, Type((1, *shape)), Type((1, 1, P, Q))), np.ones((1, *shape)), 0
    for at in range(P * Q):
        p, q = divmod(at, Q)
        found = graph.evaluate(x, np.eye(P * Q)[at].reshape(1, 1, P, Q))[0][0, 0] != 0
        seen = seen | found
        read = (rows.reads(p), columns.reads(q))
        assert set(np.flatnonzero(found.any(1))) <= set(read[0])
        assert set(np.flatnonzero(found.any(0))) <= set(read[1])
        if all(read) and single:
            inside = (np.isin(range(n), at) for n, at in zip(shape[1:], read, strict=True))
            assert np.array_equal(found, np.logical_and.outer(*inside))
    if single and rows.covered and columns.covered:
        assert (seen.any(1).sum(), seen.any(0).sum()) == (rows.covered, columns.covered)


UNCERTAIN = (  # what they read is not known from shapes
    "take_pixels",
    "put_pixels",
    "max_unpool2d",
    "channel_moments",  # its axes are no longer the image's
    "im2col",
    "col2im",  # one axis for rows and columns
    "not_equal",  # whose cases hold NaN, which differs from all numbers
    "logical_and",  # and these are decided by one input alone where it is 0, or not 0
    "logical_or",
    "logical_xor",
)


def changed(op, arrays, attributes, position, axis, i):
    """Which elements of the output change when the i-th part along an axis of an input does."""
    y = np.asarray(op.numpy(*arrays, **attributes), np.float64)
    found = np.zeros(y.shape, bool)
    for value in (1e3, -1e3):
        moved = [a.copy() for a in arrays]
        moved[position][(slice(None),) * axis + (i,)] = value
        with np.errstate(all="ignore"):
            other = np.asarray(op.numpy(*moved, **attributes), np.float64)
        found |= other != y
    return found


def forward_operators():
    """Those that a network's forward pass is made of, less those that read no floats."""
    gradients_of = ("_grad", "_pick")
    return [
        name
        for name, op in OPS.items()
        if op.arity != 0 and 0 not in op.integers and (name == "conv2d_input_grad" or not name.endswith(gradients_of))
    ]


def small_cases(op):
    """The inputs in float64, full attributes and graph of some cases that are small enough for this."""
    for case in [c for c in op.cases if sum(np.prod(s) for s in c.shapes) < 700][:6]:
        arrays = case.arrays(0)
        kinds = [Type(a.shape, str(a.dtype)) for a in arrays]
        graph = trace(lambda *xs, how=case.attributes: op(*xs, **how), *kinds)
        doubles = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        yield doubles, op.normalise(*doubles, **case.attributes), graph


@pytest.mark.parametrize("name", forward_operators())
def test_fields_of_operators_are_what_changes_their_outputs(name):
    """For each input and each of its axes, on the operator's small cases, by NumPy."""
    op = OPS[name]
    for arrays, attributes, graph in small_cases(op):
        places = [(k, axis) for k, a in enumerate(arrays) if a.dtype.kind == "f" for axis in range(a.ndim)]
        for position, axis in places:
            inputs, fields = [None] * len(arrays), Fields()
            inputs[position] = image_reach(arrays[position].shape[axis], axis)
            reach = fields.through(graph, inputs)
            exact = not fields.unknown and name not in UNCERTAIN
            for i in range(arrays[position].shape[axis]):
                found = changed(op, arrays, attributes, position, axis, i)
                if reach.axis is None:
                    assert not found.any() or reach.union >> i & 1
                    continue
                hit = found.any(tuple(k for k in range(found.ndim) if k != reach.axis)).tolist()
                read = [bool(mask >> i & 1) for mask in reach.masks]
                assert not any(h and not r for h, r in zip(hit, read, strict=True))
                assert hit == read or axis < 2 or not exact


def test_branches_that_differ_are_reported():
    summary = explain(Gate(), (1, 10, 12), memory=False)
    assert summary.field[0].line is None
    assert [extent.size for extent in summary.field] == [10, 12]
    assert "field <=: from multiply on, branches whose strides differ" in str(summary)
    assert line(explain(Branches(), (1, 10, 10), memory=False).row("left")) == (7, 1, 3)
    joined = explain(Branches(), (1, 10, 10), memory=False).field
    assert [(e.line.size, e.line.start) for e in joined] == [(7, -3), (7, -3)]


def test_an_operator_without_a_rule_is_taken_to_read_everything(monkeypatch):
    monkeypatch.setattr(OPS["max_pool2d"], "name", "strange")
    monkeypatch.setattr("foveal.explain.fields.windows_of", lambda node: {})
    summary = explain(nn.MaxPool2d(2), (1, 6, 8), memory=False)
    assert summary.unknown == ("strange",)
    assert [extent.size for extent in summary.field] == [6, 8]
    assert "no rule for the field of strange" in str(summary)


# what strides never read

WINDOWS = [  # image, kernel, stride, padding, dilation
    ((5, 5), (1, 1), (3, 3), (0, 0, 0, 0), (1, 1)),
    ((5, 5), (2, 2), (3, 3), (0, 0, 0, 0), (1, 1)),
    ((8, 9), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((10, 7), (3, 2), (2, 3), (1, 0, 0, 0), (2, 2)),
]


def slopes(image, kernel, stride, padding, dilation):
    """The gradient of the sum of a convolution with ones, computed by NumPy."""

    def function(x, w):
        y = ops.conv2d(x, w, stride=stride, padding=padding, dilation=dilation)
        return gradients(ops.sum(y), [x])[0]

    shapes = (1, 1, *image), (1, 1, *kernel)
    return trace(function, *map(Type, shapes)).evaluate(*map(np.ones, shapes))[0][0, 0]


@pytest.mark.parametrize(("image", "kernel", "stride", "padding", "dilation"), WINDOWS)
def test_unread_rows_have_no_gradient_and_fixes_give_them_one(image, kernel, stride, padding, dilation):
    net = nn.Conv2d(1, 1, kernel, stride=stride, padding=padding, dilation=dilation)
    (lost,) = explain(net, (1, *image), memory=False).rows[0].unread
    found = slopes(image, kernel, stride, padding, dilation)
    for axis, unread in zip((1, 0), lost.positions, strict=True):
        assert np.flatnonzero((found == 0).all(axis)).tolist() == list(unread)
    assert len(lost.fixes) >= 2
    for fix in lost.fixes:
        w = fix.windows
        after = slopes(
            [v.length for v in w],
            [v.taps for v in w],
            [v.stride for v in w],
            [side for v in w for side in (v.before, v.after)],
            [v.dilation for v in w],
        )
        assert (after != 0).all(), fix.text


def test_unread_rows_are_printed_with_two_ways_to_fix_them():
    text = str(nn.Conv2d(1, 1, 1, stride=3).summary((1, 5, 5)))
    assert "never reads rows 1-2, 4 and columns 1-2, 4 of its 5x5 input" in text
    assert "- kernel_size=3, padding=1 (output 2x2)" in text
    assert "- stride=1 (output 5x5)" in text
    assert "no output depends on the image's columns 1-2, 4 (of 5)" in text
    net = nn.MaxPool2d(2)
    (lost,) = net.summary((1, 7, 8)).as_json()["layers"][0]["unread"]
    assert lost["positions"] == [[6], []]
    assert lost["fixes"][0]["padding"] == [1, 1, 0, 0]
    assert lost["fixes"][0]["output"] == [4, 4]
    text = str(net.summary((1, 7, 8)))
    assert "never reads rows 6 of its 7x8 input" in text
    assert "- padding=(0, 1, 0, 0) (output 4x4)" in text
    assert "- padding=(1, 0) (output 4x4)" in text
    assert "- crop its input from 7x8 to 6x8 (output 3x4)" in text


def test_sizes_that_fit_all_layers():
    """Rows and columns are independent; what is found leaves nothing unread, and is the nearest such size."""

    def make(shape):
        return nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, stride=3))

    def lost(*size):
        return any(row.unread for row in make(None).summary((1, *size)).rows)

    assert fitting_sizes(make, (1, 20, 31)) == [(19, 31), (25, 31)]
    for size in ((19, 31), (25, 31)):
        assert not lost(*size)
    assert all(lost(n, 31) for n in range(20, 25))
    assert fitting_sizes(make, (1, 20, 31), near=3) == [(19, 31)]
    assert fitting_sizes(make, (7,)) == []


def test_sequences_are_described_as_such():
    text = str(nn.MaxPool1d(2, stride=3).summary((2, 11)))
    assert "- kernel_size=3, padding=1 (output 4)" in text
    assert "- stride=1 (output 10)" in text


def test_natively_too():
    """The example of the course: 5x5, kernel 2, stride 3."""
    net = nn.Conv2d(1, 1, 2, stride=3)
    net.weight.data = np.ones(net.weight.shape)
    found = foveal.grad(lambda x: ops.sum(net(x)))(np.ones((1, 1, 5, 5), "f4"))[0, 0]
    unread = explain(net, (1, 5, 5), memory=False).rows[0].unread[0].positions
    assert unread == ((2,), (2,))
    assert np.argwhere(found == 0).tolist() == [[i, j] for i in range(5) for j in range(5) if 2 in (i, j)]


def test_fixes_that_the_operator_refuses_are_left_out():
    """Padding of a pooling is at most half of its window."""
    (lost,) = nn.MaxPool2d(2, stride=5).summary((1, 9, 9)).rows[0].unread
    assert len(lost.fixes) >= 2
    for fix in lost.fixes:
        assert all(2 * max(w.before, w.after) <= w.taps for w in fix.windows)
    assert fixes([AxisWindow(4, 2, 2)])[0].windows == (AxisWindow(4, 2, 2),)


def test_ranges():
    assert ranges([1, 2, 4]) == "1-2, 4"
    assert ranges(range(1, 60, 2)) == "1, 3, 5, 7, ..., 59"


# what is printed


def test_the_table_fits_and_can_be_cut_short():
    summary = explain(built("resnet18", 224, 1000), (3, 224, 224))
    lines = summary.table().splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 120
    dense = "if dense: conv1 as a fully connected layer would have 120.8 billion parameters, 483.4 GB"
    assert f"{dense} ((3*224*224 + 1)*802816 = 120,847,089,664)" in summary.table()
    short = summary.table(depth=1)
    assert "conv1 Conv2d" in short
    assert "BasicBlock" not in short
    assert "11,689,512 parameters (11.7 million" in short
    assert "1,814,073,344" in short
    assert "9,620 numbers in buffers" in short


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Conv2d(3, 4, 3).summary((1, 8, 8)), "x has 1 channels.*the filters take 3"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 9)).summary((3, 8, 8)), "layer 0.*reaches over 9 rows.*larger input"),
        (lambda: nn.Conv2d(3, 4, 3).summary((3, 0, 8)), "give the sizes of one image without the batch"),
        (lambda: nn.Conv2d(3, 4, 3).summary((3, 8, 8), batch=0), "batch 0: give"),
        (lambda: nn.Conv2d(3, 4, 3).summary((3, 8, 8)).row("nix"), "no layer 'nix'; it has"),
    ],
)
def test_what_does_not_fit_is_one_message(make, words):
    with pytest.raises(ShapeError, match=words):
        make()
