"""Expand composites into primitives, fold constants, share equal nodes. Graph -> Graph."""

import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from foveal.graph import Graph, Node
from foveal.ops import elementwise
from foveal.ops import shape as moves
from foveal.ops.group_moments import group_norm_by_channels, group_norm_grad_by_channels
from foveal.ops.op import OPS, Operand, Operator, Tensor, recording_with
from foveal.ops.pool_max import keeps_places, max_pool2d_place, max_pool2d_put
from foveal.strides import Shape, contiguous, usual
from foveal.trace import Symbol, Trace

# Pixels of an image from which on group norm goes by channels. With fewer the sums of each image and channel would be a
# large part of the work.
MIN_PIXELS = 8


def simplify(graph: Graph, origins: dict[Node, Node] | None = None) -> Graph:
    """Return a graph of the same function in primitive operators, each value computed once, unused nodes left out.

    origins: gets the node of `graph` that each new node was made for, the first one where several need it.
    """
    rewriter = Rewriter(graph)
    with recording_with(rewriter):
        rewritten: dict[Node, Symbol] = {}
        for node in graph.nodes:
            if node.op is None:
                rewritten[node] = Symbol(rewriter, node)
            else:
                inputs, known = tuple(rewritten[x] for x in node.inputs), len(rewriter.call.parts)
                rewritten[node] = rewriter.record(node.op, inputs, dict(node.attributes))
                if origins is not None:
                    made = [part for part in rewriter.call.parts[known:] if isinstance(part, Node)]
                    origins.update(dict.fromkeys(made, node))
        rewriter.updates = {variable: rewritten[node].node for variable, node in graph.updates}
        return rewriter.graph([rewritten[node] for node in graph.outputs])


def constant_value(symbol: Symbol) -> float | None:
    """Return the value of a constant; None for anything else."""
    node = symbol.node
    return node.attributes["value"] if node.op is moves.constant else None


class Rewriter(Trace):
    """Records a graph anew. An operator that was recorded on the same inputs before gives the same symbol again."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.arguments = list(graph.arguments)
        self.variables = {node.variable: node for node in graph.variables if node.variable is not None}
        # by operator, inputs and attributes
        self.recorded: dict[Hashable, Symbol] = {}

    def record(self, op: Operator, inputs: tuple[Operand, ...], attributes: dict[str, Any]) -> Symbol:
        symbols = tuple([self.lift(x) for x in inputs])
        nodes = tuple([symbol.node for symbol in symbols])
        key: Hashable = (op, nodes, tuple(sorted(attributes.items())))
        if op is moves.constant:
            # Zeros of either sign are equal, but not what is divided by them.
            key = key, math.copysign(1.0, attributes["value"])
        if key not in self.recorded:
            self.recorded[key] = self.simplest(op, symbols, attributes)
        return self.recorded[key]

    def simplest(self, op: Operator, inputs: tuple[Symbol, ...], attributes: dict[str, Any]) -> Symbol:
        """Return the simplest form of an operator's result that is known."""
        constants, rule = [constant_value(x) for x in inputs], RULES.get(op.name)
        if op.composite:
            special = rule(inputs, constants, attributes) if rule else None
            return self.lift(op.expand(*inputs, **attributes) if special is None else special)
        if isinstance(op, elementwise.Pointwise) and None not in constants and constants:
            value = op.numpy(*(np.float32(n) for n in constants), **attributes)
            return self.lift(float(value))
        simpler = rule(inputs, constants, attributes) if rule else None
        return self.lift(simpler) if simpler is not None else super().record(op, inputs, attributes)


# A rule is called with the inputs, their values where they are constants, and the attributes. It returns a simpler
# result, or None if it knows none.
Rule = Callable[[tuple[Symbol, ...], list[float | None], dict[str, Any]], Tensor | None]


def neutral(value: float, *positions: int) -> Rule:
    """Return a rule for an operator of two inputs: op(a, value) = a, where `value` stands at one of the positions."""

    def rule(inputs: tuple[Symbol, ...], constants: list[float | None], _: dict[str, Any]) -> Tensor | None:
        return next((inputs[1 - position] for position in positions if constants[position] == value), None)

    return rule


def same_shape(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """An array in its own shape is the array itself."""
    return inputs[0] if inputs[0].shape == attributes["shape"] else None


def whole_axis(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """A slice of a whole axis is the array itself."""
    return inputs[0] if inputs[0].shape[attributes["axis"]] == attributes["length"] else None


def single_array(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """The concatenation of one array is the array itself."""
    return inputs[0] if len(inputs) == 1 else None


def reshape_once(
    inputs: tuple[Symbol, ...], constants: list[float | None], attributes: dict[str, Any]
) -> Tensor | None:
    """A reshape of a reshape is one reshape; one to the same shape is none."""
    source = inputs[0].node
    if source.op is moves.reshape:
        return moves.reshape(Symbol(inputs[0].trace, source.inputs[0]), **attributes)
    return same_shape(inputs, constants, attributes)


def reduction(name: str) -> Rule:
    """Return the rule of a reduction: over axes of size 1 it is a reshape, and it keeps no reduced axis.

    A reshape puts the kept axes back, so that two sums that differ in `keepdims` alone are found to be equal.
    """

    def rule(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
        (x,), axes = inputs, attributes["axes"]
        shape = OPS[name].shape(x.shape, **attributes)
        if all(x.shape[axis] == 1 for axis in axes):
            return moves.reshape(x, shape=shape)
        if attributes["keepdims"]:
            return moves.reshape(OPS[name](x, axes=axes, keepdims=False), shape=shape)
        return None

    return rule


def below_maximum(inputs: tuple[Symbol, ...], *_: object) -> Tensor | None:
    """The exponential of x - max(x) or of z - log(sum(exp(z))), which is not above 0, takes less than any other.

    z is an x - max(x) over the same axes, so that each sum is 1 or more.
    """
    difference = inputs[0].node
    if difference.op is not elementwise.subtract:
        return None
    x, limit = difference.inputs[0], without_reshapes(difference.inputs[1])
    if limit.op is elementwise.log:
        total = without_reshapes(limit.inputs[0])
        powers = total.inputs[0] if total.op is OPS["sum"] else None
        if powers is None or powers.op is not elementwise.exp_to_zero or powers.inputs[0] is not x:
            return None
        maximum = maximum_below(x)
        is_below = maximum is not None and maximum.attributes["axes"] == total.attributes["axes"]
    else:
        is_below = maximum_below(difference) is not None
    return elementwise.exp_to_zero(inputs[0]) if is_below else None


def maximum_below(difference: Node) -> Node | None:
    """The maximum in x - max(x), if each is subtracted from what it is the maximum of; None for anything else."""
    if difference.op is not elementwise.subtract:
        return None
    x, limit = difference.inputs
    maximum = without_reshapes(limit)
    is_own = maximum.op is OPS["max"] and maximum.inputs[0] is x and lies_along(limit, maximum)
    return maximum if is_own else None


def lies_along(node: Node, reduced: Node) -> bool:
    """True if broadcasting puts a reshaped reduction of x where its elements in x are.

    In x [N, N] the maxima over axis 1, without their axis, lie along columns.
    """
    (x,), axes = reduced.inputs, reduced.attributes["axes"]
    own = tuple(1 if axis in axes else n for axis, n in enumerate(x.shape))
    return (1,) * (len(own) - len(node.shape)) + node.shape == own


def without_reshapes(node: Node) -> Node:
    """The node that another one has the elements of, in another shape."""
    while node.op is moves.reshape:
        (node,) = node.inputs
    return node


def by_places(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """The gradient of a max pooling, from the places of the maxima, which are known after its forward pass.

    Where windows are few taps side by side, finding the maxima again costs less than writing and reading the places.
    """
    dy, x = inputs[:2]
    window = attributes["window"]
    if not keeps_places(window):
        return None
    places = max_pool2d_place(x, **window.arguments())
    return max_pool2d_put(dy, places, image_size=x.shape[2:], **window.arguments())


def by_channels(inputs: tuple[Symbol, ...], _: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """Group norm, or its gradient, of images that lie channels last: their pixels are summed channel by channel."""
    x = inputs[-1]
    N, C, *rest = x.shape
    if len(rest) not in (1, 2) or math.prod(rest) < MIN_PIXELS or not has_neighbouring_channels(x.node):
        return None
    # a sequence [N, C, L] is an image of one row
    shape = (N, C, *([1] * (2 - len(rest))), *rest)
    images: list[Tensor] = [moves.reshape(a, shape=shape) for a in inputs]
    if len(images) == 2:
        y = group_norm_grad_by_channels(images[0], images[1], **attributes)
    else:
        y = group_norm_by_channels(images[0], **attributes)
    return moves.reshape(y, shape=x.shape)


def as_groups(inputs: tuple[Symbol, ...], constants: list[float | None], attributes: dict[str, Any]) -> Tensor | None:
    """Layer norm of whole images, or instance norm, or the gradient of one of them, as group norm `by_channels`."""
    shape, axes = inputs[-1].shape, attributes["axes"]
    last = tuple(range(len(shape)))
    if len(shape) < 3 or axes not in (last[1:], last[2:]):
        return None
    groups = 1 if axes == last[1:] else shape[1]
    return by_channels(inputs, constants, {"groups": groups, "eps": attributes["eps"]})


def has_neighbouring_channels(x: Node) -> bool:
    """True if images or sequences x [N, C, ...] will lie channels last, as far as is known before layouts are planned.

    A pointwise result lies as its first input of the same shape, and what its operator chooses otherwise. An argument
    that is only viewed stays as it is given.
    """
    strides = expected_strides(x, contiguous(x.shape))
    return strides[1] == 1 < x.shape[1] and strides[-1] != 1


def expected_strides(x: Node, of_argument: Shape) -> Shape:
    """The strides that a node will have unless a reader needs others. of_argument: those of x if it is an argument."""
    while isinstance(x.op, elementwise.Pointwise) and not x.op.composite:
        alike = [operand for operand in x.inputs if operand.shape == x.shape and operand.op is not moves.constant]
        if not alike:
            break
        x, of_argument = alike[0], usual(x.shape)
    if x.variable is not None:
        return x.variable.strides
    if x.op is None:
        return of_argument
    if x.op.view:
        (source,) = x.inputs
        strides = expected_strides(source, contiguous(source.shape))
        found = x.op.view_strides(source.shape, strides, **x.attributes)
        return contiguous(x.shape) if found is None else found
    return x.op.strides(x.shape)


# By the operator's name. A rule of a composite gives another way to compute it than `expand` does.
RULES: dict[str, Rule] = {
    "add": neutral(0.0, 1, 0),
    "subtract": neutral(0.0, 1),
    "multiply": neutral(1.0, 1, 0),
    "divide": neutral(1.0, 1),
    "exp": below_maximum,
    "broadcast_to": same_shape,
    "reshape": reshape_once,
    "narrow": whole_axis,
    "concatenate": single_array,
    "sum": reduction("sum"),
    "max": reduction("max"),
    "max_pool2d_grad": by_places,
    "group_norm": by_channels,
    "group_norm_grad": by_channels,
    "standardize": as_groups,
    "standardize_grad": as_groups,
}
