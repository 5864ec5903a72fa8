"""Reverse-mode differentiation: walk a graph backwards and call each operator's vjp, which adds nodes to the trace."""

from collections.abc import Callable, Sequence

from foveal.errors import ShapeError
from foveal.graph import Node, order
from foveal.ops.elementwise import Pointwise
from foveal.ops.op import Operator, Tensor
from foveal.ops.own import checked_slopes
from foveal.ops.reduce import sum_to
from foveal.trace import Symbol


def gradients(y: Symbol, wrt: Sequence[Symbol], dy: Symbol | None = None) -> list[Symbol]:
    """d y / d x for each x in `wrt`, as symbols of the same trace, 0 where y does not depend on x.

    y is a scalar, unless `dy`, the gradient in y, is given.
    """
    slopes = gradients_where_read(y, wrt, dy)
    return [y.trace.lift(x * 0.0) if slope is None else slope for x, slope in zip(wrt, slopes, strict=True)]


def gradients_where_read(y: Symbol, wrt: Sequence[Symbol], dy: Symbol | None = None) -> list[Symbol | None]:
    """`gradients`, with None where y is not computed from x, or through operators without a gradient alone.

    This is a property of the graph: an x that y reads times 0 has a gradient, of value 0.
    """
    if dy is None and y.shape != ():
        raise ShapeError(f"the gradient of a value of shape {y.shape} needs dy; sum it to a scalar first")
    sums = walk(y, {x.node for x in wrt}, y.trace.lift(1.0 if dy is None else dy))
    return [y.trace.lift(sums[x.node]) if x.node in sums else None for x in wrt]


def walk(
    y: Symbol,
    wrt: set[Node],
    dy: Symbol,
    stop_at_wrt: bool = False,
    changed: Callable[[Node, Tensor], Tensor] | None = None,
) -> dict[Node, Tensor]:
    """The gradient in each node on the way from y back to those in `wrt`.

    stop_at_wrt: do not go on from these to what they are computed from. changed: returns what is passed on in place of
    the gradient in a node, as guided backpropagation does; not asked for what is inside of a composite.
    """
    trace, nodes = y.trace, order([y.node])
    # nodes that depend on one of wrt
    needed: set[Node] = set()
    for node in nodes:
        if node in wrt or any(x in needed for x in node.inputs):
            needed.add(node)
    # a node used several times adds up a gradient from each use; all of them come before it on the way back
    sums: dict[Node, Tensor] = {y.node: dy}
    for node in reversed(nodes):
        if node not in needed or node not in sums or node.op is None or not node.op.differentiable:
            continue
        if stop_at_wrt and node in wrt:
            continue
        passed = sums[node] if changed is None else changed(node, sums[node])
        for x, dx in zip(node.inputs, vjp(Symbol(trace, node), passed), strict=True):
            if dx is not None and x in needed:
                sums[x] = sums[x] + dx if x in sums else dx
    return sums


def vjp(y: Symbol, dy: Tensor) -> Sequence[Tensor | None]:
    """The gradient in each input of the operator that computes y, None where there is none.

    A composite without a vjp has the gradient of what it expands to.
    """
    node, trace = y.node, y.trace
    assert node.op is not None
    inputs = [Symbol(trace, x) for x in node.inputs]
    if not node.op.composite or type(node.op).vjp is not Operator.vjp:
        slopes = node.op.vjp(dy, y, *inputs, **node.attributes)
        pointwise = isinstance(node.op, Pointwise)
        if not node.op.of_package:
            slopes = checked_slopes(node.op, slopes, [None if pointwise else x.shape for x in inputs])
        if not pointwise:
            return slopes
        # the formulas are for one element: an input that was repeated sums up the gradients of its copies
        return [dx if dx is None else sum_to(dx, x.shape) for dx, x in zip(slopes, inputs, strict=True)]
    expanded = trace.lift(node.op.expand(*inputs, **node.attributes))
    sums = walk(expanded, set(node.inputs), trace.lift(dy), stop_at_wrt=True)
    # an input given twice has its sum once
    return [sums.pop(x, None) for x in node.inputs]
