"""compile_step, gradients and layers: against PyTorch where it is installed, and what has to hold on its own."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import foveal
from foveal import debug, nn, ops, optim
from foveal.errors import DataError, NumericsError, ShapeError, StateError
from foveal.nn.models.lenet import LeNet5
from foveal.nn.models.resnet import CifarResNet

LOSS = nn.CrossEntropyLoss()


def images(count, channels=3, size=12, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, channels, size, size)).astype(np.float32)
    return x, rng.integers(0, classes, count)


def close(got, want, limit):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert abs(got - want).max() <= limit * max(abs(want).max(), 1e-30)


class Small(nn.Module):
    """Convolution, batch norm, both poolings and a linear layer; no dropout."""

    def __init__(self):
        self.conv = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = ops.relu(self.bn(self.conv(x)))
        x = ops.avg_pool2d(ops.max_pool2d(x, kernel_size=3, stride=1, padding=1), kernel_size=2)
        return self.fc(ops.global_avg_pool2d(x).reshape(x.shape[0], -1))


def torch_small(torch):
    t = torch.nn

    class Twin(t.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.fc = (t.Conv2d(3, 8, 3, padding=1, stride=2), t.BatchNorm2d(8), t.Linear(8, 10))

        def forward(self, x):
            x = torch.relu(self.bn(self.conv(x)))
            x = t.functional.avg_pool2d(t.functional.max_pool2d(x, 3, 1, 1), 2)
            return self.fc(x.mean((2, 3)))

    return Twin()


def torch_lenet(torch):
    t = torch.nn

    class Twin(t.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = t.Conv2d(1, 6, 5, padding=2), t.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = t.Linear(400, 120), t.Linear(120, 84), t.Linear(84, 10)

        def forward(self, x):
            pool = t.functional.max_pool2d
            x = pool(torch.relu(self.conv2(pool(torch.relu(self.conv1(x)), 2))), 2).flatten(1)
            return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    return Twin()


def torch_resnet(torch):
    t = torch.nn

    class Block(t.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = t.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1, self.bn2 = t.BatchNorm2d(outputs), t.BatchNorm2d(outputs)
            self.conv2 = t.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.downsample = t.Identity()
            if stride != 1 or inputs != outputs:
                shortcut = t.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.downsample = t.Sequential(shortcut, t.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.downsample(x))

    class Twin(t.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = t.Conv2d(3, 16, 3, 1, 1, bias=False), t.BatchNorm2d(16)
            self.layer1 = t.Sequential(Block(16, 16, 1))
            self.layer2 = t.Sequential(Block(16, 32, 2))
            self.layer3 = t.Sequential(Block(32, 64, 2))
            self.fc = t.Linear(64, 10)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    return Twin()


MODELS = {
    "small": (Small, torch_small, (3, 12)),
    "lenet5": (LeNet5, torch_lenet, (1, 28)),
    "resnet8": (lambda: CifarResNet(8), torch_resnet, (3, 16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_steps_equal_torch(name, torch):
    """Ours in float32 against PyTorch in float64, from the same weights on the same batches."""
    build, build_torch, (channels, size) = MODELS[name]
    nn.seed(1)
    ours, theirs = build(), build_torch(torch).double()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    step = foveal.compile_step(ours, LOSS, optim.SGD(ours.parameters(), lr=0.05))
    descent = torch.optim.SGD(theirs.parameters(), lr=0.05)
    for i in range(4):
        x, labels = images(6, channels, size, seed=i)
        output = theirs(torch.from_numpy(x).double())
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(labels))
        descent.zero_grad()
        loss.backward()
        descent.step()
        result = step(x, labels)
        close(result.loss, loss.item(), 1e-5)
        close(result.output, output.detach(), 1e-4)
    found = ours.state_dict()
    for key, value in theirs.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        close(found[key], value.detach(), 1e-5)
    x, _ = images(5, channels, size, seed=9)
    close(ours.eval()(x), theirs.eval()(torch.from_numpy(x).double()).detach(), 1e-4)


def everything(model, optimizer):
    """All that a step may change, as bytes."""
    held = [v.data for _, v in model.named_variables()]
    held += [v.data for state in optimizer.state.values() for v in state.values()]
    return [np.array(v).tobytes() for v in held]


def train(threads, steps=50, seed=3):
    model = nn.models.build("small", channels=3, size=(8, 8), classes=10, seed=5)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    step = foveal.compile_step(model, LOSS, optimizer, threads=threads, seed=seed)
    losses = [step(*images(10, size=8, seed=i)).loss for i in range(steps)]
    return [np.array(losses).tobytes(), *everything(model, optimizer)]


def test_50_steps_give_the_same_bits_on_any_number_of_threads():
    first = train(1)
    for threads in (2, 2, 1, 3):
        assert train(threads) == first


def test_another_seed_drops_other_elements():
    assert train(1, steps=2) != train(1, steps=2, seed=4)


def test_more_threads_than_cores():
    x, labels = images(9)
    results = []
    for threads in (1, 13):
        nn.seed(0)
        model = Small()
        step = foveal.compile_step(model, LOSS, optim.SGD(model.parameters(), 0.1), threads=threads)
        results.append([step(x, labels).loss for _ in range(5)])
    assert results[0] == results[1]


# what goes wrong is told, and nothing is changed


@pytest.fixture
def trained():
    nn.seed(0)
    model = Small()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    step = foveal.compile_step(model, LOSS, optimizer)
    step(*images(4))
    return model, optimizer, step


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (np.nan, r"the input x holds nan at index \(2, 1, 5, 7\)"),
        (-np.inf, r"the input x holds -inf at index \(2, 1, 5, 7\)"),
    ],
)
def test_an_input_that_is_not_finite_changes_nothing(trained, damage, words):
    model, optimizer, step = trained
    before = everything(model, optimizer)
    x, labels = images(4, seed=1)
    broken = x.copy()
    broken[2, 1, 5, 7] = damage
    with pytest.raises(NumericsError, match=words):
        step(broken, labels)
    assert everything(model, optimizer) == before
    assert optimizer.steps == step.steps == 1
    step(x, labels)
    assert everything(model, optimizer) != before


def test_a_loss_that_overflows_changes_nothing(trained):
    """What comes after is what would have come without the failure: also Adam's count of steps is as before."""
    model, optimizer, step = trained
    x, labels = images(4, seed=1)
    weight = model.fc.weight.data.copy()
    model.fc.weight.data = np.full_like(weight, 3e38)
    before = everything(model, optimizer)
    with pytest.raises(NumericsError, match=r"the loss is (nan|inf) in step 2; lower the learning rate"):
        step(x, labels)
    assert everything(model, optimizer) == before
    assert optimizer.steps == step.steps == 1
    model.fc.weight.data = weight
    step(x, labels)
    nn.seed(0)
    other = Small()
    state = optim.Adam(other.parameters(), lr=0.01)
    straight = foveal.compile_step(other, LOSS, state)
    straight(*images(4))
    straight(x, labels)
    assert everything(model, optimizer) == everything(other, state)


@pytest.mark.parametrize(("at", "label"), [(0, 10), (3, -1), (2, 2**31 - 1)])
def test_labels_outside_of_the_classes(trained, at, label):
    model, optimizer, step = trained
    before = everything(model, optimizer)
    x, labels = images(4)
    labels[at] = label
    with pytest.raises(DataError, match=rf"label {label} at position {at} .* 10 classes \(0 to 9\)"):
        step(x, labels)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize(
    ("x", "labels", "kind", "words"),
    [
        (np.zeros((0, 3, 12, 12), "f4"), np.zeros(0, int), DataError, r"the batch is empty .*\(0, 3, 12, 12\)"),
        (np.zeros((4, 3, 12, 12), "u1"), np.zeros(4, int), ShapeError, r"dtype uint8.*astype\('float32'\)"),
        (np.zeros((4, 3, 12, 12), bool), np.zeros(4, int), ShapeError, "dtype bool"),
        (np.zeros((4, 3, 12, 12), "c8"), np.zeros(4, int), ShapeError, "dtype complex64"),
        (np.zeros((4, 1, 12, 12), "f4"), np.zeros(4, int), ShapeError, r"x has 1 channels.*\(4, 1, 12, 12\)"),
        (np.zeros((4, 3, 12), "f4"), np.zeros(4, int), ShapeError, r"\(4, 3, 12\)"),
        (np.zeros((4, 3, 12, 12), "f4"), np.zeros(3, int), ShapeError, r"labels of shape \(3,\)"),
        (np.zeros((4, 3, 12, 12), "f4"), np.zeros(4, "f4"), ShapeError, "float32.*int32"),
        (np.zeros((4, 3, 12, 12), "f4"), np.full(4, 2**40), DataError, "32 bits"),
        (np.zeros((4, 3, 1, 1), "f4"), np.zeros(4, int), ShapeError, "larger input"),
    ],
)
def test_a_wrong_batch_is_told_before_anything_is_computed(trained, x, labels, kind, words):
    model, optimizer, step = trained
    before = everything(model, optimizer)
    with pytest.raises(kind, match=words):
        step(x, labels)
    assert everything(model, optimizer) == before


def test_a_wrong_batch_names_the_layer(trained):
    with pytest.raises(ShapeError, match=r"conv"):
        trained[2](np.zeros((4, 1, 12, 12), "f4"), np.zeros(4, int))


def test_logits_of_any_size_are_stable():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], np.float32)
    labels = np.array([0, 0], np.int32)
    loss, slope = foveal.value_and_grad(lambda x, t: LOSS(x, t))(logits, labels)
    assert loss == np.float32((2e4 + np.log(2)) / 2)
    np.testing.assert_allclose(slope, [[0, 0, 0], [-0.5, 0.25, 0.25]], atol=1e-7)


LOOP = """
import signal
import numpy as np
import foveal
from foveal import nn, optim
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may start with it ignored
nn.seed(0)
model = nn.models.build("small", channels=1, size=(8, 8), classes=3)
step = foveal.compile_step(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.01), threads=2)
x, labels = np.random.default_rng(0).random((16, 1, 8, 8), np.float32), np.arange(16) % 3
step(x, labels)
for i in range(5):
    try:
        print("ready", flush=True)
        while True:
            step(x, labels)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print("finite", np.isfinite(step(x, labels).loss), flush=True)
"""


def test_control_c_ends_a_loop_of_steps_and_the_next_step_works():
    process = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True)
    try:
        for i in range(5):
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05 + 0.013 * i)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "finite True\n"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()


# state, modes and gradients


def test_state_dict_travels_through_safetensors(tmp_path, torch):
    nn.seed(0)
    theirs, ours = torch_lenet(torch), LeNet5()
    save_file({k: v.numpy() for k, v in theirs.state_dict().items()}, tmp_path / "lenet.safetensors")
    ours.load_state_dict(load_file(tmp_path / "lenet.safetensors"))
    x, _ = images(3, 1, 28)
    close(ours.eval()(x), theirs(torch.from_numpy(x)).detach(), 1e-5)
    save_file(ours.state_dict(), tmp_path / "back.safetensors")
    for name, value in load_file(tmp_path / "back.safetensors").items():
        assert value.tobytes() == theirs.state_dict()[name].numpy().tobytes()


def test_a_state_that_does_not_fit_names_every_parameter_and_changes_nothing():
    model = Small()
    before = [v.tobytes() for v in model.state_dict().values()]
    state = model.state_dict() | {"extra": np.zeros(2), "fc.bias": np.zeros(7), "conv.bias": np.ones(8)}
    del state["bn.running_var"], state["fc.weight"]
    with pytest.raises(StateError) as caught:
        model.load_state_dict(state)
    for words in ("bn.running_var", "fc.weight", "extra", "fc.bias", "[7]", "[10]"):
        assert words in str(caught.value)
    assert [v.tobytes() for v in model.state_dict().values()] == before
    del state["fc.bias"]
    model.load_state_dict(state, strict=False)
    assert (model.conv.bias.data == 1).all()


def test_eval_and_train_compile_anew():
    model = Small()
    x, _ = images(8)
    fresh = model.eval()(x)
    trained = model.train()(x)
    assert abs(fresh - trained).max() > 1e-3
    assert (model.bn.running_mean.data != 0).all()
    assert abs(model.eval()(x) - fresh).max() > 1e-6
    model.bn.eval()
    assert (model.eval()(x) == model.eval()(x)).all()


def test_weights_changed_between_calls_are_used():
    model = nn.Linear(3, 2)
    x = np.ones((1, 3), np.float32)
    first = model(x)
    model.bias.data = model.bias.data + 1
    np.testing.assert_allclose(model(x) - first, 1, rtol=1e-6)  # first + 1 may be close to 0


def test_gradients_equal_torch(torch):
    """Broadcasting, maximum, mean, exp, log, sqrt and division in one function."""

    def ours(a, b, c):
        z = ops.exp(a - ops.max(a, axes=(1,), keepdims=True)) / (ops.sqrt(b) + 0.5)
        w = ops.maximum(z * c, ops.log(b) * 0.1) + ops.mean(a * b, axes=(0, 2), keepdims=True)
        return ops.mean(w * w) - ops.sum(c) / 7.0

    def theirs(a, b, c):
        z = torch.exp(a - a.amax(1, keepdim=True)) / (torch.sqrt(b) + 0.5)
        w = torch.maximum(z * c, torch.log(b) * 0.1) + (a * b).mean((0, 2), keepdim=True)
        return (w * w).mean() - c.sum() / 7.0

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 5, 6)), rng.uniform(0.5, 2, (5, 1)), rng.standard_normal((4, 1, 6))]
    arrays = [a.astype(np.float32) for a in arrays]
    tensors = [torch.from_numpy(a).double().requires_grad_() for a in arrays]
    value = theirs(*tensors)
    value.backward()
    got, slopes = foveal.value_and_grad(ours, (0, 1, 2))(*arrays)
    close(got, value.item(), 1e-6)
    for slope, tensor in zip(slopes, tensors, strict=True):
        close(slope, tensor.grad, 1e-6)
    close(foveal.grad(ours, 1)(*arrays), tensors[1].grad, 1e-6)


def test_gradient_in_a_variable():
    w = foveal.Variable(np.array([2.0, 3.0]), "w")
    value, slope = foveal.value_and_grad(lambda x: ops.sum(x * w * w), (w,))(np.array([1.0, 10.0]))
    assert value == 94.0
    assert slope[0].tolist() == [4.0, 60.0]


def test_gradient_of_something_else_than_a_scalar_is_refused():
    with pytest.raises(ShapeError, match="sum it to a scalar"):
        foveal.grad(lambda x: x * x)(np.ones(3, np.float32))


def masks(streams=1, seed=0, steps=2, p=0.3, shape=(40, 50)):
    """What dropout keeps, by step and stream."""
    mask = foveal.compile(
        lambda key: tuple(ops.dropout_mask(key, shape=shape, p=p, stream=s) for s in range(streams)), threads=1
    )
    return [mask(np.array([seed, 0, step, 0], np.int32)) for step in range(steps)]


def test_dropout_keeps_the_mean_and_differs_by_seed_step_and_stream():
    found = [m for step in masks(streams=2, shape=(400, 500)) for m in step]
    found += [m for step in masks(seed=1, shape=(400, 500)) for m in step]
    for mask in found:
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.7)}
        assert abs(mask.mean() - 1) < 0.006  # four standard deviations
    kept = np.array([m > 0 for m in found]).reshape(len(found), -1)
    agreement = (kept[:, None] == kept[None]).mean(-1)
    assert abs(agreement[~np.eye(len(found), dtype=bool)] - (0.7**2 + 0.3**2)).max() < 0.006


def test_dropout_layers_of_one_model_draw_different_numbers():
    # PReLU leaves the numbers as they are: a step needs something to train
    model = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.5), nn.PReLU())
    loss, x = (lambda y, t: ops.mean(y)), np.ones((50, 40), np.float32)
    step = foveal.compile_step(model, loss, optim.SGD(model.parameters(), 0.1))
    first, second = step(x, x).output, step(x, x).output
    assert abs((first > 0).mean() - 0.25) < 0.05  # the same numbers twice would leave half
    assert (first != second).any()
    assert (model.eval()(x) == x).all()


def test_dropout_inside_of_compile_says_what_to_do():
    with pytest.raises(ShapeError, match=r"compile_step.*model\.eval\(\)"):
        foveal.compile(nn.Dropout(0.5).forward)(np.ones((2, 2), np.float32))


@pytest.mark.parametrize("name", ["relu", "max", "maximum", "minimum", "clip", "gelu", "tanh", "erf", "max_pool2d"])
def test_nan_is_not_hidden(name):
    for at in range(4):
        x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
        x.flat[at] = np.nan
        functions = {
            "relu": lambda x: ops.relu(x),
            "max": lambda x: ops.max(x),
            "maximum": lambda x: ops.maximum(x, 0.5) + ops.maximum(0.5, x) + ops.maximum(x * 0.0, x),
            "minimum": lambda x: ops.minimum(x, 0.5) + ops.minimum(0.5, x) + ops.minimum(x * 0.0, x),
            "clip": lambda x: ops.clip(x, low=0.0, high=6.0),
            "gelu": ops.gelu,
            "tanh": ops.tanh,
            "erf": ops.erf,
            "max_pool2d": lambda x: ops.max_pool2d(x, kernel_size=2),
        }
        assert np.isnan(foveal.compile(functions[name], threads=1)(x)).any()


@pytest.mark.parametrize("function", [lambda x: x + 1.0, lambda x: ops.exp(x).sum()])
def test_debug_tells_where_the_time_goes(function, capsys):
    """Also of a program that is a single call, which has no call before it to count from."""
    with debug.at(debug.TIME):
        foveal.compile(function, threads=1)(np.ones((2, 3), np.float32))
    told = capsys.readouterr()
    told = told.out + told.err
    assert "of peak" in told
    assert "nan" not in told
