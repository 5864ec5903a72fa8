"""Tracing: a function called on symbols records a Graph, in which each operator call is a node."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from foveal.arrays.calls import CALLS
from foveal.errors import ShapeError
from foveal.graph import Graph, Node, order
from foveal.kinds import shown
from foveal.names import ARRAY_METHODS
from foveal.ops.op import OPS, Operand, Operator, Tensor, Type, current_recording, recording_with
from foveal.strides import Shape
from foveal.variable import Variable


class Symbol(Tensor):
    """The result of a node, while a function is traced: a Tensor that is known only by its type."""

    def __init__(self, trace: "Trace", node: Node) -> None:
        self.trace, self.node = trace, node

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.node.type.dtype)

    def __getattr__(self, name: str) -> Any:
        # Only what does not exist gets here, such as other methods of PyTorch's tensors.
        other = ARRAY_METHODS.get(name) or (f"ops.{name}(x)" if name in CALLS else None)
        raise AttributeError(
            f"a traced value has no {name!r}; "
            + (f"write {other}" if other else "operators are functions of foveal.ops, such as ops.exp(x)")
        )

    def __repr__(self) -> str:
        return f"Symbol({self.node.type})"


@dataclass(eq=False)
class LayerCall:
    """What one call of a layer recorded."""

    #: the module; None for the call that encloses all others
    layer: object = None
    #: what it was called on
    input: Any = None
    #: the operators that the layer called itself, and the calls of its inner layers, in order
    parts: list[Union[Node, "LayerCall"]] = field(default_factory=list)
    #: what the layer returned, in the form in which it returned it
    result: Any = None


def calls_within(call: LayerCall) -> Iterator[LayerCall]:
    """Yield the calls of layers within a call, inner ones before outer ones, then the call itself."""
    for part in call.parts:
        if isinstance(part, LayerCall):
            yield from calls_within(part)
    yield call


class Trace:
    """A recording in progress."""

    def __init__(self) -> None:
        self.arguments: list[Node] = []
        self.variables: dict[Variable, Node] = {}
        self.updates: dict[Variable, Node] = {}
        # values that have to be finite for the updates to be carried out, with their names for messages
        self.required: list[tuple[str, Symbol]] = []
        # of the layer that is being traced
        self.call = LayerCall()
        # how many random operators have been recorded
        self.random_operators = 0
        # (seed, step) for random operators, if the program has them
        self.key: Symbol | None = None
        # the losses that were called, each with its target and the shape of the output
        self.losses: list[tuple[Any, Symbol, Shape]] = []
        # what the loss of this shard counts in that of its batch, where batch norms normalise all shards of the batch
        # as one (ops/between_shards.py)
        self.shard_weight: float | None = None
        # what forward hooks are to see when the program has run; None where they see symbols (nn/hooks.py)
        self.observed: list[Any] | None = None

    def argument(self, kind: Type, name: str) -> Symbol:
        """Add an argument of the traced function."""
        node = Node(None, (), {}, kind, name=name)
        self.arguments.append(node)
        return Symbol(self, node)

    def lift(self, value: Operand) -> Symbol:
        """Return a symbol for an operand: a symbol of this trace, a variable (its updated value, if any), or a number.

        Raises ShapeError for other arrays, and for symbols of another trace.
        """
        if isinstance(value, Symbol):
            if value.trace is not self:
                raise ShapeError(
                    "a traced value of one function is used in another function; pass it in as an argument"
                )
            return value
        if isinstance(value, Variable):
            if value not in self.variables:
                node = Node(None, (), {}, Type(value.shape), variable=value, name=value.name)
                self.variables[value] = node
            # What was assigned to it in this trace counts, as if the update had been carried out.
            return Symbol(self, self.updates.get(value, self.variables[value]))
        if isinstance(value, int | float | np.floating | np.integer):
            try:
                return self.record(OPS["constant"], (), {"value": float(value)})
            except OverflowError:
                raise ShapeError(f"a traced function uses {shown(value)}, which is beyond float32") from None
        if value is None:
            raise ShapeError("a traced function returned None, or uses it as an array; end it with `return`")
        raise ShapeError(
            f"a traced function uses an array of type {type(value).__name__} that is no argument of it;"
            " pass it in, or hold it in a foveal.Variable"
        )

    def record(self, op: Operator, inputs: tuple[Operand, ...], attributes: dict[str, Any]) -> Symbol:
        """Add a node for an operator called on operands."""
        nodes = tuple([self.lift(x).node for x in inputs])
        made = Node(op, nodes, attributes, op.type_of(tuple([node.type for node in nodes]), attributes))
        self.call.parts.append(made)
        return Symbol(self, made)

    @contextmanager
    def calling(self, layer: object) -> Iterator[LayerCall]:
        """Inside the block, what is recorded belongs to this call of `layer`."""
        outer, inner = self.call, LayerCall(layer)
        outer.parts.append(inner)
        self.call = inner
        try:
            yield inner
        finally:
            self.call = outer

    def assign(self, variable: Variable, value: Operand) -> None:
        """Let `variable` hold `value` after the program has run. Later uses in this trace see the new value."""
        symbol = self.lift(value)
        self.lift(variable)
        if symbol.shape != variable.shape:
            raise ShapeError(f"{variable} cannot be updated with a value of shape {symbol.shape}")
        self.updates[variable] = symbol.node

    def require_finite(self, what: str, value: Tensor) -> None:
        """Let the program update nothing unless `value` is finite; `what` names it in the error (see guard.py)."""
        self.required.append((what, self.lift(value)))

    def stream(self) -> int:
        """Return the number of the next random operator, so that no two draw the same numbers."""
        self.random_operators += 1
        return self.random_operators - 1

    def graph(self, outputs: Sequence[Symbol]) -> Graph:
        """Return what was recorded, without nodes that no output and no update needs."""
        nodes = [symbol.node for symbol in outputs]
        inputs = (*self.arguments, *self.variables.values())
        results = (*nodes, *self.updates.values())
        return Graph(order(results, inputs), tuple(self.arguments), tuple(nodes), tuple(self.updates.items())).verify()


@contextmanager
def tracing() -> Iterator[Trace]:
    """Inside the block, operators that this thread calls are recorded in the Trace it yields."""
    recording = Trace()
    with recording_with(recording):
        yield recording


def current() -> Trace:
    """Return the recording in progress. Raises ShapeError outside of one."""
    recording = current_recording()
    if not isinstance(recording, Trace):
        raise ShapeError(
            "variables are used outside of a traced function; call the model on an array, or use foveal.compile"
        )
    return recording


def trace(function: Callable[..., Operand | Sequence[Operand]], *types: Type, names: Sequence[str] = ()) -> Graph:
    """Return the graph of `function`, called on symbols of the given types. It returns one output or a sequence."""
    names = names or [f"x{i}" for i in range(len(types))]
    with tracing() as recording:
        arguments = [recording.argument(t, name) for t, name in zip(types, names, strict=True)]
        outputs = function(*arguments)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return recording.graph([recording.lift(output) for output in outputs])
