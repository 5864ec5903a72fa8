"""Scalars: numbers of an optimiser that change from step to step, in memory that the step's program reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from foveal.errors import ShapeError
from foveal.ops.op import Tensor
from foveal.trace import current
from foveal.variable import Variable


class Scalars(dict[str, Variable]):
    """Numbers in memory that a program reads, by name; a new value needs no new compilation.

    suffix: ends the names of the variables, to tell the groups of an optimiser apart.
    """

    def __init__(self, suffix: str) -> None:
        super().__init__()
        self.suffix = suffix

    def __missing__(self, name: str) -> Variable:
        scalar = self[name] = Variable(np.float32(0), name + self.suffix)
        return scalar

    def set(self, name: str, value: float) -> None:
        scalar = self[name]
        # Writing counts as a change and invalidates what programs prepared from a variable, so equal values are left.
        if scalar.data != np.float32(value):
            scalar.data = value

    def traced(self, names: Collection[str] = (), kind: str = "") -> TracedScalars:
        """Return these as Tensors. names: those that are set before a step, if not all; kind: the optimiser's name."""
        return TracedScalars(self, names, kind)


class TracedScalars:
    """Scalars as Tensors of the recording in progress; a scalar that is never read is no input of the program."""

    def __init__(self, scalars: Scalars, names: Collection[str], kind: str) -> None:
        self.scalars, self.names, self.kind = scalars, names, kind
        # the names that were read
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        if self.names and name not in self.names:
            raise ShapeError(
                f"{self.kind}: update reads now[{name!r}], which nobody sets; there are"
                f" {', '.join(sorted(self.names))}. Return it from values(self, step, group), or list it in `ranges`"
                f" and set self.{name} in __init__"
            )
        self.read.add(name)
        return current().lift(self.scalars[name])


def flat(name: str, value: float | tuple[float, ...]) -> dict[str, float]:
    """Return a number under its name, or the numbers of a tuple under name.0, name.1 and so on."""
    if isinstance(value, tuple | list):
        return {f"{name}.{i}": float(v) for i, v in enumerate(value)}
    return {name: float(value)}


def unflat(name: str, like: float | tuple[float, ...], numbers: Mapping[str, float]) -> float | tuple[float, ...]:
    """Return what `flat` took apart: a number, or a tuple of the length of `like`."""
    if isinstance(like, tuple | list):
        return tuple(numbers[f"{name}.{i}"] for i in range(len(like)))
    return numbers[name]
