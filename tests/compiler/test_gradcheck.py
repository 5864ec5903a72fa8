"""gradcheck finds the element that is off, wherever the gradient comes from, and calls no right gradient wrong."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.errors import ArgumentError, FovealError, NumericsError, ShapeError
from foveal.kernel import maths
from foveal.ops.op import OPS, Operator

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 2))


@pytest.fixture
def own_operators():
    """Operators that a test makes are gone afterwards."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def forward(x, w):
    return np.tanh(x @ w), (x, w)


def backward(dy, cache, factor=1.0):
    x, w = cache
    d = dy * (1 - np.tanh(x @ w) ** 2)
    dw = x.T @ d
    dw[2, 1] *= factor
    return d @ w.T, dw


def test_nothing_to_compare_is_refused():
    with pytest.raises(ShapeError, match="nothing would be compared"):
        foveal.gradcheck(ops.exp, np.ones(3), elements=0, directions=0)


def test_what_is_right_agrees():
    images, labels = RNG.standard_normal((4, 2, 6, 6)), np.array([0, 2, 1, 1])
    nn.seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    kept = {name: array.copy() for name, array in net.state_dict().items()}
    report = foveal.gradcheck(net, images, elements=20, native=True)
    assert report
    assert [row.name for row in report.rows][:3] == ["x", "0.weight", "0.bias"]
    assert "float32" in str(report)
    # running statistics stay as they were
    assert all((kept[name] == array).all() for name, array in net.state_dict().items())
    net.eval()
    assert foveal.gradcheck(net, images, elements=5)
    loss = foveal.gradcheck(nn.CrossEntropyLoss(), RNG.standard_normal((4, 3)), labels)
    assert loss
    assert "integers" in loss.rows[1].skipped
    assert foveal.gradcheck(ops.matmul, (X, W))
    assert foveal.gradcheck(
        lambda x, w: ops.conv2d(x, w, stride=2), images, RNG.standard_normal((2, 2, 3, 3)), elements=9
    )


def test_a_frozen_parameter_is_skipped_and_named():
    layer = nn.Linear(4, 2)
    layer.weight.trainable = False
    report = foveal.gradcheck(layer, X)
    assert report["weight"].skipped == "not trained"
    assert report["bias"].checked == 2


def test_the_wrong_element_of_a_students_gradient_is_named():
    assert foveal.gradcheck(forward, X, W, backward=backward)
    report = foveal.gradcheck(forward, X, W, backward=lambda dy, cache: backward(dy, cache, 1.001))
    assert not report
    (row,) = report.wrong
    assert (row.name, row.worst) == ("w", (2, 1))
    assert row.analytic == pytest.approx(1.001 * row.numeric, rel=1e-6)
    assert "[2, 1]" in str(report)
    with pytest.raises(NumericsError, match=r"\[2, 1\]"):
        foveal.gradcheck(forward, X, W, backward=lambda dy, c: backward(dy, c, 1.001), raise_on_failure=True)


def test_a_wrong_element_is_found_along_a_direction():
    """One of 20,000 elements, none of which is compared by itself."""
    x = RNG.standard_normal(20_000)

    def slope(dy, x):
        dx = dy * 2 * x
        dx[12_345] += 1.0
        return dx

    report = foveal.gradcheck(lambda x: x * x, x, backward=slope, elements=2, directions=1)
    assert report.rows[0].worst == (12_345,)


@pytest.mark.parametrize(
    "slope",
    [lambda dy, x: 2 * x * dy, lambda dy: dy * 2 * X, lambda dy, x: {"x": 2 * x * dy}, lambda dy, x: [2 * x * dy]],
)
def test_forms_of_backward(slope):
    assert foveal.gradcheck(lambda x: x * x, X, backward=slope)


def test_options_caches_and_losses_of_numpy():
    def loss(x, y, options):
        p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        value, dx = -options["scale"] * np.log(p[rows, y]).mean(), p.copy()
        dx[rows, y] -= 1
        return value, options["scale"] * dx / len(y)

    report = foveal.gradcheck(loss, X, np.array([0, 1, 3]), {"scale": 2.0}, backward=lambda dy, dx: dx)
    assert report
    assert [row.skipped for row in report.rows] == ["", "integers have no gradient", "no array"]


@pytest.mark.parametrize("x", [[0.0, 1.0, -1.0], [1e-7, 1.0, -1.0], [3e-6, 2.0, -4.0]])
def test_a_kink_is_no_error(x):
    report = foveal.gradcheck(ops.relu, np.array(x))
    assert report
    assert bool(report.rows[0].kinks) == (x[0] < 1e-8)


def test_a_wrong_value_at_a_kink_is_one():
    report = foveal.gradcheck(lambda x: np.maximum(x, 0), np.array([0.0, 1.0]), backward=lambda dy, x: dy * [2.0, 1.0])
    assert report.rows[0].worst == (0,)
    assert not report


def test_ties_of_a_maximum():
    assert foveal.gradcheck(lambda x: ops.max_pool2d(x, kernel_size=2), np.ones((1, 1, 4, 4)))


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_values_of_any_size(size):
    x = RNG.standard_normal((3, 5)) * size
    assert foveal.gradcheck(lambda x: ops.sigmoid(x * (1 / size)) * size, x)
    report = foveal.gradcheck(
        lambda x: np.sin(x / size), x, backward=lambda dy, x: 1.0001 * dy * np.cos(x / size) / size
    )
    assert not report


def test_large_logits_lose_digits_and_agree():
    """What cancels leaves rounding that one difference cannot see through."""
    logits = RNG.standard_normal((3, 4)) + 1e4
    assert foveal.gradcheck(nn.CrossEntropyLoss(), logits, np.array([0, 1, 2]))


def test_an_operator_whose_rule_is_wrong(own_operators):
    class Cube(Operator):
        """y = x^3"""

        name, arity = "cube_for_gradcheck", 1

        def shape(self, x):
            return x

        def numpy(self, x):
            return x**3

        def vjp(self, dy, y, x):
            return (dy * x * x * 2.0,)

    report = foveal.gradcheck(Cube(), X)
    assert not report
    assert report.rows[0].analytic == pytest.approx(report.rows[0].numeric * 2 / 3, rel=1e-6)


def test_a_wrong_kernel_is_seen_in_the_compiled_gradient(own_operators):
    """In float64 all is right: the rule and the formula are. The compiled gradient reads what the kernel computed."""

    class Growth(ops.Pointwise):
        """y = e^x"""

        name, arity, wrong = "growth_for_gradcheck", 1, 1.0001

        def numpy(self, x):
            return np.exp(x)

        def vjp(self, dy, y, x):
            return (dy * y,)

        def scalar(self, x):
            return maths.exp(x) * self.wrong

    assert foveal.gradcheck(Growth(), X)
    report = foveal.gradcheck(Growth(), X, native=True)
    assert not report
    assert "WRONG" in report.native
    right = type("Right", (Growth,), {"wrong": 1.0, "__module__": "own"})()
    assert foveal.gradcheck(right, X, native=True)


def test_arguments_as_a_list():
    assert foveal.gradcheck(ops.matmul, [X, W])
    assert foveal.gradcheck(ops.exp, [0.5, 1.0, 2.0]).rows[0].shape == (3,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: foveal.gradcheck(lambda x: np.sin(x), X), "backward="),
        (lambda: foveal.gradcheck(forward, X, W, backward=lambda dy: dy), "cannot be called"),
        (lambda: foveal.gradcheck(forward, X, W, backward=lambda dy, cache: dy), "1 gradient"),
        (lambda: foveal.gradcheck(lambda x: x, X, backward=lambda dy: dy[0]), "shape"),
        (lambda: foveal.gradcheck(lambda x: x.astype("f4"), X, backward=lambda dy: dy), "float32"),
        (lambda: foveal.gradcheck(lambda x: x + np.random.rand(), X, backward=lambda dy: dy), "another output"),
        (lambda: foveal.gradcheck(nn.ReLU, X), "class"),
        (lambda: foveal.gradcheck(nn.ReLU()), "give the arguments"),
        (lambda: foveal.gradcheck(nn.ReLU(), "x"), "array of numbers"),
        (lambda: foveal.gradcheck(nn.ReLU(), X, rtol=0.0), "rtol"),
        (lambda: foveal.gradcheck(lambda x: x, X, backward=lambda dy: dy, native=True), "native"),
        (lambda: foveal.gradcheck(lambda x: X, X), "returned"),
        (lambda: foveal.numeric_gradient(lambda x: "a", X), "has to return"),
        (lambda: foveal.numeric_gradient(lambda x: x.astype("f4"), X), "float32"),
        (lambda: foveal.numeric_gradient(np.sin, X, step=0.0), "step"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises((ArgumentError, ShapeError, FovealError), match=message):
        call()


def test_numeric_gradient():
    found = foveal.numeric_gradient(lambda x: np.sin(x) * 3, X)
    np.testing.assert_allclose(found, 3 * np.cos(X), rtol=1e-8)
    assert foveal.numeric_gradient(lambda x: (x**2).sum(), [1, 2]).tolist() == pytest.approx([2, 4])


def test_an_infinite_gradient_is_wrong_and_named():
    report = foveal.gradcheck(ops.sqrt, np.array([1.0, 0.0, 2.0]))
    assert report.rows[0].worst == (1,)
    assert report.rows[0].analytic == np.inf


def test_a_backward_may_write_into_dy():
    def backward(dy, x):
        dy[x < 0] = 0
        return dy

    x = np.array([1.5, -2.0, 0.7, -0.3])
    assert foveal.gradcheck(lambda x: np.maximum(x, 0), x, backward=backward)


def test_integers_alone_are_no_check_and_a_report_is_shown_in_a_notebook():
    with pytest.raises(ArgumentError, match="is given integers only, which have no gradient; give floats"):
        foveal.gradcheck(lambda a: a * 2, np.arange(3))
    assert "<table" in foveal.gradcheck(ops.square, np.arange(3.0))._repr_html_()
