"""Batch norm with known statistics is a scale and a shift: folded into the layer before it, for inference.

gamma (w * x + b - mean) / sigma + beta = (w gamma / sigma) * x + (b - mean) gamma / sigma + beta, with sigma =
sqrt(var + eps): Jacob et al. 2018, equation 14, here without quantisation.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.graph import Node
from foveal.nn.container import Identity
from foveal.nn.conv import Conv2d
from foveal.nn.linear import Linear
from foveal.nn.module import Module, Parameter
from foveal.nn.norm import BatchNorm2d
from foveal.ops.op import Type
from foveal.strides import Ndarray, Shape
from foveal.trace import Symbol, Trace, tracing
from foveal.variable import Variable

Call = tuple[Module, Node, Node]  # a layer, what it was given, what it gave


@dataclass
class Watch:
    """Which nodes layers were given and gave while a model was traced."""

    calls: list[Call] = field(default_factory=list)

    def watched(self, module: Module) -> Callable[[Any], Any]:
        forward = module.forward

        def called(x: Any) -> Any:
            y = forward(x)
            if isinstance(x, Symbol) and isinstance(y, Symbol):
                self.calls.append((module, x.node, y.node))
            return y

        return called

    @contextmanager
    def over(self, modules: list[Module]) -> Iterator[None]:
        """While the block runs, the forward of each of the modules is noted."""
        for module in modules:
            module.__dict__["forward"] = self.watched(module)
        try:
            yield
        finally:
            for module in modules:
                del module.__dict__["forward"]


def fold_batch_norm(model: Module, shape: Shape) -> Module:
    """A copy of the model, for inference, that computes the same without the batch norms that follow a layer directly.

    shape: of an input, such as (1, 3, 224, 224): the model is traced once to see which layer's result goes to which
    batch
    norm. Folded is a batch norm with running statistics that reads the result of a Conv2d or Linear, where nobody else
    reads it and both are called once, with parameters of their own; in its place stands Identity. All others stay as
    they
    are. The copy's outputs differ by rounding. Train the model, not the copy.
    """
    folded = copy.deepcopy(model).eval()
    watch = Watch()
    layers = [m for _, m in folded.named_modules() if isinstance(m, Conv2d | Linear | BatchNorm2d)]
    with tracing() as recording, watch.over(list(dict.fromkeys(layers))):
        x = recording.argument(Type(tuple(shape)), "x")
        outputs = folded(x)
        nodes = reading(recording, outputs)
    shared = shared_variables(folded)
    for layer, norm in pairs(watch.calls, nodes):
        if not shared & {id(v) for m in (layer, norm) for v in vars(m).values()}:
            fold_into(layer, norm)
            replace(folded, norm)
    return folded


def reading(recording: Trace, outputs: Any) -> dict[Node, int]:
    """How often each node is read, an output of the model once by the caller."""
    symbols = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if not all(isinstance(y, Symbol) for y in symbols):
        raise ShapeError("fold_batch_norm: the model has to give arrays, one or a tuple of them")
    counts: dict[Node, int] = {}
    graph = recording.graph(symbols)
    for node in [x for user in graph.nodes for x in user.inputs] + list(graph.outputs):
        counts[node] = counts.get(node, 0) + 1
    return counts


def shared_variables(model: Module) -> set[int]:
    """Variables that more than one layer has."""
    modules = dict.fromkeys(module for _, module in model.named_modules())
    found = [id(v) for m in modules for v in vars(m).values() if isinstance(v, Variable)]
    return {v for v in found if found.count(v) > 1}


def pairs(calls: list[Call], reads: dict[Node, int]) -> Iterator[tuple[Any, BatchNorm2d]]:
    """(layer, the batch norm that alone reads its result), where both are called once."""
    times = [module for module, _, _ in calls]
    made = {y: module for module, _, y in calls if not isinstance(module, BatchNorm2d)}
    for norm, x, _ in calls:
        layer = made.get(x)
        if not isinstance(norm, BatchNorm2d) or not norm.track_running_stats or layer is None:
            continue
        if times.count(norm) == times.count(layer) == 1 and reads[x] == 1:
            yield layer, norm


def fold_into(layer: Any, norm: BatchNorm2d) -> None:
    """The layer's weight and bias such that it gives what the norm would make of its result; computed in float64."""
    one, zero = np.ones(norm.num_features), np.zeros(norm.num_features)

    def double(variable: Any, otherwise: Ndarray) -> Ndarray:
        return otherwise if variable is None else variable.data.astype(np.float64)

    scale = double(norm.weight, one) / np.sqrt(double(norm.running_var, one) + norm.eps)
    shift = (double(layer.bias, zero) - double(norm.running_mean, zero)) * scale
    weight = double(layer.weight, one)
    layer.weight.data = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer.bias = Parameter(shift + double(norm.bias, zero))


def replace(model: Module, norm: Module) -> None:
    """Identity in the place of the norm, wherever the model has it."""
    for _, module in list(model.named_modules()):
        for name, child in list(module.children()):
            if child is norm:
                setattr(module, name, Identity())
