"""The loss around a trained network: along random directions, along a straight line, and around the way of a training.

Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", 2018; Goodfellow, Vinyals and
Saxe, "Qualitatively characterizing neural network optimization problems", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foveal.arguments import checked
from foveal.display import Table, Tables
from foveal.errors import ArgumentError, DataError, NumericsError, ShapeError, StateError
from foveal.explain.measured import LossFunction, MeanLoss, grid
from foveal.explain.model import Model, trains
from foveal.strides import Ndarray
from foveal.variable import Variable

# Values by name.
State = dict[str, Ndarray]
Floats = NDArray[np.float64]

# The name of a variance in a batch norm's running statistics: where one would be negative there is no loss.
VARIANCE = "running_var"
# Seeds are keys of 64 bits.
LARGEST_SEED = (1 << 63) - 1


@dataclass(frozen=True, repr=False)
class Landscape(Tables):
    """The loss around a network: what `loss_landscape` returns."""

    #: The class of the network, and the number of images that the loss is the mean of.
    model: str
    images: int
    #: Multiples of the first direction, [n], and of the second; none of a second where there is one direction.
    x: Floats
    y: Floats | None
    #: [n], or [m, n]: a row for each multiple of the second direction.
    losses: Floats
    #: Of the network as it is.
    loss: float
    #: The directions, of the names and shapes of the parameters.
    directions: tuple[State, ...]

    def tables(self) -> Iterator[Table]:
        """Yield the losses: of one direction all of them, of two the lowest and the highest."""
        head = f"{self.model}: loss {self.loss:.4g} on {self.images:,} images"
        if self.y is None:
            yield head, ("along", "loss"), [(f"{a:.3g}", number(v)) for a, v in zip(self.x, self.losses, strict=True)]
            return
        rows = []
        for name, choose in (("lowest", np.nanargmin), ("highest", np.nanargmax)):
            row, column = np.unravel_index(int(choose(self.losses)), self.losses.shape)
            place = f"({self.x[column]:.3g}, {self.y[row]:.3g})"
            rows.append((name, place, number(self.losses[row, column])))
        yield f"{head}; {len(self.x)}x{len(self.y)} points", ("", "at", "loss"), rows


@dataclass(frozen=True, repr=False)
class Line(Tables):
    """The loss on the straight line between two states of a network: what `loss_line` returns."""

    model: str
    images: int
    #: Places on the line, [n]: 0 is the start, 1 the end.
    along: Floats
    #: [n]; NaN where the line leaves what a network can be, with a variance below 0.
    losses: Floats

    def tables(self) -> Iterator[Table]:
        """Yield all losses."""
        rows = [(f"{a:.3g}", number(v)) for a, v in zip(self.along, self.losses, strict=True)]
        yield f"{self.model}: loss between start (0) and end (1), {self.images:,} images", ("along", "loss"), rows


@dataclass(frozen=True, repr=False)
class Way(Tables):
    """The way of a training, on the plane that holds most of it: what `loss_path` returns."""

    model: str
    images: int
    #: The names of the points, in their order.
    names: tuple[str, ...]
    #: [n, 2]: where each point, projected, lies on the plane; the last one is (0, 0).
    points: Floats
    #: [n]: the loss of each point itself, and how far it lies off the plane, as a share of its distance from the last.
    losses: Floats
    off: Floats
    #: Multiples of the plane's unit vectors, [n] and [m], and the losses there, [m, n]; NaN where there is none.
    x: Floats
    y: Floats
    surface: Floats

    def tables(self) -> Iterator[Table]:
        """Yield a row for each point."""
        rows = [
            (name, f"{x:.3g}", f"{y:.3g}", number(loss), f"{off:.1%}")
            for name, (x, y), loss, off in zip(self.names, self.points, self.losses, self.off, strict=True)
        ]
        empty = int(np.isnan(self.surface).sum())
        why = "where a variance would be negative or the loss infinite"
        note = f"; no loss at {empty} of {self.surface.size} points of the plane, {why}" if empty else ""
        head = f"{self.model}: the way of a training, {self.images:,} images{note}"
        yield head, ("point", "x", "y", "loss", "off the plane"), rows


def number(value: float) -> str:
    """Return a loss as text; "-" where there is none."""
    return f"{value:.4g}" if np.isfinite(value) else "-"


def direction(parameters: Sequence[Variable], rng: np.random.Generator) -> State:
    """Return a random direction, each filter of which has the norm of the filter (Li et al. 2018, section 4)."""
    found: State = {}
    for p in parameters:
        d, w = rng.standard_normal(p.shape), p.data.astype(np.float64)
        if len(p.shape) < 2:
            # Biases, and scale and shift of norms, are left as they are.
            found[p.name] = np.zeros(p.shape)
            continue
        # The filters of [K, C, R, S], and the rows of [out, in], are those of one unit each.
        axes = tuple(range(1, d.ndim))
        length = np.sqrt(np.square(d).sum(axes, keepdims=True))
        found[p.name] = d / length * np.sqrt(np.square(w).sum(axes, keepdims=True))
    return found


@contextmanager
def values_restored(variables: Sequence[Variable]) -> Iterator[None]:
    """After the block variables hold what they held before."""
    kept = [(v, v.data.copy()) for v in variables]
    try:
        yield
    finally:
        for variable, values in kept:
            variable.data = values


def seeded(what: str, seed: int) -> np.random.Generator:
    """Return the generator of a seed. Raises ArgumentError for a number that is none."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ArgumentError(f"{what}: seed is {seed}, it has to be from 0 to {LARGEST_SEED}")
    return np.random.Generator(np.random.Philox(key=seed))


@checked
def loss_landscape(
    net: Model,
    images: ArrayLike,
    labels: ArrayLike,
    loss: LossFunction,
    dimensions: int = 2,
    span: Sequence[float] = (-1.0, 1.0),
    points: int = 21,
    seed: int = 0,
) -> Landscape:
    """Return the mean loss around a network, along one or two random directions that are normalised by filters.

        found = explain.loss_landscape(net, images, labels, nn.CrossEntropyLoss(), points=15)
        explain.plot_loss_landscape(found)

    L(a, b) = loss(w + a d + b e), where d and e are drawn from N(0, 1), and each filter of them is scaled to the norm
    of the filter of w: d_k <- d_k / ||d_k|| * ||w_k|| (Li et al. 2018, section 4). So a is a share of the weights'
    size, and networks whose scale a batch norm takes away can be compared. A row of a fully connected layer counts as a
    filter. Biases, and the scale, shift and running statistics of norms, stay as they are, as in the authors' program.

    net: it computes in evaluation mode, and afterwards holds the values that it held. images, labels, loss: as
    `statistics` takes them. dimensions: 1 or 2. span, points: of a, and of b. seed: of the directions; the same seed
    gives the same bits. Raises DataError for images and labels that do not fit, NumericsError where the network itself
    has no finite loss, ShapeError for other numbers.
    """
    if dimensions not in (1, 2):
        raise ShapeError(f"loss_landscape: dimensions is {dimensions}, it has to be 1 or 2")
    x, rng = grid("loss_landscape", "span", span, points), seeded("loss_landscape", seed)
    net.name_parameters()
    measure = MeanLoss("loss_landscape", net, loss, images, labels)
    parameters = list(dict.fromkeys(net.parameters()))
    directions = tuple(direction(parameters, rng) for _ in range(dimensions))
    at = measure.finite()

    def moved(*multiples: float) -> float:
        for p, w in zip(parameters, start, strict=True):
            step = sum(a * d[p.name] for a, d in zip(multiples, directions, strict=True))
            p.data = (w + step).astype(np.float32)
        return measure()

    with values_restored(parameters):
        start = [p.data.astype(np.float64) for p in parameters]
        losses = surface(moved, x, *([x] if dimensions == 2 else []))
    second = x if dimensions == 2 else None
    return Landscape(type(net).__name__, len(measure.x), x, second, losses, at, directions)


def surface(loss: Callable[..., float], x: Floats, y: Floats | None = None) -> Floats:
    """Return the losses at each of x [n], or [m, n] at each pair; NaN where the loss is infinite, too."""
    found = np.array([loss(a) for a in x] if y is None else [[loss(a, b) for a in x] for b in y], np.float64)
    return np.where(np.isfinite(found), found, np.nan)


class States:
    """States of a network as vectors, which are put into it."""

    def __init__(self, what: str, net: Model) -> None:
        self.what, self.net = what, net
        net.name_parameters()
        self.names = {name: v for name, v in net.named_variables() if v.size}
        # A variable that is held in several places is one.
        self.variables = {v: name for name, v in reversed(self.names.items())}
        if not self.variables:
            raise StateError(f"{what}: {type(net).__name__} has no parameters, and so no states")

    def vector(self, state: Mapping[str, Any] | None) -> Floats:
        """Return a state as a vector, that of the network if None. Raises StateError for one that does not fit."""
        parts = []
        for variable, name in self.variables.items():
            value = variable.data if state is None else np.asarray(state.get(name, ()))
            if value.shape != variable.shape or value.dtype.kind not in "fiu":
                raise StateError(
                    f"{self.what}: a state has no {name} of shape {list(variable.shape)}; give what net.state_dict()"
                    " returns"
                )
            parts.append(value.astype(np.float64).ravel())
        vector = np.concatenate(parts)
        if not np.isfinite(vector).all():
            raise NumericsError(f"{self.what}: a state holds NaN or infinity")
        return vector

    def weighed(self) -> NDArray[np.bool_]:
        """Return which places of a vector belong to parameters, and not to running statistics and counters."""
        return np.concatenate([np.full(v.size, trains(v) is not None) for v in self.variables])

    def put(self, vector: Floats) -> bool:
        """Let the network hold a vector's values; False where a variance would be negative, as no network has one."""
        place, possible = 0, True
        for variable, name in self.variables.items():
            values = vector[place : place + variable.size].reshape(variable.shape)
            place += variable.size
            possible = possible and not (name.endswith(VARIANCE) and (values < 0).any())
            variable.data = values.astype(np.float32)
        return possible


@checked
def loss_line(
    net: Model,
    images: ArrayLike,
    labels: ArrayLike,
    loss: LossFunction,
    start: Mapping[str, Any],
    end: Mapping[str, Any] | None = None,
    span: Sequence[float] = (0.0, 1.0),
    points: int = 41,
) -> Line:
    """Return the mean loss on the straight line from one state of a network to another: Goodfellow et al. 2015.

        start = net.state_dict()
        ...                                    # train
        explain.plot_loss_line(explain.loss_line(net, images, labels, nn.CrossEntropyLoss(), start))

    L(a) = loss((1 - a) w_0 + a w_1). start, end: states by name, as `net.state_dict()` returns them; the network as it
    is now if no end is given. Running statistics of batch norms lie on the line as the parameters do, as in Li et al.
    2018; beyond the two states a variance may become negative, and the loss there is NaN. span, points: of a. The
    network computes in evaluation mode, and afterwards holds the values that it held. Raises StateError for a state
    that is of another network, and what `loss_landscape` raises.
    """
    along = grid("loss_line", "span", span, points)
    measure, states = MeanLoss("loss_line", net, loss, images, labels), States("loss_line", net)
    first, last = states.vector(start), states.vector(end)
    with values_restored(list(states.variables)):
        losses = surface(lambda a: measure() if states.put((1 - a) * first + a * last) else np.nan, along)
    return Line(type(net).__name__, len(measure.x), along, losses)


@checked
def loss_path(
    net: Model,
    images: ArrayLike,
    labels: ArrayLike,
    loss: LossFunction,
    states: Mapping[str, Mapping[str, Any]],
    points: int = 21,
    margin: float = 0.3,
) -> Way:
    """Return the way of a training, from state to state, on the plane through it, with the mean loss on the plane.

        states = {"start": net.state_dict()}
        for epoch in range(1, 6):
            ...                                # train
            states[f"epoch {epoch}"] = net.state_dict()
        explain.plot_loss_path(explain.loss_path(net, images, labels, nn.CrossEntropyLoss(), states))

    states: three or more, by name, in their order. The plane goes through the last one, along the two directions in
    which the differences of the parameters from it are largest (the principal components of w_i - w_n; Li et al. 2018,
    section 7). Three states lie on it; of more, `off` says how far each lies off it. Running statistics of batch norms
    move with the parameters. points: of the losses along each side. margin: about the way, as a share of its size.
    The network computes in evaluation mode, and afterwards holds the values that it held.

    Raises DataError where there are fewer than three different states, or all lie on one line: `loss_line` shows that.
    """
    if not 0 <= margin <= MOST_MARGIN:
        raise ShapeError(f"loss_path: margin is {margin:g}, it has to be from 0 to {MOST_MARGIN:g}")
    measure, of_net = MeanLoss("loss_path", net, loss, images, labels), States("loss_path", net)
    vectors = np.stack([of_net.vector(state) for state in states.values()]) if states else np.zeros((0, 1))
    weighed = of_net.weighed()
    if len(np.unique(vectors[:, weighed], axis=0) if len(vectors) else ()) < 3:
        raise DataError(
            f"loss_path: {len(states)} states, of which fewer than 3 are different: a plane goes through three. Keep"
            " more of them during a training, or use loss_line for the straight line between two"
        )
    differences = vectors - vectors[-1]
    # [2, D]: the parameters decide about the plane; running statistics move along, by the same sums of states.
    shares = plane(differences[:, weighed])
    axes = shares @ differences
    coordinates = differences[:, weighed] @ axes[:, weighed].T
    away = np.linalg.norm(differences[:, weighed] - coordinates @ axes[:, weighed], axis=1)
    distance = np.linalg.norm(differences[:, weighed], axis=1)
    off = np.divide(away, distance, out=np.zeros_like(away), where=distance > 0)

    def at(vector: Floats) -> float:
        return measure() if of_net.put(vector) else np.nan

    x, y = (sides(coordinates[:, axis], margin, points) for axis in (0, 1))
    with values_restored(list(of_net.variables)):
        losses = np.array([at(vector) for vector in vectors])
        found = surface(lambda a, b: at(vectors[-1] + a * axes[0] + b * axes[1]), x, y)
    return Way(type(net).__name__, len(measure.x), tuple(states), coordinates, losses, off, x, y, found)


# Of the size of the way.
MOST_MARGIN = 10.0


def plane(differences: Floats) -> Floats:
    """Return shares [2, n] of differences [n, D], whose sums are the unit vectors of two principal components.

    Raises DataError where the differences lie on a line.
    """
    # D may be millions and n is small: from the n x n products of the differences.
    values, vectors = np.linalg.eigh(differences @ differences.T)
    if values[-2] <= ON_A_LINE * values[-1]:
        raise DataError("loss_path: all states lie on one line; use loss_line, which shows the loss along it")
    shares = vectors[:, [-1, -2]].T / np.sqrt(values[[-1, -2]])[:, None]
    # The sign of a component is arbitrary: the first state lies on the positive side.
    first = shares @ (differences @ differences[0])
    return np.asarray(shares * np.where(first < 0, -1.0, 1.0)[:, None])


# The second principal component over the first, squared, below which there is no plane.
ON_A_LINE = 1e-12


def sides(values: Floats, margin: float, points: int) -> Floats:
    """Return so many places from the lowest to the highest value and a margin beyond."""
    low, high = float(values.min()), float(values.max())
    beyond = margin * (high - low)
    return grid("loss_path", "the way", (low - beyond, high + beyond), points)
