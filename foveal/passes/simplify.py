"""Expand composites into primitives, fold constants, share equal nodes. Graph -> Graph."""

from collections.abc import Callable
from typing import Any

import numpy as np

from foveal.graph import Graph, Node
from foveal.ops import elementwise
from foveal.ops import shape as moves
from foveal.ops.op import OPS, Operator, Tensor, recording_with
from foveal.trace import Symbol, Trace


def simplify(graph: Graph) -> Graph:
    """The same function in primitives, each computed once, without what nothing needs."""
    rewriter = Rewriter(graph)
    with recording_with(rewriter):
        made: dict[Node, Symbol] = {}
        for node in graph.nodes:
            if node.op is None:
                made[node] = Symbol(rewriter, node)
            else:
                inputs = tuple(made[x] for x in node.inputs)
                made[node] = rewriter.record(node.op, inputs, dict(node.attributes))
        rewriter.updates = {v: made[node].node for v, node in graph.updates}
        return rewriter.graph([made[node] for node in graph.outputs])


def number(symbol: Symbol) -> float | None:
    """The value of a constant."""
    node = symbol.node
    return node.attributes["value"] if node.op is moves.constant else None


class Rewriter(Trace):
    """Records a graph anew: what is recorded before is found again instead of being repeated."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.arguments = list(graph.arguments)
        self.variables = {n.variable: n for n in graph.variables if n.variable is not None}
        self.known: dict[Any, Symbol] = {}

    def record(self, op: Operator, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Symbol:
        symbols = tuple(self.lift(x) for x in inputs)
        key = (op.name, tuple(s.node for s in symbols), tuple(sorted(attributes.items())))
        if key not in self.known:
            self.known[key] = self.simplest(op, symbols, attributes)
        return self.known[key]

    def simplest(self, op: Operator, inputs: tuple[Symbol, ...], attributes: dict[str, Any]) -> Symbol:
        if op.composite:
            return self.lift(op.expand(*inputs, **attributes))
        numbers = [number(x) for x in inputs]
        if isinstance(op, elementwise.Pointwise) and None not in numbers and numbers:
            value = op.numpy(*(np.float32(n) for n in numbers), **attributes)
            return self.lift(float(value))
        rule = RULES.get(op.name)
        found = rule(inputs, numbers, attributes) if rule else None
        return self.lift(found) if found is not None else super().record(op, inputs, attributes)


Rule = Callable[[tuple[Symbol, ...], list[float | None], dict[str, Any]], Tensor | None]


def neutral(position: int, value: float) -> Callable[[tuple[Symbol, ...], list[float | None]], Symbol | None]:
    """op(a, b) = a where b, at `position`, is `value`."""

    def apply(inputs: tuple[Symbol, ...], numbers: list[float | None]) -> Symbol | None:
        return inputs[1 - position] if numbers[position] == value else None

    return apply


def either(*checks: Any) -> Rule:
    def rule(inputs: tuple[Symbol, ...], numbers: list[float | None], _: dict[str, Any]) -> Tensor | None:
        return next((found for check in checks if (found := check(inputs, numbers)) is not None), None)

    return rule


def same_shape(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    return inputs[0] if inputs[0].shape == attributes["shape"] else None


def whole(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """All of an axis is the array itself."""
    return inputs[0] if inputs[0].shape[attributes["axis"]] == attributes["length"] else None


def alone(inputs: tuple[Symbol, ...], *_: Any) -> Symbol | None:
    """One array beside no other is itself."""
    return inputs[0] if len(inputs) == 1 else None


def reshape_once(inputs: tuple[Symbol, ...], numbers: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """A reshape of a reshape is one reshape; one to the same shape is none."""
    source = inputs[0].node
    if source.op is moves.reshape:
        return moves.reshape(Symbol(inputs[0].trace, source.inputs[0]), **attributes)
    return same_shape(inputs, numbers, attributes)


def reduction(name: str) -> Rule:
    """Over axes of size 1 it is a reshape; kept axes are put back by a reshape, so that equal sums are found to be
    equal.
    """

    def rule(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
        (x,), axes = inputs, attributes["axes"]
        shape = OPS[name].shape(x.shape, **attributes)
        if all(x.shape[a] == 1 for a in axes):
            return moves.reshape(x, shape=shape)
        if attributes["keepdims"]:
            return moves.reshape(OPS[name](x, axes=axes, keepdims=False), shape=shape)
        return None

    return rule


RULES: dict[str, Rule] = {
    "add": either(neutral(1, 0.0), neutral(0, 0.0)),
    "subtract": either(neutral(1, 0.0)),
    "multiply": either(neutral(1, 1.0), neutral(0, 1.0)),
    "divide": either(neutral(1, 1.0)),
    "broadcast_to": same_shape,
    "reshape": reshape_once,
    "narrow": whole,
    "concatenate": alone,
    "sum": reduction("sum"),
    "max": reduction("max"),
}
