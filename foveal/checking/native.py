"""Compiled gradients in float32 beside those in float64, with a bound that follows from the graph's own roundings.

Each operator of the graph is taken to round as float32 does: an element that is a sum of n terms is off by about u
sqrt(n) times the sum of their absolute values, u = 2^-24 (Higham 2002, section 4.2, for errors that are independent).
The gradient is evaluated in float64 with every intermediate value moved by a random number of that size, several times;
how far it moves is what float32 may do to it, however the roundings pass through the graph.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from foveal.build import build
from foveal.checking.report import GradientRow
from foveal.graph import Graph, Node
from foveal.ops.reduce import Reduction
from foveal.passes.simplify import simplify
from foveal.strides import Ndarray

ROUNDING = 2.0**-24
# evaluations with random roundings, and how many times the largest of what they find is allowed: of 8 draws of a normal
# number the largest is about 1.4 standard deviations, and 8 times that is beyond all that happens
DRAWS, ALLOWED = 8, 8.0


class TracedGradient(Protocol):
    """What is compared: sources.Traced is one."""

    values: dict[Node, Ndarray]

    def gradient_graph(self) -> Graph:
        """The graph of the gradients; it updates nothing."""


def compare_native(traced: TracedGradient, rows: Sequence[GradientRow]) -> tuple[list[GradientRow], str]:
    """The rows, where those do not agree whose compiled gradient is off by more than the bound; and a line for each."""
    graph = simplify(traced.gradient_graph())
    given = {node: rounded(traced.values[node]) for node in (*graph.arguments, *graph.variables)}
    native = build(graph).run(*(single(given[node]) for node in graph.arguments))
    exact = evaluated(graph, given, None)
    moved = [evaluated(graph, given, np.random.default_rng(i)) for i in range(DRAWS)]
    checked, lines = [], []
    for i, row in enumerate(rows):
        if not exact[i].size:
            checked.append(row)
            continue
        error = float(np.max(abs(native[i] - exact[i])))
        spread = max(float(np.max(abs(draw[i] - exact[i]))) for draw in moved)
        bound = ALLOWED * spread + ROUNDING * float(np.max(abs(exact[i])))
        fits = error <= bound
        lines.append(
            f"  {row.name}: off by at most {error:.1e}, the bound is {bound:.1e}, the largest element is"
            f" {np.max(abs(exact[i])):.1e}{'' if fits else ': WRONG'}"
        )
        checked.append(replace(row, agrees=row.agrees and fits))
    return checked, "\n".join(["the compiled gradients, float32, beside float64:", *lines])


def evaluated(graph: Graph, given: dict[Node, Ndarray], rng: np.random.Generator | None) -> list[Ndarray]:
    """The outputs in float64; with a generator, every value is moved by what float32 may round it by."""
    values = dict(given)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node in values:
                continue
            assert node.op is not None
            inputs = [values[x] for x in node.inputs]
            y = np.asarray(node.op.numpy(*inputs, **node.attributes))
            if rng is not None and y.dtype.kind == "f" and node.inputs and node.op.differentiable and not node.op.view:
                y = y + ROUNDING * rounding(node, inputs, y) * rng.standard_normal(y.shape)
            values[node] = y
    return [np.asarray(values[node], np.float64) for node in graph.outputs]


def rounding(node: Node, inputs: Sequence[Ndarray], y: Ndarray) -> Ndarray:
    """What an element is rounded by, in units of ROUNDING: sqrt(terms) times the sum of their absolute values."""
    assert node.op is not None
    flops = node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes)
    sums = isinstance(node.op, Reduction) and node.op.name != "max"
    if not (flops or sums):
        return np.abs(y)
    terms = max(flops / 2, max(x.size for x in inputs)) / max(y.size, 1)
    found: Ndarray = np.sqrt(terms) * np.abs(node.op.numpy(*map(np.abs, inputs), **node.attributes))
    return found


def rounded(x: Ndarray) -> Ndarray:
    """Floats as they are in float32, in float64."""
    return x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x


def single(x: Ndarray) -> Ndarray:
    return x.astype(np.float32) if x.dtype.kind == "f" else x
