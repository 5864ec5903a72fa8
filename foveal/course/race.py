"""A race of optimisers on a surface, whose start, rate and momentum a reader chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.course.interactive import Interactive, plain
from foveal.errors import ArgumentError, ShapeError
from foveal.guard import GRADIENT_LIMIT
from foveal.optim.surfaces import bowl, saddle, wells
from foveal.optim.trajectory import trajectory
from foveal.plotting import blank
from foveal.strides import Ndarray

# What the page's script knows: a name, and how Foveal makes the optimiser.
RACERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("sgd", {}),
    "momentum": ("momentum", {}),
    "Nesterov": ("nesterov", {}),
    "Adam": ("adam", {}),
    "Adam without bias correction": ("adam", {"bias_correction": False}),
}
# What the reader chooses; Adam takes the momentum as its first beta.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.3, 0.5)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
BETA2, EPS = 0.999, 1e-8
# A page carries five paths of each surface.
MOST_STEPS = 400
# Of each variable, at most; heights that differ by more than this share of their span are no such polynomial.
POWER, EXACT = 6, 1e-6
# Heights are computed at so many points along each axis, and drawn as so many contours.
POINTS, CONTOURS = 41, 14


@dataclass(frozen=True)
class Ground:
    """A surface to race on, and how the race begins there."""

    #: a function (x, y) -> z, of +, - and * alone: a polynomial up to the sixth power of each variable
    surface: Callable[..., Any]
    #: x and y of the start, inside of the picture
    start: tuple[float, float]
    #: what the picture shows of x and of y, the lower number first
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    #: the rate in the beginning, one of 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.3, 0.5
    lr: float = 0.1
    #: the momentum in the beginning, one of 0, 0.5, 0.8, 0.9, 0.95, 0.99
    momentum: float = 0.9


GROUNDS = {
    "a ravine": Ground(bowl, (-1.5, 1.0), (-2.0, 2.0), (-1.4, 1.4), lr=0.03),
    "a saddle": Ground(saddle, (1.0, 0.001), (-1.4, 1.4), (-1.6, 1.6)),
    "a local minimum": Ground(wells, (2.0, 0.8), (-1.8, 2.2), (-1.2, 1.2), lr=0.02),
}


def race(grounds: Mapping[str, Ground] = GROUNDS, steps: int = 100) -> Interactive:
    """Return a figure of SGD, momentum, Nesterov's momentum and Adam, with bias correction and without it, on a
    surface that the reader chooses.

    grounds: surfaces by their names, each a `Ground`; a ravine, a saddle and a local minimum if not given. steps: of
    each path, 1 to 400. The paths shown first are those of `optim.trajectory`. The reader moves the start, and chooses
    the rate, the momentum, and who races; the page computes these paths by itself, by the same equations. Raises
    ArgumentError for a surface that is no polynomial, ShapeError for a start outside of the picture or other numbers.
    Raises PackageError without Matplotlib, which computes the contours.

        def tilted(x, y):
            return x - 2.0 * y

        course.race({"a slope": course.Ground(tilted, (0.0, 0.0), (-2.0, 2.0), (-2.0, 2.0))})
    """
    if not grounds:
        raise ArgumentError("race: there is no surface; give one or more, such as {'a bowl': course.Ground(...)}")
    if not 1 <= steps <= MOST_STEPS:
        raise ShapeError(f"race: steps is {steps}, it has to be from 1 to {MOST_STEPS}")
    numbers = {
        "grounds": [{"name": name, **run(name, ground, steps)} for name, ground in grounds.items()],
        "racers": list(RACERS),
        "rates": list(RATES),
        "momenta": list(MOMENTA),
        "beta2": BETA2,
        "eps": EPS,
        "steps": steps,
        "limit": GRADIENT_LIMIT,
    }
    return Interactive("race", "Optimisers race on a surface", numbers)


def run(name: str, ground: Ground, steps: int) -> dict[str, Any]:
    """Return what the page needs of one surface: its terms, its contours, and Foveal's paths."""
    for what, value, known in (("lr", ground.lr, RATES), ("momentum", ground.momentum, MOMENTA)):
        if value not in known:
            raise ShapeError(f"race: {what} of {name} is {value}; choose one of {', '.join(map(str, known))}")
    for what, at, (low, high) in zip("xy", ground.start, (ground.xlim, ground.ylim), strict=True):
        if not -np.inf < low <= at <= high < np.inf or low == high:
            raise ShapeError(f"race: {name} starts at {what} = {at}, and shows {low} to {high}; start inside of that")
    betas, how = (ground.momentum, BETA2), {"lr": ground.lr}
    options = {"sgd": {}, "adam": {"betas": betas, "eps": EPS}}
    racers = {
        racer: (rule, {**how, **own, **options.get(rule, {"momentum": ground.momentum})})
        for racer, (rule, own) in RACERS.items()
    }
    coefficients = polynomial(name, ground)
    paths = trajectory(racers, ground.surface, start=ground.start, steps=steps)
    return {
        "terms": [[i, j, float(value)] for (i, j), value in np.ndenumerate(coefficients) if value],
        "start": list(ground.start),
        "x": list(ground.xlim),
        "y": list(ground.ylim),
        "lr": ground.lr,
        "momentum": ground.momentum,
        "contours": contours(ground, coefficients),
        "paths": [plain(path) for path in paths.values()],
    }


def polynomial(name: str, ground: Ground) -> Ndarray:
    """Return the coefficients [POWER + 1, POWER + 1] of a surface, of x^i y^j, from its heights at points of the
    picture.
    """
    polyvander2d = np.polynomial.polynomial.polyvander2d
    # More points than coefficients, so that what is no polynomial of these powers is seen.
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(*ground.xlim, 13), np.linspace(*ground.ylim, 13)))
    powers = polyvander2d(x, y, (POWER, POWER))
    heights = np.broadcast_to(np.asarray(ground.surface(x, y), np.float64), x.shape)
    span = np.ptp(heights)
    # Columns of one size keep the small powers exact.
    sizes = np.abs(powers).max(0)
    found = np.linalg.lstsq(powers / sizes, heights, rcond=None)[0]
    found[np.abs(found) < 1e-9 * max(np.abs(heights).max(), 1e-30)] = 0
    if not np.abs(powers / sizes @ found - heights).max() <= EXACT * max(span, 1e-30):
        raise ArgumentError(
            f"race: the surface {name} is no polynomial up to power {POWER} of x and of y, with +, - and * alone;"
            " optim.plot_trajectory draws paths on any surface"
        )
    # Twelve digits: what remains of a coefficient such as 0.5 after the division.
    coefficients = np.array([float(f"{value:.12g}") for value in found / sizes])
    return coefficients.reshape(POWER + 1, POWER + 1)


def contours(ground: Ground, coefficients: Ndarray) -> list[list[list[float]]]:
    """Return the outlines of what is higher than each of some heights, in the unit square: lists of x, y, x, y, ...

    The heights are closer together where the surface is low.
    """
    x, y = np.linspace(*ground.xlim, POINTS), np.linspace(*ground.ylim, POINTS)
    # [POINTS, POINTS]: rows along y, columns along x
    z = np.polynomial.polynomial.polygrid2d(x, y, coefficients).T
    axis = blank(1, 1).subplots()
    unit = np.linspace(0, 1, POINTS)
    found = []
    for share in np.linspace(0, 1, CONTOURS + 1)[1:-1] ** 2:
        level = z.min() + np.ptp(z) * share
        (outline,) = axis.contourf(unit, unit, z, levels=[level, max(z.max(), level) + 1]).get_paths()
        parts = map(np.asarray, outline.to_polygons())
        found.append([np.round(part, 3).ravel().tolist() for part in parts if len(part)])
    return found
