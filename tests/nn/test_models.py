"""The models: their parameters by torchvision's names and counts, and one training step each against PyTorch."""

import numpy as np
import pytest

import foveal
from foveal import nn, optim
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.nn import models
from foveal.ops.op import Type
from foveal.trace import trace

# (channels, size, classes) and torchvision's count of trained numbers, by hand where it has no such model
PARAMETERS = {
    "resnet18": (3, (224, 224), 1000, 11_689_512),
    "mobilenet_v2": (3, (224, 224), 1000, 3_504_872),
    "vgg16-cifar": (3, (32, 32), 10, 14_723_136 + 5_130),
    "resnet18-cifar": (3, (32, 32), 10, 11_173_962),
    "airbench94": (
        3,
        (32, 32),
        10,
        24 * 13 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 64 + 4 * 256) + 2560,
    ),
}
# some of torchvision's names, and shapes
STATE = {
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.weight": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.running_mean": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.bias": (24,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
        "classifier.1.bias": (1000,),
    },
    "vgg16-cifar": {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "features.1.running_mean": (64,),
        "features.40.weight": (512, 512, 3, 3),
        "features.41.bias": (512,),
        "classifier.weight": (10, 512),
    },
    "resnet18-cifar": {"conv1.weight": (64, 3, 3, 3), "fc.weight": (10, 512)},
    "airbench94": {"whiten.weight": (24, 3, 2, 2), "group3.conv2.weight": (256, 256, 3, 3)},
}
# of torchvision's state_dict
ENTRIES = {"resnet18": 122, "mobilenet_v2": 314}
# images, small enough for a test, on which every layer still does something
SMALLEST = {
    "resnet18": (3, 40),
    "resnet18-cifar": (3, 12),
    "vgg16-cifar": (3, 32),
    "mobilenet_v2": (3, 36),
    "airbench94": (3, 25),
}
# The gradients of these are compared natively. In the others the last layers see few pixels, so that batch norm
# magnifies rounding: PyTorch's own gradients in float32 are off by 3 to 18 %.
STEADY = ("resnet18-cifar", "airbench94")


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_torchvisions(name):
    channels, size, classes, count = PARAMETERS[name]
    model = models.build(name, channels=channels, size=size, classes=classes)
    state = model.state_dict()
    assert {key: state[key].shape for key in STATE[name]} == STATE[name]
    assert len(state) == ENTRIES.get(name, len(state))
    assert sum(p.size for p in model.parameters()) == count


def close(got, want, limit, floor=1e-30):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert abs(got - want).max() <= limit * max(abs(want).max(), floor)


@pytest.fixture(params=SMALLEST)
def pair(request):
    """(name, the model without dropout, PyTorch's in float64 with the same weights, a batch, its labels)."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install -e '.[dev,compare]')")
    from foveal.bench import torch_models

    name = request.param
    channels, size = SMALLEST[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, channels, size, size)).astype(np.float32)
    ours = models.build(name, channels=channels, size=(size, size), classes=10)
    for _, module in ours.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    theirs = torch_models.build(name, channels=channels, size=(size, size), classes=10).double()
    state = ours.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    # Gradients are compared of what a network keeps as it is, too.
    ours.requires_grad_(True)
    theirs.requires_grad_(True)
    return name, ours, theirs, x, np.array([3, 9, 0, 3], np.int32)


def torch_loss(theirs, x, labels):
    torch = pytest.importorskip("torch")
    output = theirs(torch.from_numpy(x).double())
    return output, torch.nn.functional.cross_entropy(output, torch.from_numpy(labels).long())


def test_the_graphs_gradients_equal_torchs(pair):
    """The model as traced, computed by NumPy in float64; only constants are rounded to float32."""
    _, ours, theirs, x, labels = pair
    output, loss = torch_loss(theirs, x, labels)
    loss.backward()

    def losses(image, target):
        y = ours(image)
        loss = nn.CrossEntropyLoss()(y, target)
        return [loss, y, *gradients(loss, [loss.trace.lift(p) for p in ours.parameters()])]

    graph = trace(losses, Type(x.shape), Type(labels.shape, "int32"))
    value, logits, *slopes = graph.evaluate(x.astype(np.float64), labels)
    close(value, loss.item(), 1e-7)
    close(logits, output.detach(), 1e-7)
    named = dict(theirs.named_parameters())
    assert len(named) == len(slopes)
    for parameter, slope in zip(ours.parameters(), slopes, strict=True):
        close(slope, named[parameter.name].grad, 1e-5, floor=1e-2)


def test_a_native_step_equals_torch(pair):
    """Loss, output and statistics; then inference. With a rate of 1 the update is the gradient."""
    name, ours, theirs, x, labels = pair
    before = ours.state_dict()
    output, loss = torch_loss(theirs, x, labels)
    loss.backward()
    step = foveal.compile_step(ours, nn.CrossEntropyLoss(), optim.SGD(ours.parameters(), lr=1.0), threads=2)
    result = step(x, labels)
    close(result.output, output.detach(), 1e-4)
    close(result.loss, loss.item(), 1e-5)
    after = ours.state_dict()
    if name in STEADY:
        for key, parameter in theirs.named_parameters():
            close(before[key] - after[key], parameter.grad, 1e-3, floor=1e-3)
    for key, buffer in theirs.named_buffers():
        if not key.endswith("num_batches_tracked"):
            close(after[key], buffer, 1e-4, floor=1e-3)
    for key, parameter in theirs.named_parameters():
        parameter.data[...] = pytest.importorskip("torch").from_numpy(after[key])
    output, _ = torch_loss(theirs.eval(), x, labels)
    close(ours.eval()(x), output.detach(), 1e-3)


@pytest.mark.parametrize(("name", "smallest"), [("vgg16-cifar", 32), ("airbench94", 25)])
def test_images_that_are_too_small_are_refused(name, smallest):
    with pytest.raises(ShapeError, match=rf"it needs {smallest}x{smallest}"):
        models.build(name, channels=3, size=(64, smallest - 1), classes=10)
