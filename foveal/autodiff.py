"""Gradients: walk a graph backwards and add each operator's vjp. What comes out is more graph, not a second
mechanism.
"""

from collections.abc import Sequence
from typing import Any

from foveal.errors import ShapeError
from foveal.graph import Node, order
from foveal.ops.op import Operator
from foveal.trace import Symbol


def gradients(y: Symbol, wrt: Sequence[Symbol], dy: Any = None) -> list[Symbol]:
    """d y / d x for each x in `wrt`, as symbols of the same trace. y is a scalar, unless `dy` is given."""
    if dy is None and y.shape != ():
        raise ShapeError(f"the gradient of a value of shape {y.shape} needs dy; sum it to a scalar first")
    sums = walk(y, {x.node for x in wrt}, y.trace.lift(1.0 if dy is None else dy))
    return [sums[x.node] if x.node in sums else y.trace.lift(x * 0.0) for x in wrt]


def walk(y: Symbol, wanted: set[Node], dy: Symbol, ends: bool = False) -> dict[Node, Symbol]:
    """The gradient in each node between y and the wanted ones; with `ends`, not in what those are computed from."""
    trace, nodes = y.trace, order([y.node])
    needed: set[Node] = set()
    for node in nodes:
        if node in wanted or any(x in needed for x in node.inputs):
            needed.add(node)
    sums: dict[Node, Any] = {y.node: dy}
    for node in reversed(nodes):
        if node not in needed or node not in sums or node.op is None or not node.op.differentiable:
            continue
        if ends and node in wanted:
            continue
        found = vjp(Symbol(trace, node), sums[node])
        for x, dx in zip(node.inputs, found, strict=True):
            if dx is not None and x in needed:
                sums[x] = sums[x] + dx if x in sums else dx
    return sums


def vjp(y: Symbol, dy: Any) -> Sequence[Any]:
    """The operator's own, or for a composite without one, that of what it expands to."""
    node = y.node
    assert node.op is not None
    inputs = [Symbol(y.trace, x) for x in node.inputs]
    if not node.op.composite or type(node.op).vjp is not Operator.vjp:
        return node.op.vjp(dy, y, *inputs, **node.attributes)
    sums = walk(node.op.expand(*inputs, **node.attributes), set(node.inputs), dy, ends=True)
    return [sums.pop(x, None) for x in node.inputs]  # an input given twice has its sum once
