"""The paths of optimisers on a surface of two variables, as arrays and as a figure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foveal.api import Compiled
from foveal.errors import ArgumentError, NumericsError, ShapeError, warn
from foveal.kinds import shown
from foveal.names import meant
from foveal.nn.module import Module
from foveal.nn.parameter import Parameter
from foveal.ops.op import Tensor
from foveal.optim.optimizer import UpdateRule
from foveal.optim.surfaces import SURFACES
from foveal.plotting import COLOURS, blank, contours, short
from foveal.step import Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A surface: a function of (x, y) or of a vector [2], written with operators, or the name of one of SURFACES.
Surface = str | Callable[..., Tensor]
Paths = dict[str, NDArray[np.float32]]

# Of a path, at most.
MAX_STEPS = 10**6
# Heights are computed at so many points along each axis.
POINTS = 60
# A path that leaves the picture is drawn up to so many times the size of what is around the start and the others.
FAR = 4.0


class Point(Module):
    """A point [2] as a network, which an optimiser moves; its input, zeros [2], is added."""

    def __init__(self, start: Sequence[float]) -> None:
        self.place = Parameter(np.array(start, np.float32), "place")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.place


def surface_of(surface: Surface) -> Callable[[Tensor], Tensor]:
    """Return a surface as a function of one vector [2]."""
    if isinstance(surface, str):
        if surface not in SURFACES:
            raise ArgumentError(
                f"there is no surface {surface!r}{meant(surface, SURFACES)}; choose one of {', '.join(SURFACES)}, or a"
                " function"
            )
        surface = SURFACES[surface]
    function: Callable[..., Tensor] = surface
    takes_two = len(required(function)) == 2

    def height(place: Tensor) -> Tensor:
        z = function(place[0], place[1]) if takes_two else function(place)
        if getattr(z, "shape", None) != ():
            raise ShapeError(
                f"the surface returned {shown(z)}; it has to be a function of (x, y), or of a vector [2], that returns"
                " one number, written with operators"
            )
        return z

    return height


def required(function: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that have to be given by position; none where the function does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in by_position]


def makers(optimizers: object) -> Iterator[tuple[str, Callable[[list[Parameter]], UpdateRule]]]:
    """Yield name and maker of each optimiser; a name is "" where none was given."""
    if isinstance(optimizers, Mapping):
        for name, one in optimizers.items():
            yield str(name), maker(one)
    elif isinstance(optimizers, list | tuple):
        for one in optimizers:
            yield "", maker(one)
    else:
        yield "", maker(optimizers)


def maker(one: Any) -> Callable[[list[Parameter]], UpdateRule]:
    """Return the function that makes an optimiser of parameters, from what the caller gave for it."""
    options: dict[str, Any] = {}
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[1], dict):
        one, options = one
    if isinstance(one, str):
        if one not in UpdateRule.registry:
            known = UpdateRule.registry
            raise ArgumentError(
                f"there is no optimiser called {one!r}{meant(one, known)}; choose one of {', '.join(known)}, or give a"
                " class"
            )
        rule = UpdateRule.registry[one]
        return lambda parameters: rule.build(parameters, **{"lr": rule.default_lr, **options})
    if isinstance(one, UpdateRule) or not callable(one):
        raise ArgumentError(
            f"{shown(one)} is no way to make an optimiser; give a name such as 'adam', a class,"
            " ('adam', {'lr': 0.1}), or a function of the parameters, lambda p: optim.Adam(p, lr=0.1)"
        )
    # A class whose rate has no default takes the one that it has in `foveal train`.
    if isinstance(one, type) and hasattr(one, "default_lr") and "lr" in required(one):
        options = {"lr": one.default_lr, **options}
    return lambda parameters: one(parameters, **options)


def labelled(name: str, optimizer: UpdateRule, known: Paths) -> str:
    """Return the name of a path: the given one, or the optimiser's class and rate; a second one gets a number."""
    base = name or f"{type(optimizer).__name__}, lr {optimizer.lr:g}"
    label, count = base, 2
    while label in known:
        label, count = f"{base} ({count})", count + 1
    return label


def trajectory(
    optimizers: object, surface: Surface, *, start: Sequence[float] = (-1.0, 0.1), steps: int = 100
) -> Paths:
    """Return the path of each optimiser on a surface of two variables: arrays [steps + 1, 2] by name.

    optimizers: a list of names ("adam", with its rate in `foveal train`), of classes, of pairs ("adam", {"lr": 0.1}),
    or of functions of the parameters, lambda p: optim.Adam(p, lr=0.1); or a dict of these by names of the paths.
    surface: a function of (x, y), or of a vector [2], written with operators, that returns one number; or one of
    "saddle", "rosenbrock", "bowl", "beale", "wells" (optim.surfaces). A path ends early, and a warning says so, where
    the height or its gradient is no number any more. Raises ArgumentError for what is no optimiser, ShapeError for what
    is no such surface.

        paths = optim.trajectory(["sgd", "adam"], lambda x, y: x * x - y * y, start=(1.0, 0.01), steps=50)
    """
    place = np.asarray(start, np.float32)
    if place.shape != (2,) or not np.isfinite(place).all():
        raise ShapeError(f"start is {shown(start)}, it has to be two numbers, x and y")
    if not 1 <= steps <= MAX_STEPS:
        raise ShapeError(f"steps is {steps}, it has to be from 1 to {MAX_STEPS:,}")
    height = surface_of(surface)
    paths: Paths = {}
    made = list(makers(optimizers))
    if not made:
        raise ArgumentError("there is no optimiser to take a path; give one or more, such as ['sgd', 'adam']")
    for name, make in made:
        point = Point(place.tolist())
        optimizer = make(point.parameters())
        if not isinstance(optimizer, UpdateRule):
            raise ArgumentError(f"{shown(optimizer)} was made as an optimiser; give one of foveal.optim, or your own")
        label = labelled(name, optimizer, paths)
        step = Step(point, lambda output, target: height(output), optimizer, 1, 0)
        path = [place]
        for _ in range(steps):
            try:
                step(np.zeros(2, np.float32), np.zeros(2, np.float32))
            except NumericsError:
                warn(f"{label} left all numbers in step {len(path)}, at {path[-1].tolist()}; its path ends there")
                break
            path.append(np.array(point.place.data))
        paths[label] = np.stack(path)
    return paths


def plot_trajectory(
    optimizers: object,
    surface: Surface,
    *,
    start: Sequence[float] = (-1.0, 0.1),
    steps: int = 100,
    xlim: tuple[float, float] | None = None,
    ylim: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of the paths of optimisers over the contours of a surface, and of the height by step beside it.

    optimizers, surface, start, steps: as `trajectory` takes them. xlim, ylim: what is drawn; what the paths need if not
    given, where a path that runs far away does not count. A cross is the start, dots are the ends. Raises PackageError
    without Matplotlib, and what `trajectory` raises.

        optim.plot_trajectory(["sgd", "momentum", "adam"], "saddle", start=(1.0, 0.001)).savefig("saddle.png")
    """
    for what, limit in (("xlim", xlim), ("ylim", ylim)):
        if limit is not None and not -np.inf < limit[0] < limit[1] < np.inf:
            raise ShapeError(f"{what} is {shown(limit)}, it has to be two numbers, the lower one first")
    name_of = surface if isinstance(surface, str) else getattr(surface, "__name__", "")
    figure = blank(10.5, 4.6, title or name_of.replace("<lambda>", ""))
    paths = trajectory(optimizers, surface, start=start, steps=steps)
    heights = Compiled(surface_of(surface), threads=1)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    box = limits(paths, xlim, ylim)
    draw_surface(left, heights, *box)
    # Heights of points in the picture.
    seen: list[float] = []
    for i, (name, path) in enumerate(paths.items()):
        colour = COLOURS[i % len(COLOURS)]
        left.plot(path[:, 0], path[:, 1], ".-", color=colour, markersize=3, linewidth=1.2)
        left.plot(*path[-1], "o", color=colour, markersize=6)
        with np.errstate(all="ignore"):
            z = np.array([heights(point) for point in path], np.float64)
        inside = [low <= point[k] <= high for point in path for k, (low, high) in enumerate(box)]
        seen += z[np.reshape(inside, (-1, 2)).all(1) & np.isfinite(z)].tolist()
        ended = f", ends in step {len(path) - 1}" if len(path) <= steps else ""
        right.plot(z, color=colour, label=short(name, 40) + ended)
    left.plot(*paths[next(iter(paths))][0], "x", color="black", markersize=8, zorder=5)
    left.set(xlim=box[0], ylim=box[1], xlabel="x", ylabel="y")
    right.set(xlabel="step", ylabel="height")
    # A path that leaves the picture would squeeze the others together.
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    if low > 0 and high > 50 * low:
        right.set(yscale="log", ylim=(low / 1.5, high * 1.5))
    elif high > low:
        right.set(ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
    right.grid(alpha=0.25)
    right.legend(fontsize=8)
    return figure


def limits(
    paths: Paths, xlim: tuple[float, float] | None, ylim: tuple[float, float] | None
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return what is drawn along x and y: around all points that are not far away, with a margin."""
    points = np.concatenate(list(paths.values())).astype(np.float64)
    start = points[0]
    reach = FAR * max(1.0, float(np.median(np.abs(points - start).max(1))), float(np.abs(start).max()))
    near = points[(np.abs(points - start) <= reach).all(1)]
    found = []
    for low, high in zip(near.min(0), near.max(0), strict=True):
        margin = 0.15 * max(high - low, 0.5)
        found.append((float(low - margin), float(high + margin)))
    return xlim or found[0], ylim or found[1]


def draw_surface(axis: Axes, heights: Compiled, xlim: tuple[float, float], ylim: tuple[float, float]) -> None:
    """Draw the heights of the surface as contours."""
    x, y = (np.linspace(*limit, POINTS, dtype=np.float32) for limit in (xlim, ylim))
    # [POINTS, POINTS]: rows along y, columns along x. The surface may be a function of the vector as a whole, so that
    # it is computed point by point.
    z = np.array([[float(heights(np.array((a, b), np.float32))) for a in x] for b in y])
    contours(axis, x, y, z, "height")
