"""foveal.grad and value_and_grad: what the gradients are taken in, nested results, options, gradients of gradients."""

import numpy as np
import pytest

import foveal
from foveal import nn, ops
from foveal.errors import ArgumentError, ShapeError
from foveal.ops.op import Type
from foveal.trace import trace

X = np.array([1.0, -2.0, 3.0], "float32")
W = np.array([0.5, 1.0, -1.0], "float32")
SLOPES = {"x": 3 * X**2 * W, "w": X**3}


def cubic(x, w=None, *, scale=1.0, flip=False):
    y = (x**3 * w).sum() * scale
    return -y if flip else y


WRT = {
    "a position": (0, SLOPES["x"]),
    "from the end": (-1, SLOPES["w"]),
    "a name": ("w", SLOPES["w"]),
    "a list": (["w", 0], [SLOPES["w"], SLOPES["x"]]),
    "a tuple": (("x",), (SLOPES["x"],)),
    "nested": ({"a": 1, "b": [0, ("x",)]}, {"a": SLOPES["w"], "b": [SLOPES["x"], (SLOPES["x"],)]}),
}


def same(got, want):
    assert type(got) is type(want) or not isinstance(want, list | tuple | dict)
    if isinstance(want, dict):
        assert list(got) == list(want)
        got, want = list(got.values()), list(want.values())
    if isinstance(want, list | tuple):
        for one, other in zip(got, want, strict=True):
            same(one, other)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", WRT)
def test_gradients_are_nested_as_wrt_is(name):
    wrt, want = WRT[name]
    value, slopes = foveal.value_and_grad(cubic, wrt, threads=1)(X, W)
    np.testing.assert_allclose(value, (X**3 * W).sum(), rtol=1e-6)
    same(slopes, want)
    same(foveal.grad(cubic, wrt, threads=1)(X, W), want)


def test_arguments_by_keyword_and_options():
    slope = foveal.grad(cubic, "w", threads=1)
    same(slope(X, w=W), SLOPES["w"])
    same(slope(w=W, x=X, scale=2.0), 2 * SLOPES["w"])
    same(slope(X, W, flip=True), -SLOPES["w"])
    same(foveal.grad(cubic, "scale", threads=1)(X, W, scale=2), (X**3 * W).sum())
    same(foveal.grad(lambda x, power: x**power, threads=1)(3, power=2), 6.0)


def test_nested_arguments_have_nested_gradients():
    def loss(parameters, batch):
        x, y = batch
        return ((x @ parameters["w"] + parameters["b"] - y) ** 2).sum()

    x, y = np.ones((2, 3), "float32"), np.array([1.0, 2.0], "float32")
    slopes = foveal.grad(loss, threads=1)({"w": W, "b": np.float32(0)}, (x, y))
    rest = 2 * (x @ W - y)
    same(slopes, {"w": rest @ x, "b": rest.sum()})


def test_gradients_in_parameters_and_modules():
    nn.seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
    slopes = foveal.grad(lambda x: net(x).sum(), {"all": net, "x": 0, "one": net[0].bias}, threads=1)(X[None])
    assert list(slopes["all"]) == [name for name, _ in net.named_parameters()]
    same(slopes["one"], slopes["all"]["0.bias"])
    gate = 1 - np.tanh(X @ net[0].weight.T + net[0].bias) ** 2
    same(slopes["one"], (gate * net[2].weight)[0])
    same(slopes["x"], (gate * net[2].weight) @ net[0].weight)


def test_other_results_come_with_the_value():
    both = foveal.value_and_grad(lambda x: ((x**2).sum(), {"doubled": x * 2.0}), has_aux=True, threads=1)
    (value, aux), slope = both(X)
    assert value == 14.0
    same(aux, {"doubled": 2 * X})
    same(slope, 2 * X)
    slope, aux = foveal.grad(lambda x: ((x**2).sum(), x), has_aux=True, threads=1)(X)
    same(aux, X)


# f, and its first and second derivative
TWICE = {
    "powers": (lambda x: (x**4).sum(), 4 * X**3, 12 * X**2),
    "sin": (lambda x: ops.sin(x).sum(), np.cos(X), -np.sin(X)),
    "exp": (lambda x: ops.exp(x * x).sum(), 2 * X * np.exp(X * X), (2 + 4 * X * X) * np.exp(X * X)),
}


@pytest.mark.parametrize("name", TWICE)
def test_gradients_of_gradients(name):
    f, first, second = TWICE[name]
    same(foveal.grad(f, threads=1)(X), first.astype("f4"))
    same(foveal.grad(lambda x: foveal.grad(f)(x).sum(), threads=1)(X), second.astype("f4"))
    # the Hessian, which is diagonal, times a vector
    product = foveal.grad(lambda x, v: (foveal.grad(f)(x) * v).sum(), threads=1)
    same(product(X, W), (second * W).astype("f4"))


def test_third_derivatives_and_gradients_inside():
    cube = foveal.grad(foveal.grad(foveal.grad(lambda x: x**4)), threads=1)
    assert cube(2.0) == 48.0
    # one value in two places is two arguments
    inner = foveal.grad(lambda u, v: (u * v * v).sum())
    same(foveal.grad(lambda a: inner(a, a).sum(), threads=1)(X), 2 * X)
    penalty = foveal.value_and_grad(lambda x: (foveal.value_and_grad(cubic, ["x"])(x, x * 0.0 + 1.0)[1][0] ** 2).sum())
    same(penalty(X)[1], 36 * X**3)


def test_a_gradient_penalty_is_pytorchs(torch):
    """The norm of a network's gradient in its input, differentiated in its parameters: Gulrajani et al. 2017."""
    nn.seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 1))
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 1),
    )
    theirs.load_state_dict({name: torch.tensor(np.array(v)) for name, v in net.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype("float32")

    def penalty(x):
        slope = foveal.grad(lambda x: net(x).sum())(x)
        return ((ops.norm(slope.flatten(1), axis=1) - 1.0) ** 2).mean()

    value, slopes = foveal.value_and_grad(penalty, net, threads=1)(x)
    image = torch.tensor(x, requires_grad=True)
    (slope,) = torch.autograd.grad(theirs(image).sum(), image, create_graph=True)
    want = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-5)
    for name, parameter in theirs.named_parameters():
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        np.testing.assert_allclose(slopes[name], grad.numpy(), rtol=1e-4, atol=1e-6)


def test_layers_that_are_random_or_count_in_training():
    nn.seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    x = np.random.default_rng(0).standard_normal((6, 3)).astype("float32")
    gradient = foveal.grad(lambda x: (net(x) ** 2).sum(), threads=1, seed=3)
    first, second = gradient(x), gradient(x)
    # other masks in each call, and the running statistics follow both
    assert np.abs(first - second).max() > 1e-3
    assert net[1].num_batches_tracked.data == 2
    gradient.calls = 0
    np.testing.assert_array_equal(gradient(x), first)
    np.testing.assert_array_equal(foveal.grad(lambda x: (net(x) ** 2).sum(), threads=1, seed=3)(x), first)
    net.eval()
    mean = np.array(net[1].running_mean)
    np.testing.assert_array_equal(gradient(x), gradient(x))
    np.testing.assert_array_equal(net[1].running_mean, mean)


WRONG = {
    "a position": (lambda: foveal.grad(cubic, 2)(X, W), ShapeError, "there is no argument 2 .* the function has 2"),
    "a name": (lambda: foveal.grad(cubic, "q")(X, W), ShapeError, "there is no argument 'q' .* the call has x, w"),
    "not given": (lambda: foveal.grad(lambda x, w=1.0: x, "w")(X), ShapeError, "there is no argument 'w'"),
    "a number": (
        lambda: foveal.grad(cubic, 1.5),
        ArgumentError,
        "wrt is 1.5; it names arguments by position or by name",
    ),
    "a class": (lambda: foveal.grad(cubic, nn.Linear), ArgumentError, "wrt is the class Linear"),
    "no scalar": (lambda: foveal.grad(lambda x: x)(X), ShapeError, "sum it to a scalar first"),
    "two results": (lambda: foveal.grad(lambda x: (x.sum(), x))(X), ShapeError, "has_aux=True takes"),
    "one result": (
        lambda: foveal.grad(lambda x: x.sum(), has_aux=True)(X),
        ShapeError,
        r"returns \(value, other results",
    ),
    "integers": (
        lambda: foveal.grad(lambda i: i.astype("float32").sum())(np.arange(3)),
        ShapeError,
        "argument 0, which is int32; gradients are those of float32 arrays",
    ),
    "an option": (lambda: foveal.grad(lambda x, f: x.sum(), "f")(X, f=True), ShapeError, "'f', which is no array"),
    "no such argument": (lambda: foveal.grad(cubic)(X, W, q=W), ArgumentError, "unexpected keyword argument 'q'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_one_clear_error(name):
    call, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        call()


def test_no_gradient_goes_through_what_is_detached():
    same(foveal.grad(lambda x: (x * x.detach() * ops.stop_gradient(x)).sum(), threads=1)(X), X**2)


def test_a_gradient_inside_of_a_trace_adds_to_it():
    graph = trace(lambda x: foveal.grad(lambda t: (t * t).sum())(x) * 2.0, Type((3,)))
    np.testing.assert_array_equal(graph.evaluate(X.astype("f8"))[0], 4.0 * X)
