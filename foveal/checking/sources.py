"""What gradients are checked of: functions written with operators, and functions of NumPy with a backward of their own.

Both become Quantities: the arrays that gradients are taken in, the gradients by the rule that is checked, and the value
of the function, a number, where one of these arrays is another one.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.api import as_argument, call
from foveal.autodiff import gradients
from foveal.checking.differences import total
from foveal.checking.report import GradientRow
from foveal.errors import ArgumentError, FovealError, ShapeError
from foveal.graph import Graph, Node, order
from foveal.handover import check_finite
from foveal.kinds import Refused, numbers_array, shown
from foveal.ops import sum as sum_of
from foveal.ops.op import Operator, Type
from foveal.ops.shape import constant
from foveal.strides import Ndarray
from foveal.structure import flattened
from foveal.trace import Symbol, Trace, tracing
from foveal.variable import Variable

# Values of nodes in float64.
Values = dict[Node, Ndarray]


@dataclass(frozen=True)
class Quantity:
    """Something that a gradient is taken in: an argument or a parameter."""

    name: str
    #: float64
    array: Ndarray
    #: of its shape, by the rule that is checked
    gradient: Ndarray
    #: the value of the whole function where this quantity is another array
    value: Callable[[Ndarray], float]


class Traced:
    """A function written with operators: its graph and that of its gradients, evaluated by NumPy in float64."""

    def __init__(self, f: Callable[..., Any], arguments: Sequence[object], rng: np.random.Generator) -> None:
        # a network names its parameters when it is asked for them
        if hasattr(f, "parameters") and not isinstance(f, type):
            f.parameters()
        names = argument_names(f, len(arguments))
        arrays = [as_array(x, name) for x, name in zip(arguments, names, strict=True)]
        self.values: Values = {}
        self.skipped: list[GradientRow] = []
        with tracing() as recording:
            recording.key = recording.argument(Type((4,), "int32"), "key")
            self.values[recording.key.node] = np.array([*rng.integers(0, 1 << 31, 2), 0, 0], np.int32)
            symbols = []
            for x, name in zip(arrays, names, strict=True):
                symbols.append(recording.argument(Type(x.shape, "float32" if x.dtype.kind == "f" else "int32"), name))
                self.values[symbols[-1].node] = x
            self.outputs = outputs_of(f, symbols, arrays)
            self.wrt = self.differentiated(symbols, recording)
            # what the outputs are weighted with: 1 for a number, whose own gradient is meant
            self.weights: list[Symbol] = []
            for i, y in enumerate(self.outputs):
                weight = recording.argument(Type(y.shape), f"dy{i}")
                drawn = rng.standard_normal(y.shape) if y.shape else np.ones(())
                self.values[weight.node] = drawn.astype(np.float32).astype(np.float64)
                self.weights.append(weight)
            value = sum(sum_of(y * w) for y, w in self.pairs())
            slopes = gradients(recording.lift(value), [Symbol(recording, node) for node in self.wrt])
            self.slopes = [slope.node for slope in slopes]
            # Nothing is run that would update running statistics.
            recording.updates.clear()
            self.graph = recording.graph(slopes)
        self.forward = order([y.node for y in self.outputs])
        evaluate(self.forward, self.values)
        for i, y in enumerate(self.outputs):
            check_finite(self.values[y.node], f"output {i} of {name_of(f)}")

    def differentiated(self, symbols: Sequence[Symbol], recording: Trace) -> list[Node]:
        """The nodes that gradients are taken in; takes note of the others. Parameters get their values in float64."""
        found = []
        for symbol in symbols:
            if symbol.node.type.dtype == "float32":
                found.append(symbol.node)
            else:
                self.skipped.append(GradientRow(symbol.node.name, symbol.shape, skipped="integers have no gradient"))
        for variable, node in recording.variables.items():
            self.values[node] = variable.data.astype(np.float64)
            # running statistics are not trained: a batch norm's rule leaves them out
            if getattr(variable, "trainable", type(variable) is Variable):
                found.append(node)
            elif hasattr(variable, "trainable"):
                self.skipped.append(GradientRow(node.name, node.shape, skipped="not trained"))
        return found

    def quantities(self) -> list[Quantity]:
        """What gradients are taken in, with the gradients by the operators' rules."""
        values = dict(self.values)
        evaluate(order(self.slopes), values)
        return [
            Quantity(node.name or f"parameter {i}", self.values[node], np.asarray(values[slope], np.float64), value)
            for i, (node, slope) in enumerate(zip(self.wrt, self.slopes, strict=True))
            for value in [self.moved(node)]
        ]

    def gradient_graph(self) -> Graph:
        return self.graph

    def magnitude(self) -> float:
        """The size of the terms that the value is a sum of."""
        terms = (np.sum(abs(self.values[y.node] * self.values[w.node])) for y, w in self.pairs())
        return float(sum(terms))

    def pairs(self) -> list[tuple[Symbol, Symbol]]:
        return list(zip(self.outputs, self.weights, strict=True))

    def moved(self, node: Node) -> Callable[[Ndarray], float]:
        """The value of the function where a node has another value: what depends on it is computed again."""
        depends = {node}
        again = []
        for n in self.forward:
            if not depends.isdisjoint(n.inputs):
                depends.add(n)
                again.append(n)

        def value(array: Ndarray) -> float:
            values = self.values | {node: array}
            for n in again:
                values.pop(n)
            evaluate(again, values)
            return float(sum(np.sum(values[y.node] * values[w.node]) for y, w in self.pairs()))

        return value


def evaluate(nodes: Sequence[Node], values: Values) -> None:
    """Compute the values of the nodes that have none, each after its inputs, in the precision of its inputs."""
    with np.errstate(all="ignore"):
        for node in nodes:
            if node in values:
                continue
            assert node.op is not None
            if node.op is constant:
                values[node] = np.array(node.attributes["value"], np.float64)
                continue
            inputs = [values[x] for x in node.inputs]
            y = values[node] = np.asarray(node.op.numpy(*inputs, **node.attributes))
            if not node.op.of_package and y.dtype == np.float32 and any(x.dtype == np.float64 for x in inputs):
                raise ArgumentError(
                    f"{node.op}: numpy() returned float32 for float64 inputs; differences need float64, so leave out"
                    " the conversion inside of it"
                )


def outputs_of(f: Callable[..., Any], symbols: Sequence[Symbol], arrays: Sequence[Ndarray]) -> list[Symbol]:
    """What f returns for traced arguments, as a list. Raises ArgumentError for a function of NumPy."""
    try:
        found, _ = flattened(call(f, symbols))
    except (FovealError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(f, Operator) or hasattr(f, "parameters") or not computes_with_numpy(f, arrays):
            raise
        raise ArgumentError(
            f"gradcheck: {name_of(f)} computes with NumPy, which has no gradients of its own; give the function that"
            " does, gradcheck(f, ..., backward=...), or call foveal.numeric_gradient(f, x), or write it with"
            f" foveal.ops ({error})"
        ) from error
    wrong = next((y for y in found if not isinstance(y, Symbol)), None)
    if wrong is not None or not found:
        raise ArgumentError(
            f"gradcheck: {name_of(f)} returned {shown(wrong)}; it has to return arrays computed from its arguments by"
            " operators"
        )
    floats = [y for y in found if y.node.type.dtype == "float32"]
    if not floats:
        raise ArgumentError(f"gradcheck: {name_of(f)} returns integers, which have no gradient")
    return floats


def computes_with_numpy(f: Callable[..., Any], arrays: Sequence[Ndarray]) -> bool:
    """True if f can be called on arrays, where a call on traced values failed."""
    try:
        numbers_array(f(*(x.copy() for x in arrays)))
    except Exception:
        return False
    return True


class NumpyPair:
    """A function of NumPy and its backward."""

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        arguments: Sequence[object],
        rng: np.random.Generator,
    ) -> None:
        self.forward, self.backward = forward, backward
        self.names, self.arguments = argument_names(forward, len(arguments)), list(arguments)
        self.skipped: list[GradientRow] = []
        # the places of what gradients are taken in
        self.floats: dict[int, Ndarray] = {}
        for i, (x, name) in enumerate(zip(arguments, self.names, strict=True)):
            array = None if isinstance(x, bool | int | float | str | Mapping) or not is_array(x) else np.array(x)
            if array is None:
                self.skipped.append(GradientRow(name, (), skipped="no array"))
            elif array.dtype.kind != "f":
                self.skipped.append(GradientRow(name, array.shape, skipped="integers have no gradient"))
            else:
                check_finite(array, f"argument {name}")
                self.arguments[i] = self.floats[i] = array.astype(np.float64)
        if not self.floats:
            raise ArgumentError(f"gradcheck: {name_of(forward)} is given no array of floats, so there is no gradient")
        check_call(forward, arguments)
        y, _ = self.output()
        check_finite(y, f"the output of {name_of(forward)}")
        if not np.array_equal(y, self.output()[0], equal_nan=True):
            raise ArgumentError(
                f"gradcheck: {name_of(forward)} gives another output when it is called again on the same arguments;"
                " give random numbers a seed inside of it"
            )
        self.dy: Ndarray = np.asarray(rng.standard_normal(y.shape) if y.shape else 1.0)
        self.size = float(np.sum(abs(y * self.dy)))

    def output(self, changed: Mapping[int, Ndarray] | None = None) -> tuple[Ndarray, tuple[object, ...]]:
        """The output, and the cache if there is one; `changed` replaces arguments. Each call gets copies."""
        values = [*self.arguments]
        for i, x in {**self.floats, **(changed or {})}.items():
            values[i] = x.copy()
        # What cannot be computed is NaN or infinite, as in programs.
        with np.errstate(all="ignore"):
            found = self.forward(*values)
        y, cache = (found[0], tuple(found[1:])) if isinstance(found, tuple) and len(found) > 1 else (found, ())
        total(y)
        return np.asarray(y, np.float64), cache

    def quantities(self) -> list[Quantity]:
        """What gradients are taken in, with the gradients by `backward`."""
        # An object may keep what its backward needs, so the function is called right before.
        _, cache = self.output()
        arguments = [self.floats[i].copy() if i in self.floats else x for i, x in enumerate(self.arguments)]
        # A backward may write into dy, as `dy[x < 0] = 0` does.
        slopes = call_backward(self.backward, self.dy.copy() if self.dy.shape else 1.0, cache, arguments)
        wanted = [(self.names[i], x) for i, x in self.floats.items()]
        arrays = checked_slopes(slopes, self.backward, wanted)
        return [
            Quantity(self.names[i], x, slope, self.moved(i))
            for (i, x), slope in zip(self.floats.items(), arrays, strict=True)
        ]

    def magnitude(self) -> float:
        """The size of the terms that the value is a sum of."""
        return self.size

    def moved(self, i: int) -> Callable[[Ndarray], float]:
        """The value of the function where argument i is another array."""
        return lambda array: float(np.sum(self.output({i: array})[0] * self.dy))


def check_call(f: Callable[..., Any], arguments: Sequence[object]) -> None:
    """Raise ArgumentError where a function does not take these arguments."""
    try:
        inspect.signature(f).bind(*arguments)
    except TypeError as error:
        raise ArgumentError(f"gradcheck: {name_of(f)} is called on {len(arguments)} argument(s): {error}") from None
    except ValueError:
        # Some functions that are built into Python do not say what they take.
        pass


def call_backward(
    backward: Callable[..., Any], dy: object, cache: tuple[object, ...], arguments: Sequence[object]
) -> list[object]:
    """What `backward` returns, as a list: called on dy and the cache, on dy and the arguments, or on dy alone."""
    copies = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
    ways: list[tuple[object, ...]] = [(dy, *cache)] if cache else [(dy, *copies), (dy,)]
    if len(cache) > 1:
        ways.append((dy, cache))
    for way in ways:
        try:
            inspect.signature(backward).bind(*way)
        except TypeError:
            continue
        except ValueError:
            pass
        with np.errstate(all="ignore"):
            found = backward(*way)
        if isinstance(found, Mapping):
            return list(found.values())
        return list(found) if isinstance(found, tuple | list) else [found]
    wanted = "(dy, cache)" if cache else "(dy, *arguments) or backward(dy)"
    raise ArgumentError(
        f"gradcheck: {name_of(backward)} cannot be called as backward{wanted}, as the function returned"
        f" {'a cache' if cache else 'an output without a cache'}"
    )


def checked_slopes(
    slopes: Sequence[object], backward: Callable[..., Any], wanted: Sequence[tuple[str, Ndarray]]
) -> list[Ndarray]:
    """The gradients as float64 arrays. Raises ArgumentError where there are not as many as arrays of floats, and
    ShapeError where one has another shape.
    """
    # Some return None for what has no gradient.
    slopes = [slope for slope in slopes if slope is not None]
    if len(slopes) != len(wanted):
        names = ", ".join(name for name, _ in wanted)
        raise ArgumentError(
            f"gradcheck: {name_of(backward)} returned {len(slopes)} gradient(s), but there are {len(wanted)} arrays of"
            f" floats ({names}); return one for each, in this order"
        )
    arrays = []
    for slope, (name, x) in zip(slopes, wanted, strict=True):
        array = np.asarray(slope)
        if array.shape != x.shape or array.dtype.kind not in "fiu":
            raise ShapeError(
                f"gradcheck: {name_of(backward)} returned {shown(slope)} as the gradient in {name}, which has shape"
                f" {x.shape}; a gradient has the shape of what it is taken in"
            )
        arrays.append(array.astype(np.float64))
    return arrays


def is_array(x: object) -> bool:
    try:
        numbers_array(x)
    except Refused:
        return False
    return True


def as_array(x: object, name: str) -> Ndarray:
    """An argument as float64, or as int32 where it is of integers."""
    try:
        array: Ndarray = numbers_array(x)
    except Refused:
        raise ArgumentError(
            f"gradcheck: argument {name} is {shown(x)}, it has to be an array of numbers; put options into the"
            " function, as in gradcheck(lambda x: f(x, option), x)"
        ) from None
    if array.dtype.kind == "f":
        check_finite(array, f"argument {name}")
        # no masked array or matrix
        return np.array(array, np.float64)
    return as_argument(array, f"argument {name}", labels=True)


def argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """The names of the first arguments of a function, a layer or an operator."""
    try:
        parameters = list(inspect.signature(getattr(f, "forward", f)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return [*named, *(f"argument {i}" for i in range(len(named), count))]


def name_of(f: object) -> str:
    """What a report calls a function, a layer or an operator."""
    if isinstance(f, Operator):
        return f.name
    name = getattr(f, "__qualname__", type(f).__name__)
    return "the function" if "<lambda>" in name else name.split("<locals>.")[-1]
