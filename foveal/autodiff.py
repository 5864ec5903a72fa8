"""Gradients: walk a graph backwards and add each operator's vjp. What comes out is more graph, not a second mechanism."""

from collections.abc import Sequence
from typing import Any

from foveal.errors import ShapeError
from foveal.graph import Node, order
from foveal.trace import Symbol


def gradients(y: Symbol, wrt: Sequence[Symbol], dy: Any = None) -> list[Symbol]:
    """d y / d x for each x in `wrt`, as symbols of the same trace. y is a scalar, unless `dy` is given."""
    if dy is None and y.shape != ():
        raise ShapeError(
            f"the gradient of a value of shape {y.shape} needs dy; sum it to a scalar first"
        )
    trace = y.trace
    wanted = {x.node for x in wrt}
    nodes = order([y.node])
    needed: set[Node] = set()
    for node in nodes:
        if node in wanted or any(x in needed for x in node.inputs):
            needed.add(node)
    sums: dict[Node, Any] = {y.node: trace.lift(1.0 if dy is None else dy)}
    for node in reversed(nodes):
        if node not in needed or node not in sums or node.op is None or not node.op.differentiable:
            continue
        inputs = [Symbol(trace, x) for x in node.inputs]
        found = node.op.vjp(sums[node], Symbol(trace, node), *inputs, **node.attributes)
        for x, dx in zip(node.inputs, found, strict=True):
            if dx is not None and x in needed:
                sums[x] = sums[x] + dx if x in sums else dx
    return [sums[x.node] if x.node in sums else x * 0.0 for x in wrt]
