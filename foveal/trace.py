"""Calling a function on symbols records a Graph."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from foveal.errors import ShapeError
from foveal.graph import Graph, Node, order
from foveal.ops.op import OPS, Operator, Tensor, Type, current_recording, recording_with
from foveal.strides import Shape
from foveal.variable import Variable


class Symbol(Tensor):
    """The result of a node, while a function is traced: a Tensor that is known only by its type."""

    def __init__(self, trace: "Trace", node: Node) -> None:
        self.trace, self.node = trace, node

    @property
    def shape(self) -> Shape:
        return self.node.shape

    def __repr__(self) -> str:
        return f"Symbol({self.node.type})"


@dataclass(eq=False)
class Call:
    """A layer's part of a trace: the operators it called itself and the calls of its own layers, in order.

    layer: the module, None for what encloses all. result: what it returned, as it returned it.
    """

    layer: Any = None
    parts: list[Union[Node, "Call"]] = field(default_factory=list)
    result: Any = None


class Trace:
    """A recording in progress."""

    def __init__(self) -> None:
        self.arguments: list[Node] = []
        self.variables: dict[Variable, Node] = {}
        self.updates: dict[Variable, Node] = {}
        self.call = Call()  # of the layer that is being traced
        self.randomness = 0
        # (seed, step) for random operators, where the program has it
        self.key: Symbol | None = None

    def argument(self, kind: Type, name: str) -> Symbol:
        node = Node(None, (), {}, kind, name=name)
        self.arguments.append(node)
        return Symbol(self, node)

    def lift(self, value: Any) -> Symbol:
        """A symbol for anything that may stand as an operand: symbol, variable or number."""
        if isinstance(value, Symbol):
            if value.trace is not self:
                raise ShapeError("a symbol of one traced function is used in another")
            return value
        if isinstance(value, Variable):
            if value not in self.variables:
                node = Node(None, (), {}, Type(value.shape), variable=value, name=value.name)
                self.variables[value] = node
            return Symbol(self, self.updates.get(value, self.variables[value]))
        if isinstance(value, int | float | np.floating | np.integer):
            return self.record(OPS["constant"], (), {"value": float(value)})
        raise ShapeError(
            f"a traced function uses an array of type {type(value).__name__} that is no argument of it;"
            " pass it in, or hold it in a foveal.Variable"
        )

    def record(self, op: Operator, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Symbol:
        nodes = tuple(self.lift(x).node for x in inputs)
        kind = op.type(*(node.type for node in nodes), **attributes)
        made = Node(op, nodes, attributes, kind)
        self.call.parts.append(made)
        return Symbol(self, made)

    @contextmanager
    def calling(self, layer: Any) -> Iterator[Call]:
        """What is recorded inside the block belongs to this call of `layer`."""
        outer, inner = self.call, Call(layer)
        outer.parts.append(inner)
        self.call = inner
        try:
            yield inner
        finally:
            self.call = outer

    def assign(self, variable: Variable, value: Any) -> None:
        """When the program has run, `variable` holds `value`; later uses in this trace see it at once."""
        symbol = self.lift(value)
        self.lift(variable)
        if symbol.shape != variable.shape:
            raise ShapeError(f"{variable} cannot be updated with a value of shape {symbol.shape}")
        self.updates[variable] = symbol.node

    def stream(self) -> int:
        """A number for the next random operator, so that no two draw the same numbers."""
        self.randomness += 1
        return self.randomness - 1

    def graph(self, outputs: Sequence[Symbol]) -> Graph:
        """What was recorded, less what nothing needs."""
        nodes = [symbol.node for symbol in outputs]
        inputs = (*self.arguments, *self.variables.values())
        results = (*nodes, *self.updates.values())
        return Graph(order(results, inputs), tuple(self.arguments), tuple(nodes), tuple(self.updates.items())).verify()


@contextmanager
def tracing() -> Iterator[Trace]:
    """Functions called inside the block are recorded in the Trace it gives."""
    recording = Trace()
    with recording_with(recording):
        yield recording


def current() -> Trace:
    """The recording in progress."""
    recording = current_recording()
    if not isinstance(recording, Trace):
        raise ShapeError(
            "variables are used outside of a traced function; call the model on an array, or use foveal.compile"
        )
    return recording


def trace(function: Callable[..., Any], *types: Type, names: Sequence[str] = ()) -> Graph:
    """Record `function` called on symbols of the given types; it returns a symbol or a sequence of them."""
    names = names or [f"x{i}" for i in range(len(types))]
    with tracing() as recording:
        arguments = [recording.argument(t, name) for t, name in zip(types, names, strict=True)]
        outputs = function(*arguments)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return recording.graph([recording.lift(output) for output in outputs])
