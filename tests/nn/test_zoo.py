"""Every model of the registry: names and shapes of its state, its size, and what it computes, against PyTorch.

The digests are of the state of models that foveal.bench.torch_models builds from torchvision's definitions; the counts
are those that torchvision publishes, where it has the model.
"""

import hashlib
import math

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import ShapeError
from foveal.nn import init, models
from foveal.nn.models import alexnet, vgg
from foveal.nn.models.blocks import divisible
from foveal.nn.models.densenet import DenseNet
from foveal.nn.models.efficientnet import MBConv
from foveal.nn.models.googlenet import Auxiliary, GoogLeNet, Inception, truncated
from foveal.nn.models.mlperf_tiny import TinyBlock, TinyMobileNet
from foveal.nn.models.mobilenet import HSWISH, InvertedResidualV3
from foveal.nn.models.resnet import Bottleneck, CifarResNet
from foveal.ops.op import Type
from foveal.trace import trace

# entries, digest of names and shapes, the last layer
STATES = {
    "small": (26, "36666040bd843622", "fc"),
    "lenet5": (10, "47e7cfa42efd1829", "fc3"),
    "alexnet": (16, "12a60b133d7b54dc", "classifier.6"),
    "vgg11": (22, "67a7eb563529a90c", "classifier.6"),
    "vgg11_bn": (62, "fed2755038a74a3e", "classifier.6"),
    "vgg13": (26, "06fdc111ee6d2ed8", "classifier.6"),
    "vgg13_bn": (76, "1320c3bf26ac7c28", "classifier.6"),
    "vgg16": (32, "26a44a8d3cab16c6", "classifier.6"),
    "vgg16_bn": (97, "e238651c9f050805", "classifier.6"),
    "vgg19": (38, "2ae6c231664ee367", "classifier.6"),
    "vgg19_bn": (118, "091b7131554bd4ea", "classifier.6"),
    "vgg16-cifar": (93, "e8b72b0d1559b564", "classifier"),
    "resnet18": (122, "867b8d8ae95f5a28", "fc"),
    "resnet34": (218, "d6dbfa48843359d6", "fc"),
    "resnet50": (320, "2d5b8870b35e1530", "fc"),
    "resnet18-cifar": (122, "c933979f67c61e16", "fc"),
    "resnet20": (128, "4ebfa23da160e972", "fc"),
    "resnet32": (200, "14d5d5dfe291dae7", "fc"),
    "resnet44": (272, "aabce5bfc6462ecf", "fc"),
    "resnet56": (344, "a8829069a51a6f10", "fc"),
    "googlenet": (344, "5782b0243eeef78f", "fc"),
    "googlenet_aux": (364, "014a9157e8afb3c4", "fc"),
    "mobilenet_v1": (164, "32a76fb8b4c06457", "classifier"),
    "mobilenet_v2": (314, "b37e2a9130e6341b", "classifier.1"),
    "mobilenet_v3_large": (312, "48d34b4f39c83e39", "classifier.3"),
    "mobilenet_v3_small": (244, "4e84a246a3fc7383", "classifier.3"),
    "densenet121": (727, "d9126905d0ec5cf6", "classifier"),
    "densenet100-cifar": (596, "cbcf16a2ef8a168b", "classifier"),
    "efficientnet_b0": (360, "c82a02375566e02a", "classifier.1"),
    "resnet8-tiny": (55, "8f92edc733ef8bb6", "fc"),
    "mobilenet_v1-tiny": (191, "1f8635c9d99ffcd2", "classifier"),
    "airbench94": (39, "3764844940bd97fc", "fc"),
}
# trained numbers at 1000 classes
PUBLISHED = {
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "googlenet": 6_624_904,
    "googlenet_aux": 13_004_888,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "densenet121": 7_978_856,
    "efficientnet_b0": 5_288_548,
}
# which differ only in size from others of their family
LARGE = ("vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg19", "vgg19_bn")
NO_TWIN = ("small",)
SMALLEST = {
    "lenet5": 12,
    "alexnet": 63,
    "vgg11": 32,
    "vgg16_bn": 32,
    "vgg16-cifar": 32,
    "googlenet": 15,
    "densenet121": 29,
    "densenet100-cifar": 4,
    "airbench94": 25,
}


class Zeros(np.random.Generator):
    """In place of the generator of starting values, where only names and shapes matter."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


# compiled by default; of the others, the blocks in REDUCED are
QUICK = ("alexnet", "resnet8-tiny")


@pytest.fixture
def large_too(request):
    """Skip models that differ only in size from one that is tested anyway, unless --full is given."""
    name = request.getfixturevalue("name")
    if name in LARGE and not request.config.getoption("--full"):
        pytest.skip(f"{name} takes long; run it with --full")


def digest(state):
    """16 hexadecimal digits that depend on all names and shapes."""
    lines = [f"{name} {list(shape)}" for name, shape in sorted(state.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_every_model_has_a_line():
    assert tuple(STATES) == models.NAMES
    lines = models.table().splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(models.NAMES)
    assert "resnet50" in models.table()
    assert "25,557,032" in models.table()
    assert all(models.MODELS[name].parameters == count for name, count in PUBLISHED.items())


@pytest.mark.parametrize("name", STATES)
def test_names_shapes_and_size(name):
    entry, (entries, expected, last) = models.MODELS[name], STATES[name]
    with init.without_values():
        model = entry.build(entry.image[0], entry.image[1:], 1000)
    state = {key: variable.shape for key, variable in model.named_variables()}
    assert (len(state), digest(state)) == (entries, expected)
    assert sum(p.size for p in model.parameters()) == entry.parameters
    assert state[f"{last}.weight"][0] == 1000
    assert last in getattr(model, "heads", (last,))


def torch_twin(name, channels, classes, size):
    from foveal.bench import torch_models

    return torch_models.build(name, channels=channels, size=size, classes=classes)


@pytest.mark.parametrize("name", [name for name in STATES if name not in NO_TWIN])
def test_digests_are_of_torchs_models(name, torch):
    channels, *size = models.MODELS[name].image
    with torch.device("meta"):
        twin = torch_twin(name, channels, 1000, size)
    state = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    assert (len(state), digest(state)) == STATES[name][:2]
    assert sum(p.numel() for p in twin.parameters()) == models.MODELS[name].parameters


def settled(twin):
    """PyTorch's model with statistics and scales as after some training, so that no norm is the identity."""
    import torch

    torch.manual_seed(0)
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return twin


def numpy_state(twin):
    return {key: value.numpy() for key, value in twin.state_dict().items()}


def without_dropout(model):
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout | nn.StochasticDepth):
            module.p = 0.0
    return model


def close(got, want, limit, floor=1e-30):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert abs(got - want).max() <= limit * max(abs(want).max(), floor)


@pytest.mark.parametrize("name", [name for name in STATES if name not in NO_TWIN])
def test_outputs_equal_torchs(name, request, large_too, torch, monkeypatch):
    """By NumPy in float64; the programs too, which take seconds to compile, with --full.

    The linear layers of AlexNet and the VGGs are narrow here: 120 million numbers would only take time.
    """
    from foveal.bench.torch_models import alexnet as torch_alexnet
    from foveal.bench.torch_models import vgg as torch_vgg

    for module in (alexnet, vgg, torch_alexnet, torch_vgg):
        monkeypatch.setattr(module, "HIDDEN", 96)
    # PyTorch's values take their place
    monkeypatch.setattr(init.SOURCE, "generator", Zeros())
    if name == "vgg16_bn" and not request.config.getoption("--full"):
        pytest.skip("vgg16_bn has the layers of vgg16-cifar and the head of vgg11; run it with --full")
    natively = name in QUICK or request.config.getoption("--full")
    channels, size = models.MODELS[name].image[0], max(33, SMALLEST.get(name, 0))
    twin = settled(torch_twin(name, channels, 7, (size, size))).eval()
    ours = models.build(name, channels=channels, size=(size, size), classes=7)
    ours.load_state_dict(numpy_state(twin))
    x = np.random.default_rng(0).standard_normal((2, channels, size, size)).astype("f4")
    with torch.no_grad():
        want = twin.double()(torch.from_numpy(x).double())
    (found,) = trace(ours.eval().traced, Type(x.shape)).evaluate(x.astype(np.float64))
    # what depends on parameters alone is computed in float32
    close(found, want, 1e-6)
    if natively:
        close(ours(x), want, 2e-6)


def mbconv_twin(kernel, act, squeezed, between, scale):
    """An inverted residual of 8 channels, 24 within: torchvision's MBConv, or its InvertedResidual of MobileNetV3."""
    from foveal.bench.torch_models.blocks import Shortcut, SqueezeExcitation, conv_norm

    norm = {"eps": 0.001, "momentum": 0.01} if kernel == 5 else {}
    parts = [conv_norm(8, 24, 1, act=act, **norm), conv_norm(24, 24, kernel, 1, 24, act=act, **norm)]
    parts += [SqueezeExcitation(24, squeezed, between, scale), conv_norm(24, 8, 1, act=None, **norm)]
    return Shortcut(parts, added=True)


def reduced(name):
    """(ours, PyTorch's, the shape of x): blocks of the models, or models of fewer and narrower blocks."""
    from torch import nn as theirs

    from foveal.bench.torch_models import densenet, googlenet, resnet, tiny

    if name == "inception":
        return (Inception(16, 8, (8, 8), (8, 8), 8), googlenet.Inception(16, 8, 8, 8, 8, 8, 8), (4, 16, 6, 7))
    if name == "auxiliary":
        return Auxiliary(8, 5, 0.0), googlenet.InceptionAux(8, 5), (16, 8, 9, 9)
    if name == "bottleneck":
        return Bottleneck(16, 8, 2), resnet.Bottleneck(16, 8, 2), (4, 16, 8, 8)
    if name == "densenet":
        ours = DenseNet(8, (8, 8), 5, growth=8, blocks=(2,), width=8, small_images=True)
        return ours, densenet.densenet(8, 5, (2,), growth=8, width=8, small_images=True), (8, 8, 8, 8)
    if name == "mbconv":
        twin = mbconv_twin(3, theirs.SiLU, 2, theirs.SiLU, theirs.Sigmoid)
        return MBConv(8, 8, 3, 3, 1, 0.0), twin, (8, 8, 6, 6)
    if name == "mobilenet_v3":
        twin = mbconv_twin(5, theirs.Hardswish, 8, theirs.ReLU, theirs.Hardsigmoid)
        return InvertedResidualV3(8, 5, 24, 8, True, HSWISH, 1), twin, (8, 8, 6, 6)
    return TinyBlock(8, 16, 2, (7, 6)), tiny.TinyBlock(8, 16, 2), (8, 8, 7, 6)


REDUCED = ("inception", "auxiliary", "bottleneck", "densenet", "mbconv", "mobilenet_v3", "tiny")


@pytest.mark.parametrize("name", REDUCED)
def test_training_equals_torchs(name, torch):
    """Outputs, gradients and statistics; with a rate of 1 the update is the gradient."""
    ours, twin, shape = reduced(name)
    ours, twin = without_dropout(ours), settled(twin).train()
    before = numpy_state(twin)
    ours.load_state_dict(before)
    before = {key: value.copy() for key, value in before.items()}
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("f4")
    twin = twin.double()
    want = twin(torch.from_numpy(x).double())
    # of the loss in the output
    slope = rng.standard_normal(want.shape).astype("f4")
    (want * torch.from_numpy(slope).double()).sum().backward()
    sgd = optim.SGD(ours.parameters(), lr=1.0)
    step = foveal.compile_step(ours, lambda y, dy: ops.sum(y * dy, axes=tuple(range(y.ndim))), sgd)
    close(step(x, slope).output, want.detach(), 1e-5)
    after = ours.state_dict()
    largest = max(float(abs(p.grad).max()) for p in twin.parameters())
    for key, parameter in twin.named_parameters():
        close(before[key] - after[key], parameter.grad, 2e-4, floor=1e-2 * largest)
    for key, buffer in twin.named_buffers():
        close(after[key], buffer, 1e-5)


# GoogLeNet's three outputs


class Twice(nn.Module):
    """Two classifiers, of which the second is only there in training."""

    def __init__(self):
        self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return (self.first(x), self.second(x)) if self.training else self.first(x)


def test_auxiliary_losses_are_weighted(torch):
    net, x = Twice(), np.random.default_rng(0).standard_normal((5, 6)).astype("f4")
    labels = np.array([0, 2, 1, 1, 0], np.int32)
    start = {key: torch.tensor(value, requires_grad=True) for key, value in net.state_dict().items()}
    linear, entropy = torch.nn.functional.linear, torch.nn.functional.cross_entropy
    first, second = (linear(torch.from_numpy(x), start[f"{n}.weight"], start[f"{n}.bias"]) for n in ("first", "second"))
    target = torch.from_numpy(labels).long()
    loss = entropy(first, target) + 0.25 * entropy(second, target)
    loss.backward()
    sgd = optim.SGD(net.parameters(), lr=1.0)
    step = foveal.compile_step(net, nn.AuxiliaryLoss(nn.CrossEntropyLoss(), weight=0.25), sgd)
    result = step(x, labels)
    close(result.loss, loss.item(), 1e-6)
    close(result.output, first.detach(), 1e-6)
    for key, value in net.state_dict().items():
        close(start[key].detach().numpy() - value, start[key].grad.numpy(), 1e-5)
    assert net.eval()(x).shape == (5, 3)
    assert [y.shape for y in net.train()(x)] == [(5, 3), (5, 3)]


def test_a_loss_of_one_output_refuses_several():
    net = Twice()
    step = foveal.compile_step(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=1.0))
    with pytest.raises(ShapeError, match=r"cannot take the 2 arrays.*nn.AuxiliaryLoss"):
        step(np.zeros((2, 6), "f4"), np.array([0, 1]))
    with pytest.raises(ShapeError, match="AuxiliaryLoss: weight is -1, it has to be 0 or more"):
        nn.AuxiliaryLoss(nn.CrossEntropyLoss(), weight=-1)


def test_googlenet_trains_with_three_outputs(torch):
    """Logits, aux2 and aux1 of the whole network, as traced, by NumPy; of images as torchvision's weights take them.

    Norms have known statistics here: those of a batch would magnify the rounding of constants.
    """
    from foveal.bench.torch_models import googlenet

    twin = settled(googlenet.GoogLeNet(3, 7, transform_input=True)).eval()
    ours = GoogLeNet(3, (17, 17), 7, transform_input=True).eval()
    ours.load_state_dict(numpy_state(twin))
    x = np.random.default_rng(0).standard_normal((1, 3, 17, 17))
    # of the network alone
    ours.training = twin.training = True
    with torch.no_grad():
        wanted = twin.double()(torch.from_numpy(x))
    got = trace(ours, Type(x.shape)).evaluate(x)
    assert len(got) == 3
    for y, want in zip(got, wanted, strict=True):
        close(y, want, 1e-6)


# starting values


def test_starting_values_are_torchvisions():
    filters = models.build("resnet34", channels=3, size=(64, 64), classes=10).state_dict()
    # 256 -> 512 channels
    weight = filters["layer4.0.conv1.weight"]
    assert math.isclose(weight.std(), math.sqrt(2 / (512 * 9)), rel_tol=0.01)
    head = models.build("mobilenet_v3_small", channels=3, size=(64, 64), classes=10).state_dict()
    assert math.isclose(head["classifier.0.weight"].std(), 0.01, rel_tol=0.01)
    assert not head["classifier.0.bias"].any()
    assert not head["features.1.block.1.fc1.bias"].any()
    weight = nn.Parameter(np.zeros((100, 300)))
    truncated(weight)
    assert 0.0195 < abs(weight.data).max() <= 0.02
    # of a normal cut at 2 deviations
    assert math.isclose(weight.data.std(), 0.0088, rel_tol=0.02)
    net = models.build("efficientnet_b0", channels=3, size=(32, 32), classes=16)
    drops = [m.p for _, m in net.named_modules() if isinstance(m, nn.StochasticDepth)]
    assert drops == pytest.approx([0.2 * i / 16 for i in range(16)])


def test_widths_are_multiples_of_8():
    assert [divisible(n) for n in (1, 11, 12, 18, 60, 168)] == [8, 16, 16, 24, 64, 168]


# errors


@pytest.mark.parametrize(("name", "size"), SMALLEST.items())
def test_images_that_are_too_small_are_refused(name, size, monkeypatch):
    monkeypatch.setattr(init.SOURCE, "generator", Zeros())
    with pytest.raises(ShapeError, match=rf"{size + 9}x{size - 1} are too small, it needs {size}x{size}"):
        models.build(name, channels=3, size=(size + 9, size - 1), classes=10)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("resnet19", {}, r"no model called 'resnet19' \(did you mean 'resnet18'\?\); choose one of small, lenet5"),
        ("resnet18", {"classes": 1}, "needs at least 2 classes, got 1"),
        ("resnet18", {"channels": 0}, "images of 0 channels and 32x32 pixels are empty"),
        ("resnet18", {"size": (0, 32)}, "images of 3 channels and 0x32 pixels are empty"),
    ],
)
def test_builds_that_mean_nothing_are_refused(name, how, words):
    with pytest.raises(ShapeError, match=words):
        models.build(name, **({"channels": 3, "size": (32, 32), "classes": 10} | how))


def test_layers_of_models_refuse_what_means_nothing():
    with pytest.raises(ShapeError, match=r"depth is 21, it has to be 8, 14, 20"):
        CifarResNet(21)
    with pytest.raises(ShapeError, match="transform_input is for images of 3 channels, not 1"):
        GoogLeNet(1, transform_input=True)
    with pytest.raises(ShapeError, match="SqueezeExcitation: squeeze_channels is 0"):
        nn.SqueezeExcitation(8, 0)
    x = np.zeros((1, 4, 16, 16), "f4")
    with pytest.raises(ShapeError, match=r"layer conv1.*has 4 channels|layer conv1.*4"):
        models.build("resnet8-tiny", channels=3, size=(16, 16), classes=2)(x)


def test_names_are_found_without_hyphens_and_underscores():
    assert models.canonical("MobileNetV2") == "mobilenet_v2"
    assert models.canonical("vgg16_cifar") == "vgg16-cifar"
    assert isinstance(models.build("mobilenet-v1-tiny", channels=1, size=(8, 8), classes=2), TinyMobileNet)
