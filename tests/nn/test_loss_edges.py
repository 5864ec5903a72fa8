"""Losses at 0, 1 and infinity: compiled, computed at once by NumPy, and against PyTorch where it has a finite value."""

import math

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.errors import DataError

INF = math.inf


def floats(values):
    return np.array(values, np.float32)


def both(loss, output, target):
    """The loss, compiled and by NumPy, which have to agree, and its gradient."""
    value, gradient = foveal.value_and_grad(loss)(output, target)
    with np.errstate(all="ignore"):
        at_once = np.asarray(loss(output, target))
    assert np.allclose(value, at_once, rtol=1e-6, atol=1e-7, equal_nan=True)
    return float(value), gradient


ONE_CLASS_LEFT = floats([[1.0, -INF, 2.0], [-INF, 0.5, -INF]])
LABELS = np.array([2, 1], np.int32)
ENTROPIES = {
    "operator": (ops.softmax_cross_entropy, "CrossEntropyLoss", {}),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), "CrossEntropyLoss", {"reduction": "sum"}),
    "weight": (nn.CrossEntropyLoss([1.0, 2.0, 3.0]), "CrossEntropyLoss", {"weight": [1.0, 2.0, 3.0]}),
    "ignored": (nn.CrossEntropyLoss(ignore_index=0), "CrossEntropyLoss", {"ignore_index": 0}),
    "focal": (nn.FocalLoss(gamma=0.0), "CrossEntropyLoss", {}),
}


@pytest.mark.parametrize("name", ENTROPIES)
def test_a_class_of_probability_0_that_is_not_the_label(name, torch):
    loss, theirs, options = ENTROPIES[name]
    value, gradient = both(loss, ONE_CLASS_LEFT, LABELS)
    options = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
    x = torch.tensor(ONE_CLASS_LEFT, requires_grad=True)
    want = getattr(torch.nn, theirs)(**options)(x, torch.tensor(LABELS, dtype=torch.int64))
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_logits_whose_difference_overflows():
    x = floats([[3e38, -3e38, 0.0]])
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), nn.FocalLoss()):
        value, gradient = both(loss, x, np.array([0], np.int32))
        assert value == 0
        assert (gradient == 0).all()


def test_log_probabilities_of_probability_0():
    value, gradient = both(nn.NLLLoss(), floats([[-0.5, -INF], [-INF, -0.25]]), np.array([0, 1], np.int32))
    assert value == 0.375
    assert gradient.tolist() == [[-0.5, 0], [0, -0.5]]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum"), nn.FocalLoss()])
def test_a_label_of_probability_0_is_an_infinite_loss(loss):
    assert both(loss, ONE_CLASS_LEFT, np.array([1, 1], np.int32))[0] == INF


def test_a_class_of_weight_0_does_not_count():
    x, target = floats([[1.0, -INF, 2.0], [0.0, 1.0, 2.0]]), np.array([1, 2], np.int32)
    alone = both(nn.CrossEntropyLoss(), x[1:], target[1:])[0]
    for loss in (nn.CrossEntropyLoss([1.0, 0.0, 2.0]), nn.CrossEntropyLoss([1.0, 0.0, 2.0], reduction="none")):
        with np.errstate(all="ignore"):
            value = np.sum(foveal.compile(loss)(x, target))
        share = 1.0 if loss.reduction == "mean" else 2.0
        np.testing.assert_allclose(value, share * alone, rtol=1e-6)


def test_a_batch_of_classes_of_weight_0_is_refused():
    for loss in (nn.CrossEntropyLoss([0.0, 1.0], ignore_index=-100), nn.NLLLoss([0.0, 1.0]), nn.FocalLoss(2.0, [0, 1])):
        loss.check(np.array([0, 1], np.int32), (2, 2))
        with pytest.raises(DataError, match=f"to which {loss.name} gives the weight 0"):
            loss.check(np.array([0, 0], np.int32), (2, 2))
    with pytest.raises(DataError, match="gives the weight 0"):
        nn.CrossEntropyLoss([0.0, 1.0], ignore_index=-100).check(np.array([-100, 0], np.int32), (2, 2))


def test_probabilities_as_targets_take_0_ln_0_for_0():
    target = floats([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])
    value, gradient = both(nn.CrossEntropyLoss(), ONE_CLASS_LEFT, target)
    p = np.exp([1.0, 2.0]) / np.exp([1.0, 2.0]).sum()
    np.testing.assert_allclose(value, -(0.25 * np.log(p[0]) + 0.75 * np.log(p[1])) / 2, rtol=1e-6)
    assert np.isfinite(gradient).all()
    # the gradient in targets is the logarithm, where there is one
    slopes = foveal.grad(nn.CrossEntropyLoss(reduction="sum"), wrt=1)(floats([[0.0, 0.0]]), floats([[0.0, 1.0]]))
    np.testing.assert_allclose(slopes, math.log(2), rtol=1e-6)


def test_smoothing_gives_a_class_of_probability_0_its_share():
    assert both(nn.CrossEntropyLoss(label_smoothing=0.1), ONE_CLASS_LEFT, LABELS)[0] == INF
    # at a position that is ignored, it does not count
    loss = nn.CrossEntropyLoss(label_smoothing=0.3, ignore_index=-1)
    x = floats([[1.0, -INF, 2.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(both(loss, x, np.array([-1, 1], np.int32))[0], math.log(3), rtol=1e-6)


EDGES = floats([[0.0, 1.0, 0.0, 1.0, 1e-20, 1e-35]])
EDGE_TARGETS = floats([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0]])


def test_binary_cross_entropy_at_0_and_1(torch):
    loss = nn.BCELoss(reduction="none")
    found = foveal.compile(loss)(EDGES, EDGE_TARGETS)
    want = torch.nn.BCELoss(reduction="none")(torch.tensor(EDGES), torch.tensor(EDGE_TARGETS)).numpy()
    np.testing.assert_allclose(found, want, rtol=1e-6)
    np.testing.assert_allclose(loss(EDGES, EDGE_TARGETS), want, rtol=1e-6)
    assert found[0, 2:4].tolist() == [100, 100]
    assert np.isfinite(foveal.grad(nn.BCELoss())(EDGES, EDGE_TARGETS)).all()
    assert math.isnan(both(nn.BCELoss(), floats([[math.nan]]), floats([[1.0]]))[0])


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.BinaryFocalLoss(), nn.BinaryFocalLoss(0.5, None)])
def test_infinite_binary_logits(loss):
    value, gradient = both(loss, floats([[INF, -INF]]), floats([[1.0, 0.0]]))
    assert value == 0
    assert (gradient == 0).all()
    assert both(loss, floats([[INF, -INF]]), floats([[0.0, 1.0]]))[0] == INF


def test_binary_weights_of_0_do_not_count():
    x, target = floats([[INF, 1.0]]), floats([[0.0, 1.0]])
    alone = both(nn.BCEWithLogitsLoss(reduction="sum"), x[:, 1:], target[:, 1:])[0]
    assert both(nn.BCEWithLogitsLoss([0.0, 1.0], reduction="sum"), x, target)[0] == pytest.approx(alone)
    positive = nn.BCEWithLogitsLoss(pos_weight=[0.0, 1.0], reduction="sum")
    assert both(positive, -x * floats([[1.0, -1.0]]), floats([[1.0, 1.0]]))[0] == pytest.approx(alone)
    assert both(nn.BinaryFocalLoss(0.0, 0.0), floats([[-INF, INF]]), floats([[1.0, 1.0]]))[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "slope"), [("L1Loss", {}, 1.0), ("HuberLoss", {"delta": 0.5}, 0.5), ("SmoothL1Loss", {}, 1.0)]
)
def test_distances_of_infinity(name, options, slope, torch):
    output, target = floats([INF, -INF, 1.0]), np.zeros(3, np.float32)
    loss = getattr(nn, name)(reduction="sum", **options)
    value, gradient = both(loss, output, target)
    x = torch.tensor(output, requires_grad=True)
    getattr(torch.nn, name)(reduction="sum", **options)(x, torch.tensor(target)).backward()
    assert value == INF
    assert gradient.tolist() == [slope, -slope, slope] == x.grad.tolist()
    assert math.isnan(both(loss, floats([math.nan]), target[:1])[0])


def test_an_auxiliary_loss_of_weight_0_is_left_out():
    loss = nn.AuxiliaryLoss(nn.CrossEntropyLoss(), weight=0.0)
    outputs = floats([[0.0, 0.0]]), floats([[0.0, -INF]])
    assert float(loss(outputs, np.array([1], np.int32))) == pytest.approx(math.log(2))


class Logarithm(nn.Module):
    """Dropout of ln x, which is -inf at 0."""

    def __init__(self):
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(ops.log(x))


def test_what_is_dropped_may_be_infinite():
    found = Logarithm()(np.zeros((1, 64), np.float32))
    assert set(np.unique(found)) == {0.0, -INF}
