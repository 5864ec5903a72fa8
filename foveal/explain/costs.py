"""What layers cost, from shapes alone: parameters with their formula, multiply-adds, bytes, the memory a run will
take.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from typing import Any

from foveal.arena import plan_arena
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.graph import Graph, Node
from foveal.lower import lower
from foveal.ops.op import Type
from foveal.passes.fusion.fuse import fuse
from foveal.passes.layout import plan_layout
from foveal.passes.simplify import simplify
from foveal.schedule import schedule
from foveal.trace import tracing
from foveal.variable import Variable
from foveal.workers import threads_for

BYTES = 4  # of a float32
UNITS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))


@dataclass(frozen=True)
class LinearCost:
    """A fully connected layer from `inputs` to `outputs` numbers, counted without being built."""

    inputs: int
    outputs: int
    parameters: int
    formula: str

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.inputs * self.outputs

    @property
    def bytes(self) -> int:
        return BYTES * self.parameters

    def __str__(self) -> str:
        sizes = f"{in_words(self.parameters)} parameters, {size_in_words(self.bytes)}"
        return f"{sizes} ({self.formula} = {self.parameters:,})"


def linear_cost(input_shape: Sequence[int] | int, outputs: int, bias: bool = True) -> LinearCost:
    """What a Linear layer on values of `input_shape` (without the batch) would cost: (inputs + 1) * outputs parameters.

    Nothing is allocated: a layer from 3x1024x1024 to 1000 has 3.1 billion parameters, 12.6 GB.
    """
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if not shape or min(*shape, outputs, outputs) < 1:
        raise ShapeError(f"linear_cost: input_shape {shape} and outputs {outputs} have to be 1 or more in each place")
    inputs = prod(shape)
    text = "*".join(map(str, shape))
    formula = f"({text} + 1)*{outputs}" if bias else f"{text}*{outputs}"
    return LinearCost(inputs, outputs, (inputs + bias) * outputs, formula)


def in_words(count: int) -> str:
    """3,145,729,000 -> 3.1 billion"""
    for unit, word in UNITS:
        if count >= unit:
            return f"{count / unit:,.1f} {word}"
    return str(count)


def size_in_words(size: float) -> str:
    """Bytes in decimal units: 12.6 GB."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {word}"
    return f"{size:.0f} B"


def short(count: int) -> str:
    """A count in a table, three digits of it: 1.81G"""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            digits = 2 - min(len(str(count // unit)) - 1, 2)
            return f"{count / unit:.{digits}f}{letter}"
    return str(count)


def parameter_formula(variables: Sequence[tuple[str, Variable]]) -> str:
    """How a layer's count comes about: (3*3*3 + 1)*4 for 4 filters of 3x3 on 3 channels with biases.

    Any other layer: the products of its parameters' shapes.
    """
    shapes = {name: v.shape for name, v in variables}
    weight, bias = shapes.get("weight"), shapes.get("bias")
    if weight is not None and len(weight) > 1 and set(shapes) <= {"weight", "bias"}:
        outputs, inputs, *taps = weight
        inner = "*".join(map(str, (*taps, inputs)))
        if bias is None:
            return f"{inner}*{outputs}"
        if bias == (outputs,):
            return f"({inner} + 1)*{outputs}"
    terms = ["*".join(map(str, shape)) or "1" for shape in shapes.values()]
    if len(terms) > 1 and len(set(terms)) == 1:
        return f"{len(terms)}*{terms[0]}"
    return " + ".join(terms)


def macs_of(node: Node, expansion: Callable[[Node], Graph]) -> int:
    """Multiply-adds of the convolutions and matrix products in an operator; everything else counts nothing."""
    if node.op is None:
        return 0
    count = node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes) // 2
    if count or not node.op.composite:
        return count
    return sum(macs_of(inner, expansion) for inner in expansion(node).nodes)


def macs_formula(node: Node) -> str | None:
    """taps * channels * filters * outputs of a convolution, inputs * outputs of a linear layer."""
    assert node.op is not None
    shapes = [x.shape for x in node.inputs]
    if node.op.name == "conv2d":
        (N, K, P, Q), (_, C, R, S) = node.shape, shapes[1]
        terms = (R, S, C, K, P, Q, *([N] if N > 1 else []))
    elif node.op.name == "linear":
        terms = (shapes[1][1], shapes[1][0], *([shapes[0][0]] if shapes[0][0] > 1 else []))
    else:
        return None
    return "*".join(map(str, terms))


@dataclass(frozen=True)
class Memory:
    """Bytes that Foveal will hold at once for activations, and gradients in training: its plan, not a guess.

    training: None where the model cannot be trained on such a batch, for the reason `refused`.
    """

    inference: int
    training: int | None
    refused: str = ""


def planned(model: Any, image: Type) -> Memory:
    """Lay out one forward pass, and one training step without an optimiser's state; nothing is compiled."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        least = arena(inference(model, image))
        try:
            return Memory(least, arena(training(model, image)))
        except ShapeError as error:
            return Memory(least, None, str(error))
    finally:
        for module, mode in modes:
            module.training = mode


def inference(model: Any, image: Type) -> Graph:
    model.eval()
    with tracing() as recording:
        return recording.graph([first_of(model(recording.argument(image, "x")))])


def training(model: Any, image: Type) -> Graph:
    """Forward, gradients of the sum of all outputs, and p - g in the place of each parameter."""
    model.train()
    with tracing() as recording:
        x = recording.argument(image, "x")
        recording.key = recording.argument(Type((4,), "int32"), "key")
        outputs = all_of(model(x))
        loss = reduce(add, (y.sum() for y in outputs))
        parameters = [p for p in model.parameters() if p.trainable]
        slopes = gradients(loss, [recording.lift(p) for p in parameters])
        for p, slope in zip(parameters, slopes, strict=True):
            recording.assign(p, recording.lift(p) - slope)
        return recording.graph([loss, *outputs])


def first_of(result: Any) -> Any:
    """A model's main output, where it has several."""
    while isinstance(result, tuple | list):
        result = result[0]
    return result


def all_of(result: Any) -> list[Any]:
    """Everything a model returns that has a gradient, such as the outputs of auxiliary classifiers."""
    if isinstance(result, tuple | list):
        return [y for part in result for y in all_of(part)]
    return [result] if result.node.type.dtype == "float32" else []


def arena(graph: Graph) -> int:
    """Bytes of the block that a program would hold its temporary values in."""
    small = simplify(graph)
    groups = fuse(small)
    lowered = lower(small, groups, plan_layout(small, groups))
    return plan_arena(schedule(lowered.calls, small), lowered.outputs, threads_for(small)).size
