"""Nothing is written before it is known that all that will be written is finite.

A program that writes variables gets one more output, its report (ops.magnitudes): the largest magnitude of the loss, of
each gradient that its updates are computed from, and of each new value that no optimiser computes, such as running
statistics. Every update is where(all are small enough, new value, old value), so a step that fails changes nothing.
The report is one pass over the gradients, after the last of them; up to then they are kept in memory.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.graph import Node, order
from foveal.ops import magnitudes, where
from foveal.ops.finite import LIMIT
from foveal.strides import Ndarray
from foveal.trace import Symbol, Trace
from foveal.variable import Variable


@dataclass(frozen=True)
class Guard:
    """What a program that writes variables checks before."""

    #: what the magnitudes of its report belong to
    names: list[str]
    #: how many of them, the first ones, only have to be finite
    exact: int

    def problem(self, report: Ndarray) -> str:
        """Return which value is the first that is NaN, infinite or too large, from what a run reported."""
        for i, (name, largest) in enumerate(zip(self.names, report[1:], strict=True)):
            if not np.isfinite(largest):
                return f"{name} is {largest}"
            if i >= self.exact and largest >= LIMIT:
                return f"{name} reaches {largest:.3g}, too much for float32: from {LIMIT:.3g} on squares overflow"
        raise AssertionError(f"the report {report} finds no fault")


def guard_updates(
    recording: Trace, loss: Symbol | None = None, gradients: Mapping[Variable, Symbol] | None = None
) -> tuple[Symbol, Guard] | None:
    """Let every update of the recording keep the old value unless all is finite; return the report and what it is of.

    The report is [1 + number of checked values]: 1 if all of them are small enough, then the largest magnitude of each.
    None if there is no loss and nothing that is updated can be other than finite.

    gradients: those that an optimiser was given, by parameter. What is computed from them is checked by them, every
    other new value that depends on the program's arguments by itself.
    """
    gradients = gradients or {}
    used, varies = slopes_used(recording, [slope.node for slope in gradients.values()])
    exact = [] if loss is None else [("the loss", loss)]
    exact += recording.required
    exact += [
        (f"the new {variable.name or 'value of a variable'}", Symbol(recording, value))
        for variable, value in recording.updates.items()
        if value in varies and not used[value]
    ]
    needed = functools.reduce(int.__or__, (used[value] for value in recording.updates.values()), 0)
    by_gradient = [
        (f"the gradient of {p.name or 'a parameter'}", slope)
        for i, (p, slope) in enumerate(gradients.items())
        if needed >> i & 1
    ]
    checked = [*exact, *by_gradient]
    if loss is None and not (recording.updates and checked):
        return None
    report = magnitudes(*(value for _, value in checked), exact=len(exact))
    for variable, value in list(recording.updates.items()):
        old = Symbol(recording, recording.variables[variable])
        recording.updates[variable] = recording.lift(where(report[0], Symbol(recording, value), old)).node
    return recording.lift(report), Guard([name for name, _ in checked], len(exact))


def slopes_used(recording: Trace, slopes: Sequence[Node]) -> tuple[dict[Node, int], set[Node]]:
    """Return for each node that updates need the slopes that it is computed from, as a bit set; and which nodes depend
    on an argument of the program.
    """
    bit = {slope: 1 << i for i, slope in enumerate(slopes)}
    used: dict[Node, int] = {}
    varies: set[Node] = set()
    for node in order(recording.updates.values()):
        if node in recording.arguments or not varies.isdisjoint(node.inputs):
            varies.add(node)
        # what a slope is computed from does not count
        used[node] = bit[node] if node in bit else functools.reduce(int.__or__, (used[x] for x in node.inputs), 0)
    return used, varies
