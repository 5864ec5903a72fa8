"""A step that fails changes nothing, to the bit, and says what was not finite (foveal/guard.py)."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.errors import NumericsError, ShapeError
from foveal.ops.op import Type
from foveal.passes.recompute import recompute
from foveal.passes.simplify import simplify
from foveal.program import Program

LOSS = nn.CrossEntropyLoss()


class Normalised(nn.Module):
    """Features divided by their norm, whose gradient at a row of zeros is NaN, while its value is 0."""

    def __init__(self):
        self.fc, self.bn, self.dropout = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Dropout(0.2)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        f = self.fc(x)
        f = f / (ops.sqrt(ops.sum(f * f, axes=1, keepdims=True)) + 1e-6)
        return self.out(self.dropout(self.bn(f)))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 4)).astype(np.float32), rng.integers(0, 3, 6)


def with_a_row_of_zeros():
    x, labels = batch(1)
    x[2] = 0
    return x, labels


OPTIMISERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.Nesterov(p, lr=0.1, weight_decay=1e-3),
    "clipped": lambda p: optim.Adam(p, lr=0.1, clip_norm=1.0, clip_value=0.5),
    "ema": lambda p: optim.EMA(optim.AdamW(p, lr=0.1)),
    "swa": lambda p: optim.SWA(optim.SGD(p, lr=0.1)),
    "lookahead": lambda p: optim.Lookahead(optim.SGD(p, lr=0.1), k=2),
    "lamb": lambda p: optim.LAMB(p, lr=0.1),
    "muon": lambda p: optim.muon(p, lr=0.1),
}


def held(model, optimizer, step):
    """All that a step may change."""
    arrays = model.state_dict() | optimizer.state_dict()
    return {name: np.array(value).tobytes() for name, value in arrays.items()} | {"steps": step.steps}


def trained(name, memory="fast"):
    nn.seed(0)
    model = Normalised()
    optimizer = OPTIMISERS[name](model.parameters())
    step = foveal.compile_step(model, LOSS, optimizer, memory=memory)
    step(*batch())
    return model, optimizer, step


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_gradient_of_nan_at_a_finite_loss_changes_nothing(name):
    """What comes after is what would have come without the failure: masks of dropout and corrections by step too."""
    model, optimizer, step = trained(name)
    before = held(model, optimizer, step)
    words = r"the loss is \d.*in step 2, but (the gradient of fc.weight|the norm of .*) is nan; look for a division"
    with pytest.raises(NumericsError, match=words):
        step(*with_a_row_of_zeros())
    assert held(model, optimizer, step) == before
    step(*batch(2))
    straight = trained(name)
    straight[2](*batch(2))
    assert held(model, optimizer, step) == held(*straight)


def test_saving_memory_computes_gradients_once():
    *_, step = trained("sgd", memory="low")
    with pytest.raises(NumericsError, match=r"the gradient of fc\.weight is nan"):
        step(*with_a_row_of_zeros())
    nn.seed(0)
    net = nn.models.build("resnet20", channels=3, size=(16, 16), classes=10)
    low = foveal.compile_step(net, LOSS, optim.SGD(net.parameters(), lr=0.1), memory="low")
    graph = recompute(simplify(low.trace(*types((4, 3, 16, 16), (4,)))))
    names = [str(node.op) for node in graph.nodes]
    assert names.count("conv2d_weight_grad") == names.count("conv2d")
    assert names.count("magnitudes") == 1


def types(x, labels):
    return Type(x), Type(labels, "int32")


class Aside(nn.Module):
    """A batch norm of large values that the output does not depend on."""

    def __init__(self, scale):
        self.bn, self.out, self.scale = nn.BatchNorm1d(4), nn.Linear(4, 3), scale

    def forward(self, x):
        self.bn(x * self.scale)
        return self.out(x)


# Of the batch norm only the statistics are used.
@pytest.mark.filterwarnings("ignore:the loss does not read")
@pytest.mark.parametrize("scale", [1e20, 1e38])
def test_running_statistics_that_overflow_change_nothing(scale):
    model = Aside(scale)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = foveal.compile_step(model, LOSS, optimizer)
    before = held(model, optimizer, step)
    with pytest.raises(
        NumericsError, match=r"the loss is \d.*but what bn.running_(mean|var) is updated with is (inf|nan)"
    ):
        step(*batch())
    assert held(model, optimizer, step) == before


def test_a_forward_pass_in_training_mode_writes_no_infinite_statistics():
    norm = nn.BatchNorm1d(4)
    x, _ = batch()
    norm(x)
    before = norm.state_dict()
    with pytest.raises(
        NumericsError, match=r"what running_\w+ is updated with is (inf|nan); check the input\. Nothing"
    ):
        norm(x * np.float32(1e20))
    assert all(value.tobytes() == before[name].tobytes() for name, value in norm.state_dict().items())
    norm(x)
    assert int(norm.num_batches_tracked.data) == 2


def scaled_mean(factor):
    return lambda output, target: ops.mean(output * factor)


def linear(loss, optimizer):
    net = nn.Linear(4, 3)
    net.weight.data = np.zeros((3, 4), np.float32)
    return net, foveal.compile_step(net, loss, optimizer(net.parameters()))


def test_a_gradient_whose_square_overflows_is_refused():
    net, step = linear(scaled_mean(1e20), lambda p: optim.Adam(p, lr=0.1))
    words = r"the gradient of weight reaches \d.*e\+\d+, too much for float32 to go on with: the limit is 9.22e\+18"
    with pytest.raises(NumericsError, match=words):
        step(*batch())
    assert not net.weight.data.any()


def test_a_norm_that_overflows_is_told_and_scales_nothing_to_0():
    net, step = linear(scaled_mean(2e19), lambda p: optim.SGD(p, lr=0.1, clip_norm=1.0))
    with pytest.raises(NumericsError, match="the norm of all gradients is inf"):
        step(np.ones((6, 4), np.float32), batch()[1])
    assert not net.weight.data.any()


def test_infinite_logits_at_a_finite_loss_are_trained_on():
    class Masked(nn.Module):
        def __init__(self):
            self.fc, self.possible = nn.Linear(4, 3), nn.module.Buffer([1.0, 1.0, 0.0])

        def forward(self, x):
            return ops.where(self.possible, self.fc(x), -np.inf)

    net = Masked()
    step = foveal.compile_step(net, LOSS, optim.SGD(net.parameters(), lr=0.1))
    x, labels = batch()
    results = [step(x, labels % 2) for _ in range(3)]
    assert np.isneginf(results[0].output[:, 2]).all()
    assert results[2].loss < results[0].loss


def test_what_the_optimiser_does_not_train_is_neither_computed_nor_checked():
    head = nn.Linear(144, 3)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), head)
    step = foveal.compile_step(net, LOSS, optim.SGD(head.parameters(), lr=0.1))
    graph, guard, *_ = step.traced(*types((2, 1, 8, 8), (2,)))
    assert "conv2d_weight_grad" not in [str(node.op) for node in graph.nodes]
    assert guard.names == [
        "the loss",
        "what 1.running_mean is updated with",
        "the gradient of 3.weight",
        "the gradient of 3.bias",
    ]


@pytest.mark.parametrize("after", [False, True])
def test_an_interruption_counts_a_step_only_if_it_was_carried_out(monkeypatch, after):
    """Ctrl-C is raised before the native run or when it is over."""
    model, optimizer, step = trained("clipped")
    before, launch = held(model, optimizer, step), Program.launch

    def interrupted(self, timed=False):
        if after:
            launch(self, timed)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Program, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            step(*batch(2))
    straight = trained("clipped")
    if not after:
        assert held(model, optimizer, step) == before
        return
    straight[2](*batch(2))
    assert held(model, optimizer, step) == held(*straight)


def test_rates_that_overflow_are_refused():
    net = nn.Linear(2, 2)
    for options in ({"lr": 1e38}, {"lr": 0.1, "weight_decay": 1e30}):
        with pytest.raises(ShapeError, match=r"it has to be at least 0 and below 1e\+09"):
            optim.SGD(net.parameters(), **options)
