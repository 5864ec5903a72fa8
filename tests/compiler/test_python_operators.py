"""Operators with `numpy` and `vjp` alone run in programs, in Python; definitions of a name replace the ones before."""

import os
import threading
import warnings

import numpy as np
import pytest

import foveal
from foveal import nn, ops, optim
from foveal.build import build
from foveal.errors import ArgumentError, FovealWarning, ShapeError
from foveal.kernel import lang
from foveal.ops.op import OPS, Type
from foveal.trace import trace

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4)).astype("float32")

pytestmark = pytest.mark.filterwarnings("ignore:the operator")


@pytest.fixture(autouse=True)
def registry():
    """Operators that a test makes are gone afterwards."""
    before = dict(OPS)
    yield
    OPS.clear()
    OPS.update(before)


def cube_class(factor=1.0, base=ops.Operator, **more):
    """A class as a notebook cell defines it."""

    def numpy(self, x):
        return factor * x**3

    def vjp(self, dy, y, x):
        return (dy * (3.0 * factor) * x * x,)

    return type("Cube", (base,), {"name": "cube_in_python", "numpy": numpy, "vjp": vjp, "__module__": "own"} | more)


def raising(error):
    """An operator whose numpy() raises as long as `error` is in the list."""

    def numpy(self, x):
        if error and x.any():
            raise error[0]
        return x * 2

    def vjp(self, dy, y, x):
        return (dy * 2.0,)

    return type("Raising", (ops.Operator,), {"numpy": numpy, "vjp": vjp, "__module__": "own"})()


@pytest.mark.parametrize("base", [ops.Operator, ops.Pointwise])
@pytest.mark.parametrize("threads", [1, 2])
def test_numpy_and_vjp_are_enough(base, threads):
    cube = cube_class(base=base)()
    np.testing.assert_allclose(foveal.compile(lambda x: ops.exp(cube(x)) * x, threads)(X), np.exp(X**3) * X, rtol=1e-5)
    np.testing.assert_allclose(foveal.grad(lambda x: ops.sum(cube(x)), threads=threads)(X), 3 * X**2, rtol=1e-6)
    np.testing.assert_array_equal(cube(X), X**3)
    assert foveal.gradcheck(cube, X)


def test_a_convolution_between_native_layers():
    """With images, whose memory is channels last, plain and tuned kernels, interpreted, on several threads."""

    class Smooth(ops.Operator):
        """y[h] = x[h] + x[h + 1] along the rows of images [N, C, H, W]"""

        def numpy(self, x):
            return x[:, :, :-1] + x[:, :, 1:]

        def vjp(self, dy, y, x):
            top, bottom = ops.pad(dy, padding=(0, 0, 0, 1)), ops.pad(dy, padding=(0, 0, 1, 0))
            return top + bottom

    smooth = Smooth()
    nn.seed(0)
    first, last = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)
    images = RNG.standard_normal((2, 2, 7, 6)).astype("float32")
    graph = trace(lambda x: last(ops.relu(smooth(first(x)))), Type(images.shape))
    (want,) = graph.evaluate(images)
    for options in ({"threads": 1}, {"threads": 3}, {"tuned": False}):
        program = build(graph, **options)
        np.testing.assert_allclose(program.run(images)[0], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(program.interpret(images)[0], want, rtol=1e-4, atol=1e-5)


def test_a_warning_says_once_what_it_takes():
    cube = cube_class()()
    with pytest.warns(FovealWarning, match=r"cube_in_python has no kernel.* ms for shape \[3, 4\]"):
        foveal.compile(cube)(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FovealWarning)
        foveal.compile(lambda x: cube(x) + 1.0)(X)


def test_it_may_get_a_kernel_later():
    twice = cube_class(base=ops.Pointwise)()
    assert foveal.compile(twice).program(X).in_python == [0]
    native = cube_class(base=ops.Pointwise, scalar=lambda self, x: x * x * x)()
    program = foveal.compile(native).program(X)
    assert program.in_python == []
    np.testing.assert_allclose(program.run(X)[0], X**3, rtol=1e-6)


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("place", ["forward", "output", "update"])
def test_an_exception_reaches_the_caller_and_nothing_is_updated(error, place):
    """Wherever it is raised: before the updates, beside them, or between two of them."""
    errors = []
    own = raising(errors)

    class Net(nn.Module):
        def __init__(self):
            self.first, self.norm, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

        def forward(self, x):
            y = self.last(own(self.norm(self.first(x))) if place == "forward" else self.norm(self.first(x)))
            return (own(y), y) if place == "output" else y

    class Rule(optim.Optimizer):
        def update(self, p, g, state, now, group):
            return p - now["lr"] * (own(g) if place == "update" and len(p.shape) == 2 else g), {}

    nn.seed(0)
    net = Net()
    rule = Rule(net.parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss()
    step = foveal.compile_step(net, loss if place != "output" else lambda y, t: loss(y[1], t), rule, threads=2)
    labels = np.array([0, 1, 1])
    step(X, labels)
    before, steps = {k: v.copy() for k, v in net.state_dict().items()}, (step.steps, rule.steps)
    errors.append(error)
    with pytest.raises(type(error)) as caught:
        step(X, labels)
    assert caught.value is error
    assert (step.steps, rule.steps) == steps
    assert all((before[k] == v).all() for k, v in net.state_dict().items())
    if not isinstance(error, KeyboardInterrupt):
        assert "Raising" in caught.value.__notes__[0]
    errors.clear()
    after = step(X, labels)
    assert np.isfinite(after.loss)
    assert step.steps == steps[0] + 1


def test_numpy_may_run_other_programs_and_several_programs_run_at_once():
    inner = foveal.compile(lambda x: ops.exp(x), threads=2)
    nested = ops.operator(lambda x: inner(x), vjp=lambda dy, y, x: dy * y, name="nested_program")
    function = foveal.compile(lambda x: nested(x) + 1.0, threads=2)
    other = foveal.compile(lambda x: ops.exp(x) + 2.0, threads=2)
    found = [None] * 4

    def work(i):
        for _ in range(10):
            found[i] = (function if i % 2 else other)(X + i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_allclose(found[i], np.exp(X + i) + (1 if i % 2 else 2), rtol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_numpy_may_fork():
    """A child made inside of numpy() goes on with the program on threads of its own."""
    parent = os.getpid()

    def forking(x):
        if x.any() and os.getpid() == parent:
            child.append(os.fork())
        return x * 2

    child = []
    fork = ops.operator(forking, name="forking")
    function = foveal.compile(lambda x: ops.exp(fork(x)) + x, threads=2)
    ok = False
    try:
        ok = np.allclose(function(X), np.exp(2 * X) + X, rtol=1e-5)
    finally:
        if os.getpid() != parent:
            os._exit(0 if ok else 1)
    assert ok
    assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 0


@pytest.mark.parametrize(
    ("numpy", "options", "message"),
    [
        (lambda x: x[0], {"shape": lambda x: x}, "returned an array of shape"),
        (lambda x: x, {"shape": lambda x: (x, 1)}, "tuple of whole numbers"),
        (lambda x: "a", {"shape": lambda x: x}, "array of numbers"),
        (lambda x: np.linalg.inv(x[:, :3]), {}, r"Define shape\(self"),
    ],
)
def test_what_numpy_returns_is_checked(numpy, options, message):
    op = ops.operator(numpy, name="returns_nonsense", **options)
    with pytest.raises(ShapeError, match=message):
        foveal.compile(op)(X)


def test_what_it_returns_is_its_own():
    """An input that is returned, a view of it, float64, and what it does to its input."""
    same = ops.operator(lambda x: x, name="same")
    result = same(X)
    assert not np.shares_memory(result, X)

    def spoil(x):
        x[:] = 0
        return x

    spoiled = ops.operator(spoil, name="spoiled")
    wide = ops.operator(lambda x: x.astype("float64").T, name="wide")
    y, z, kept = foveal.compile(lambda x: [spoiled(x + 1.0), wide(x), x + 1.0])(X)
    assert not y.any()
    np.testing.assert_array_equal(z, X.T)
    np.testing.assert_array_equal(kept, X + 1)


@pytest.mark.parametrize(
    ("vjp", "message"),
    [
        (lambda dy, y, a, b: dy, "1 gradient"),
        (lambda dy, y, a, b: (ops.sum(dy), None), "shape"),
        (lambda dy, y, a, b: (1.0, None), "computed"),
    ],
)
def test_what_vjp_returns_is_checked(vjp, message):
    op = ops.operator(lambda a, b: a * b, vjp=vjp, name="wrong_vjp")
    with pytest.raises(ShapeError, match=message):
        foveal.grad(lambda x: ops.sum(op(x, x)))(X)


def test_a_definition_replaces_the_one_before():
    first = cube_class(1.0, ops.Pointwise, scalar=lambda self, x: x * x * x)()
    held = foveal.compile(lambda x: first(x) * 1.0)
    by_name = foveal.compile(lambda x: OPS["cube_in_python"](x) * 1.0)
    np.testing.assert_allclose(by_name(X), X**3, rtol=1e-6)
    second = cube_class(2.0, ops.Pointwise, scalar=lambda self, x: x * x * x * 2.0)()
    assert OPS["cube_in_python"] is second
    # what was compiled by name is stale; what holds the old instance keeps its meaning, also where it is compiled anew
    np.testing.assert_allclose(by_name(X), 2 * X**3, rtol=1e-6)
    np.testing.assert_allclose(held(X), X**3, rtol=1e-6)
    np.testing.assert_allclose(held(X[:2]), X[:2] ** 3, rtol=1e-6)
    both = foveal.compile(lambda x: first(x) + second(x))(X)
    np.testing.assert_allclose(both, 3 * X**3, rtol=1e-6)


def test_a_notebook_cell_that_is_run_again():
    """The cell with the operator, then the cells with a layer and a function that find it by a global name."""
    cell = """
class Scaled(ops.Pointwise):
    name, arity = "scaled_in_a_cell", 1
    def numpy(self, x):
        return x * {factor}
    def vjp(self, dy, y, x):
        return (dy * {factor},)
    def scalar(self, x):
        return x * {factor}
scaled = Scaled()
"""
    later = """
class Layer(nn.Module):
    def forward(self, x):
        return scaled(x)
layer = Layer()
function = foveal.compile(lambda x: scaled(x))
"""
    names = {"ops": ops, "nn": nn, "foveal": foveal, "lang": lang, "__name__": "__main__"}
    exec(cell.format(factor="2.0"), names)
    exec(later, names)
    for factor in ("2.0", "5.0", "2.0"):
        exec(cell.format(factor=factor), names)
        np.testing.assert_array_equal(names["layer"](X), X * float(factor))
        np.testing.assert_array_equal(names["function"](X), X * float(factor))


def test_an_operator_of_the_package_stays():
    with pytest.raises(ArgumentError, match="Foveal has one"):
        type("Relu", (ops.Operator,), {"name": "relu", "numpy": lambda self, x: x, "__module__": "own"})()


def test_a_tuple_of_outputs_is_refused_and_a_missing_equation_is_named():
    x = np.ones((2, 3), "float32")
    two = ops.operator(lambda x: (x, x), name="two_outputs")
    with pytest.raises(ShapeError, match=r"two_outputs: numpy\(\) returned 2 values in a tuple"):
        two(x)
    # also where its shape is found by calling it on zeros
    with pytest.raises(ShapeError, match="two_outputs"):
        foveal.compile(lambda x: two(x))(x)

    class NoEquation(ops.Operator):
        name = "no_equation"

    with pytest.raises(NotImplementedError, match="define numpy"):
        NoEquation()(x)


@pytest.mark.parametrize("held", [False, True])
def test_the_gradient_follows_an_attribute_of_the_operator(held):
    class Times(ops.Operator):
        """y = k x, of x's shape"""

        name = "times_an_attribute"

        def __init__(self, k):
            self.k = k
            super().__init__()

        def numpy(self, x):
            return x * self.k

        def vjp(self, dy, y, x):
            return (dy * self.k,)

    class Holding(nn.Module):
        def __init__(self, operator):
            self.operator = operator

        def forward(self, x):
            return self.operator(x)

    times = Times(2.0)
    model = Holding(times) if held else times
    both, x = foveal.value_and_grad(lambda x: model(x).sum()), np.ones(3, np.float32)
    for k in (2.0, 10.0, 2.0):
        times.k = k
        value, slope = both(x)
        assert value == 3 * k
        assert (slope == k).all()
