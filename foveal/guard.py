"""Nothing is written before it is known that all that will be written is finite.

A program that writes variables gets one more output, its report (ops.magnitudes): the largest magnitude of the loss, of
each gradient that its updates are computed from, and of what else variables are updated with, such as the statistics of
a batch. Every update is where(all are small enough, new value, old value), so a step that fails changes nothing.
The report is one pass over the gradients, after the last of them; up to then they are kept in memory.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveal.graph import Node, order
from foveal.ops import add, index, magnitudes, multiply, reshape, subtract, where
from foveal.strides import Ndarray
from foveal.trace import Symbol, Trace
from foveal.variable import Variable

# Gradients below have squares that are finite, with room for what an optimiser adds to them. An infinite square would
# stay in its averages for ever.
GRADIENT_LIMIT = 2.0**63
# What running statistics are updated with, below this, gives finite ones: it is averaged, and a variance is scaled by
# n / (n - 1).
STATISTICS_LIMIT = 2.0**120


@dataclass(frozen=True)
class Guard:
    """What a program that writes variables checks before."""

    #: what the magnitudes of its report belong to
    names: list[str]
    #: what each has to be below
    limits: list[float]

    def problem(self, report: Ndarray) -> str:
        """Return which value is the first that is NaN, infinite or too large, from what a run reported."""
        for name, largest, limit in zip(self.names, report[1:], self.limits, strict=True):
            if not np.isfinite(largest):
                return f"{name} is {largest}"
            if largest >= limit:
                return f"{name} reaches {largest:.3g}, too much for float32 to go on with: the limit is {limit:.3g}"
        raise AssertionError(f"the report {report} finds no fault")


def guard_updates(
    recording: Trace, loss: Symbol | None = None, gradients: Mapping[Variable, Symbol] | None = None, keep: bool = True
) -> tuple[Symbol, Guard] | None:
    """Let every update of the recording keep the old value unless all is finite; return the report and what it is of.

    The report is [1 + number of checked values]: 1 if all of them are small enough, then the largest magnitude of each.
    None if there is no loss and nothing that is updated can be other than finite.

    gradients: those that an optimiser was given, by parameter. What is computed from them is checked by them, every
    other new value by what it is computed from. keep: False where variables are written whatever the report finds, as
    early as that is possible, by a caller who drops or puts back what they hold.
    """
    gradients = gradients or {}
    used, varies = slopes_used(recording, [slope.node for slope in gradients.values()])
    exact = [] if loss is None else [("the loss", loss)]
    exact += recording.required
    # running statistics and the like: what no optimiser computes, by the value that decides whether it is finite
    sources: dict[Node, str] = {}
    for variable, value in recording.updates.items():
        if not used[value]:
            name = f"what {variable.name or 'a variable'} is updated with"
            sources = dict.fromkeys(sources_of(value, varies), name) | sources
    statistics = [(name, Symbol(recording, source)) for source, name in sources.items()]
    # the gradients that some update is computed from; those of frozen parameters are not
    needed = functools.reduce(int.__or__, (used[value] for value in recording.updates.values()), 0)
    slopes = [
        (f"the gradient of {p.name or 'a parameter'}", slope)
        for i, (p, slope) in enumerate(gradients.items())
        if needed >> i & 1
    ]
    checked = [*exact, *statistics, *slopes]
    if loss is None and not (recording.updates and checked):
        return None
    limits = (len(exact), math.inf), (len(statistics), STATISTICS_LIMIT), (len(slopes), GRADIENT_LIMIT)
    report = magnitudes(*(value for _, value in checked), limits=limits)
    # report[0] is 1 if all is small enough
    for variable, value in list(recording.updates.items()) if keep else ():
        old = Symbol(recording, recording.variables[variable])
        recording.updates[variable] = recording.lift(where(report[0], Symbol(recording, value), old)).node
    each = [limit for count, limit in limits for _ in range(count)]
    return recording.lift(report), Guard([name for name, _ in checked], each)


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


def sources_of(value: Node, varies: set[Node]) -> list[Node]:
    """Return the values that decide whether a new value is finite: what it is a sum of, up to constant factors.

    A running mean is (1 - share) old + share mean. It is checked by `mean`, which is in memory anyway, so that its
    update stays one kernel.
    """
    found: dict[Node, None] = {}
    stack = [value] if value in varies else []
    while stack:
        node = stack.pop()
        inputs = [x for x in node.inputs if x in varies]
        is_sum = node.op in (add, subtract) or (node.op is multiply and len(inputs) == 1)
        if is_sum or (node.op in (index, reshape) and inputs):
            stack += inputs
        else:
            found[node] = None
    return list(found)
