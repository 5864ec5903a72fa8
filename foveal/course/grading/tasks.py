"""The exercises of the assignment, with what is right by Foveal's operators and their gradients, in float64."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foveal import nn, ops
from foveal.arrays.tensor import Tensor
from foveal.checking.sources import Traced
from foveal.course.assignment.convolution import conv_forward
from foveal.course.assignment.optimisers import adam_step, momentum_step
from foveal.course.exercises import Exercise
from foveal.course.grading.judge import Accuracy, Case, Gradients, Speed, Task, Values
from foveal.strides import Ndarray

# Cases of each group.
TRIES = 10
# How often a function is timed.
TIMED = 3
# Images that a network is trained on, of those that students have; the test images are in no file of theirs.
TRAINED = 1400
# Sizes of images and of windows.
IMAGES: dict[str, Any] = {"N": (1, 2), "C": (1, 2), "H": (3, 6), "W": (3, 6)}
FILTERS: dict[str, Any] = {"K": (1, 3), "R": (1, 3), "S": (1, 3)}


def rounded(x: Ndarray) -> Ndarray:
    """Return numbers in float64 with two digits, which can be read and copied."""
    return np.round(np.asarray(x, np.float64), 2)


def apart(x: Ndarray) -> Ndarray:
    """Return numbers in float64 in the order of x, none of which is within 0.1 of another."""
    ranks = np.argsort(np.argsort(x, axis=None)).reshape(x.shape)
    return np.round((ranks - x.size // 2) * 0.25, 2)


def by_foveal(f: Callable[..., Tensor], *arrays: Ndarray) -> tuple[Ndarray, Ndarray, list[Ndarray]]:
    """Return f of arrays in float64, a gradient dy that was drawn, and what it becomes in each array of floats."""
    source = Traced(f, arrays, np.random.default_rng(sum(x.size for x in arrays)))
    (y,), (weight,) = source.outputs, source.weights
    dy = source.values[weight.node] = rounded(source.values[weight.node])
    gradients = [quantity.gradient for quantity in source.quantities()]
    return source.values[y.node], dy, gradients


def convolved(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """The convolution with a bias."""
    y = ops.conv2d(x, w, stride=stride, padding=padding)
    return y + ops.reshape(b, shape=(1, w.shape[0], 1, 1))


class Drawing:
    """Draws the groups of cases of an exercise, each with numbers of its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(
        self,
        title: str,
        function: str,
        answer: Callable[..., Case],
        points: dict[str, float],
        drawn: dict[str, Any],
        shapes: float = 0.0,
        tries: int = TRIES,
    ) -> Values:
        """Return cases of a function; `drawn` is what an Exercise draws, and its answer makes a Case of it."""
        seed = zlib.crc32(f"{self.seed} {function} {title}".encode())
        return Values(title, function, Exercise(answer, tries=tries, seed=seed, **drawn), points, shapes)

    def arrays(self, name: str, *shapes: Sequence[int]) -> tuple[Ndarray, ...]:
        """Return arrays of normal random numbers."""
        rng = np.random.default_rng(zlib.crc32(f"{self.seed} {name}".encode()))
        return tuple(rounded(rng.standard_normal(shape)) for shape in shapes)


def sizes(draw: Drawing) -> Task:
    """The size of an output."""

    def answer(length: int, kernel: int, stride: int, padding: int, dilation: int) -> Case:
        x, w = np.zeros((1, 1, length, 1)), np.zeros((1, 1, kernel, 1))
        y = ops.conv2d(x, w, stride=(stride, 1), padding=(padding, 0), dilation=(dilation, 1))
        arguments = {"length": length, "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        return Case(arguments, {"output_size": y.shape[2]})

    def group(title: str, points: float, stride: Any, padding: Any, dilation: Any) -> Values:
        drawn = {"length": (1, 40), "kernel": (1, 7), "stride": stride, "padding": padding, "dilation": dilation}
        return draw(title, "output_size", answer, {"output_size": points}, drawn, tries=30)

    parts = (
        group("stride 1", 1, [1], [0], [1]),
        group("stride and padding", 2, (1, 4), (0, 3), [1]),
        group("dilation too", 2, (1, 4), (0, 3), (1, 3)),
    )
    return Task("sizes", "The size of an output", "sizes", parts)


def convolution(draw: Drawing) -> Task:
    """Convolution by loops."""

    def answer(x: Ndarray, w: Ndarray, b: Ndarray, stride: int, padding: int) -> Case:
        return convolution_case(x, w, b, stride, padding)

    def group(title: str, points: float, stride: Any, padding: Any, shapes: float = 0.0) -> Values:
        drawn = {"x": "N C H W", "w": "K C R S", "b": "K", "stride": stride, "padding": padding, **IMAGES, **FILTERS}
        return draw(title, "conv_forward", answer, {"y": points}, drawn, shapes)

    parts = (
        group("stride 1, no padding", 4, [1], [0]),
        group("padding", 2, [1], (1, 2)),
        group("stride and padding", 3, (1, 3), (0, 2), shapes=1),
    )
    return Task("convolution", "Convolution by loops", "convolution", parts)


def convolution_case(x: Ndarray, w: Ndarray, b: Ndarray, stride: int, padding: int) -> Case:
    """Return a call of a convolution."""
    x, w, b = rounded(x), rounded(w), rounded(b)
    y, _, _ = by_foveal(lambda x, w, b: convolved(x, w, b, stride, padding), x, w, b)
    return Case({"x": x, "w": w, "b": b, "stride": stride, "padding": padding}, {"y": y})


def convolution_gradients(draw: Drawing) -> Task:
    """The gradients of a convolution."""

    def answer(x: Ndarray, w: Ndarray, b: Ndarray, stride: int, padding: int) -> Case:
        x, w, b = rounded(x), rounded(w), rounded(b)
        _, dy, (dx, dw, db) = by_foveal(lambda x, w, b: convolved(x, w, b, stride, padding), x, w, b)
        arguments = {"dy": dy, "x": x, "w": w, "stride": stride, "padding": padding}
        return Case(arguments, {"dx": dx, "dw": dw, "db": db})

    def group(title: str, points: dict[str, float], stride: Any, padding: Any, shapes: float = 0.0) -> Values:
        drawn = {"x": "N C H W", "w": "K C R S", "b": "K", "stride": stride, "padding": padding, **IMAGES, **FILTERS}
        return draw(title, "conv_backward", answer, points, drawn, shapes)

    own = Gradients(
        "differences of your conv_forward",
        1,
        draw.arrays("conv_backward", (1, 2, 4, 5), (2, 2, 3, 2), (2,)),
        lambda call, x, w, b: call("conv_forward", x, w, b, 2, 1),
        lambda call, dy, x, w, b: call("conv_backward", dy, x, w, 2, 1),
    )
    parts = (
        group("stride 1, no padding", {"dx": 2, "dw": 2, "db": 1}, [1], [0]),
        group("stride and padding", {"dx": 1.5, "dw": 1.5}, (1, 3), (0, 2), shapes=1),
        own,
    )
    return Task("convolution-gradients", "The gradients of a convolution", "convolution", parts)


def pooling(draw: Drawing, kind: str, title: str, operator: Callable[..., Tensor]) -> Task:
    """Max or average pooling, forwards and backwards; kind: how its functions begin."""

    def forward(x: Ndarray, size: int, stride: int) -> Case:
        x = apart(x)
        y, _, _ = by_foveal(lambda x: operator(x, kernel_size=size, stride=stride), x)
        return Case({"x": x, "size": size, "stride": stride}, {"y": y})

    def backward(x: Ndarray, size: int, stride: int) -> Case:
        x = apart(x)
        _, dy, (dx,) = by_foveal(lambda x: operator(x, kernel_size=size, stride=stride), x)
        return Case({"dy": dy, "x": x, "size": size, "stride": stride}, {"dx": dx})

    def group(title: str, backwards: bool, points: float, size: Any, stride: Any, shapes: float = 0.0) -> Values:
        function, answer = (f"{kind}_backward", backward) if backwards else (f"{kind}_forward", forward)
        drawn = {"x": "N C H W", "size": size, "stride": stride, **IMAGES}
        return draw(title, function, answer, {"dx" if backwards else "y": points}, drawn, shapes)

    (x,) = draw.arrays(kind, (1, 2, 5, 5))
    own = Gradients(
        f"differences of your {kind}_forward",
        1,
        (apart(x),),
        lambda call, x: call(f"{kind}_forward", x, 2, 1),
        lambda call, dy, x: call(f"{kind}_backward", dy, x, 2, 1),
    )
    parts = (
        group("forward, windows side by side", False, 2, [2], [2]),
        group("forward, any stride", False, 2, (1, 3), (1, 4), shapes=1),
        group("backward, windows side by side", True, 2, [2], [2]),
        group("backward, windows that overlap", True, 1, (2, 3), [1]),
        group("backward, any stride", True, 1, (1, 3), (1, 4)),
        own,
    )
    return Task(kind.replace("_", "-"), title, "pooling", parts)


def linear(draw: Drawing) -> Task:
    """The fully connected layer."""

    def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.linear(x, w) + b

    def forward(x: Ndarray, w: Ndarray, b: Ndarray) -> Case:
        x, w, b = rounded(x), rounded(w), rounded(b)
        return Case({"x": x, "w": w, "b": b}, {"y": by_foveal(affine, x, w, b)[0]})

    def backward(x: Ndarray, w: Ndarray, b: Ndarray) -> Case:
        x, w, b = rounded(x), rounded(w), rounded(b)
        _, dy, (dx, dw, db) = by_foveal(affine, x, w, b)
        return Case({"dy": dy, "x": x, "w": w}, {"dx": dx, "dw": dw, "db": db})

    drawn = {"x": "N C", "w": "K C", "b": "K", "N": (1, 4), "C": (1, 5), "K": (1, 4)}
    parts = (
        draw("forward", "linear_forward", forward, {"y": 1}, drawn, shapes=0.5),
        draw("backward", "linear_backward", backward, {"dx": 1, "dw": 1, "db": 1}, drawn, shapes=0.5),
    )
    return Task("linear", "The fully connected layer", "layers", parts)


def relu(draw: Drawing) -> Task:
    """ReLU."""

    def forward(x: Ndarray, at_zero: int) -> Case:
        return Case({"x": (x := some_zeros(x, at_zero))}, {"y": by_foveal(ops.relu, x)[0]})

    def backward(x: Ndarray, at_zero: int) -> Case:
        x = some_zeros(x, at_zero)
        _, dy, (dx,) = by_foveal(ops.relu, x)
        return Case({"dy": dy, "x": x}, {"dx": dx})

    rows = {"x": "N C", "at_zero": (0, 2), "N": (1, 4), "C": (2, 5)}
    images = {**rows, "x": "N C H W", "H": (1, 3), "W": (1, 3)}
    parts = (
        draw("forward", "relu_forward", forward, {"y": 1}, rows),
        draw("forward, images", "relu_forward", forward, {"y": 1}, images, shapes=0.5),
        draw("backward", "relu_backward", backward, {"dx": 2}, rows, shapes=0.5),
    )
    return Task("relu", "ReLU", "layers", parts)


def some_zeros(x: Ndarray, count: int) -> Ndarray:
    """Return x rounded, and its first elements 0."""
    x = rounded(x)
    x.reshape(-1)[:count] = 0.0
    return x


def losses(draw: Drawing) -> Task:
    """Softmax cross-entropy."""

    def answer(logits: Ndarray, keys: Ndarray, scale: float) -> Case:
        logits, labels = rounded(logits * scale), keys.argmax(1)
        loss, _, (dlogits,) = by_foveal(nn.CrossEntropyLoss(), logits, labels)
        return Case({"logits": logits, "labels": labels}, {"loss": loss, "dlogits": dlogits})

    def group(title: str, points: dict[str, float], scale: float, shapes: float = 0.0) -> Values:
        drawn = {"logits": "N K", "keys": "N K", "scale": [scale], "N": (1, 4), "K": (2, 5)}
        return draw(title, "softmax_cross_entropy", answer, points, drawn, shapes)

    own = Gradients(
        "differences of your loss",
        1,
        draw.arrays("softmax_cross_entropy", (4, 3)),
        lambda call, logits: call("softmax_cross_entropy", logits, np.array([0, 2, 1, 2]))[0],
        lambda call, dy, logits: dy * call("softmax_cross_entropy", logits, np.array([0, 2, 1, 2]))[1],
    )
    parts = (
        group("small logits", {"loss": 3, "dlogits": 3}, 1.0, shapes=1),
        group("logits of 1000", {"loss": 1, "dlogits": 1}, 1000.0),
        own,
    )
    return Task("cross-entropy", "Softmax cross-entropy", "losses", parts)


def focal(draw: Drawing) -> Task:
    """The class-balanced focal loss."""

    def answer(logits: Ndarray, keys: Ndarray, sizes: Ndarray, beta: float, gamma: float) -> Case:
        logits, labels = rounded(logits), keys.argmax(1)
        counts = np.round(np.exp(2 * sizes.astype(np.float64) + 3)).astype(np.int64) + 1
        # The weights are float32, and quantities that gradients are taken in, too.
        weight = nn.class_balanced_weights(counts.tolist(), beta)
        loss, _, (dlogits, *_) = by_foveal(nn.FocalLoss(gamma, weight), logits, labels)
        arguments = {"logits": logits, "labels": labels, "counts": counts, "beta": beta, "gamma": gamma}
        return Case(arguments, {"loss": loss, "dlogits": dlogits})

    def group(title: str, points: dict[str, float], beta: Any, gamma: Any, shapes: float = 0.0) -> Values:
        drawn = {"logits": "N K", "keys": "N K", "sizes": "K", "beta": beta, "gamma": gamma, "N": (1, 4), "K": (2, 5)}
        return draw(title, "class_balanced_focal_loss", answer, points, drawn, shapes)

    fixed = (np.array([0, 2, 1, 2]), np.array([100, 10, 2]), 0.9, 2.0)
    own = Gradients(
        "differences of your loss",
        1,
        draw.arrays("class_balanced_focal_loss", (4, 3)),
        lambda call, logits: call("class_balanced_focal_loss", logits, *fixed)[0],
        lambda call, dy, logits: dy * call("class_balanced_focal_loss", logits, *fixed)[1],
    )
    parts = (
        group("balanced, gamma 0", {"loss": 2, "dlogits": 1}, [0.9, 0.99, 0.999], [0.0]),
        group("focal, beta 0", {"loss": 2, "dlogits": 1}, [0.0], [1.0, 2.0, 3.0]),
        group("both", {"loss": 1, "dlogits": 1}, [0.9, 0.99, 0.999], [1.0, 1.5, 2.0], shapes=1),
        own,
    )
    return Task("focal-loss", "The class-balanced focal loss", "losses", parts)


def batch_norm_forward(
    x: Ndarray, gamma: Ndarray, beta: Ndarray, mean: Ndarray, var: Ndarray, momentum: float, eps: float, training: bool
) -> Case:
    """Return a call of batch norm."""
    x, gamma, beta, mean, var = *map(rounded, (2 * x + 1, gamma, beta, mean)), rounded(np.abs(var) + 0.1)
    given = (gamma, beta, mean, var)
    y, _, _ = normalised(x, *given, eps, training)
    if training:
        # Foveal has the biased variance of the batch; the running one moves towards the unbiased estimate.
        m = x.size // x.shape[1]
        batch = np.asarray(ops.channel_moments(x)) * np.array([[1.0], [m / (m - 1)]])
        mean, var = (1 - momentum) * np.stack([mean, var]) + momentum * batch
    names = ("x", "gamma", "beta", "running_mean", "running_var", "momentum", "eps", "training")
    arguments = dict(zip(names, (x, *given, momentum, eps, training), strict=True))
    return Case(arguments, {"y": y, "running_mean": mean, "running_var": var})


def batch_norm_backward(
    x: Ndarray, gamma: Ndarray, beta: Ndarray, mean: Ndarray, var: Ndarray, momentum: float, eps: float, training: bool
) -> Case:
    """Return a call of batch norm's gradients, which its momentum has no part in."""
    x, gamma, beta, mean, var = *map(rounded, (2 * x + 1, gamma, beta, mean)), rounded(np.abs(var) + 0.1)
    _, dy, (dx, dgamma, dbeta) = normalised(x, gamma, beta, mean, var, eps, training)
    names = ("dy", "x", "gamma", "running_mean", "running_var", "eps", "training")
    arguments = dict(zip(names, (dy, x, gamma, mean, var, eps, training), strict=True))
    return Case(arguments, {"dx": dx, "dgamma": dgamma, "dbeta": dbeta})


def batch_norm(draw: Drawing) -> Task:
    """Batch normalisation."""

    def group(title: str, backwards: bool, training: bool, points: dict[str, float], shapes: float = 0.0) -> Values:
        answer = batch_norm_backward if backwards else batch_norm_forward
        drawn = {
            **{"x": "N C H W", "gamma": "C", "beta": "C", "mean": "C", "var": "C"},
            **{"momentum": [0.1, 0.3], "eps": [1e-3, 1e-2, 0.1], "training": [training]},
            **{"N": (2, 3), "C": (1, 2), "H": (2, 3), "W": (1, 3)},
        }
        return draw(title, answer.__name__, answer, points, drawn, shapes)

    fixed = (np.array([0.5, -0.5]), np.array([1.0, 2.0]))
    own = Gradients(
        "differences of your batch_norm_forward",
        1,
        draw.arrays("batch_norm", (2, 2, 2, 3), (2,), (2,)),
        lambda call, x, gamma, beta: call("batch_norm_forward", x, gamma, beta, *fixed, 0.1, 1e-3, True)[0],
        lambda call, dy, x, gamma, beta: call("batch_norm_backward", dy, x, gamma, *fixed, 1e-3, True),
    )
    parts = (
        group("forward, training", False, True, {"y": 3, "running_mean": 1, "running_var": 1}, 1),
        group("forward, evaluation", False, False, {"y": 2, "running_mean": 0.5, "running_var": 0.5}),
        group("backward, training", True, True, {"dx": 2, "dgamma": 1, "dbeta": 1}),
        group("backward, evaluation", True, False, {"dx": 1}),
        own,
    )
    return Task("batch-norm", "Batch normalisation", "batch_norm", parts)


def normalised(
    x: Ndarray, gamma: Ndarray, beta: Ndarray, mean: Ndarray, var: Ndarray, eps: float, training: bool
) -> tuple[Ndarray, Ndarray, list[Ndarray]]:
    """Return batch norm's output, dy, and the gradients in x, gamma and beta."""

    def evaluated(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        return ops.batch_norm_inference(x, mean, var, gamma, beta, eps=eps)

    if training:
        return by_foveal(lambda x, gamma, beta: ops.batch_norm(x, gamma, beta, eps=eps), x, gamma, beta)
    y, dy, gradients = by_foveal(evaluated, x, gamma, beta, mean, var)
    return y, dy, gradients[:3]


def optimisers(draw: Drawing) -> Task:
    """Steps of optimisers, by the assignment's own formulas, which tests compare with `foveal.optim`."""

    def momentum(p: Ndarray, g: Ndarray, v: Ndarray, lr: float, momentum: float) -> Case:
        p, g, v = rounded(p), rounded(g), rounded(v)
        right = momentum_step(p, g, v, lr, momentum)
        named = {"p": p, "g": g, "v": v, "lr": lr, "momentum": momentum}
        return Case(named, dict(zip(("p", "v"), right, strict=True)))

    def adam(
        p: Ndarray, g: Ndarray, m: Ndarray, v: Ndarray, t: int, lr: float, beta1: float, beta2: float, eps: float
    ) -> Case:
        p, g, m, v = rounded(p), rounded(g), rounded(m), rounded(np.abs(v) + 0.01)
        if t == 1:
            m, v = np.zeros_like(m), np.zeros_like(v)
        right = adam_step(p, g, m, v, t, lr, beta1, beta2, eps)
        named = {"p": p, "g": g, "m": m, "v": v, "t": t, "lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
        return Case(named, dict(zip(("p", "m", "v"), right, strict=True)))

    shared: dict[str, Any] = {"p": "K C", "g": "K C", "v": "K C", "K": (1, 3), "C": (1, 4), "lr": [0.1, 0.01]}
    steps = {name: shared[name] for name in ("p", "g", "v", "lr", "K", "C")} | {"momentum": [0.0, 0.5, 0.9]}
    names = ("p", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps", "K", "C")
    shared |= {"m": "K C", "beta1": [0.9, 0.8], "beta2": [0.999, 0.9], "eps": [1e-8, 1e-2]}
    first, later = ({name: (shared | {"t": t})[name] for name in names} for t in ([1], (2, 9)))
    parts = (
        draw("momentum", "momentum_step", momentum, {"p": 2, "v": 2}, steps, shapes=0.5),
        draw("Adam, first step", "adam_step", adam, {"p": 1, "m": 0.5, "v": 0.5}, first),
        draw("Adam, later", "adam_step", adam, {"p": 2, "m": 0.5, "v": 0.5}, later, shapes=0.5),
    )
    return Task("optimisers", "Steps of optimisers", "optimisers", parts)


def fast(draw: Drawing) -> Task:
    """Convolution as a matrix product."""
    drawn = {"x": "N C H W", "w": "K C R S", "b": "K", "stride": (1, 3), "padding": (0, 2), **IMAGES, **FILTERS}

    def timed(number: int) -> dict[str, Any]:
        x, w, b = draw.arrays(f"conv_im2col {number}", (4, 3, 16, 16), (8, 3, 3, 3), (8,))
        return {"x": x, "w": w, "b": b, "stride": 1, "padding": 1}

    parts = (
        draw("values", "conv_im2col", convolution_case, {"y": 3}, drawn, shapes=1),
        Speed(
            "speed", "conv_im2col", ((3, 2), (10, 4)), tuple(map(timed, range(TIMED))), conv_forward, "the four loops"
        ),
    )
    return Task("im2col", "Convolution as a matrix product", "fast", parts)


def network(draw: Drawing) -> Task:
    """A network that is trained on digits."""

    @functools.cache
    def images() -> tuple[Ndarray, Ndarray]:
        from foveal import data

        digits = data.load("digits")
        rng = np.random.default_rng(draw.seed)
        train, test = rng.permutation(len(digits.y_train))[:TRAINED], rng.permutation(len(digits.y_test))
        x = np.concatenate([digits.x_train[train], digits.x_test[test]]).astype(np.float64)
        return x, np.concatenate([digits.y_train[train], digits.y_test[test]]).astype(np.int64)

    steps = ((0.7, 3.0), (0.8, 4.0), (0.9, 3.0))
    parts = (Accuracy("accuracy", "train_and_predict", steps, images, TRAINED, draw.seed),)
    return Task("network", "A network that is trained", "network", parts, times=6)


# The exercises' names and titles come from what makes them.
MAKERS: tuple[Callable[[Drawing], Task], ...] = (
    sizes,
    convolution,
    convolution_gradients,
    lambda draw: pooling(draw, "max_pool", "Max pooling", ops.max_pool2d),
    lambda draw: pooling(draw, "avg_pool", "Average pooling", ops.avg_pool2d),
    linear,
    relu,
    batch_norm,
    losses,
    focal,
    optimisers,
    fast,
    network,
)


def tasks(seed: int) -> list[Task]:
    """Return the exercises, whose hidden sizes and numbers are drawn with a seed."""
    draw = Drawing(seed)
    return [make(draw) for make in MAKERS]
