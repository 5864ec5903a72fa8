"""What layers cost, from shapes alone: parameters with their formula, multiply-adds, bytes, and planned memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add
from typing import Annotated

from foveal.arena import plan_arena
from foveal.autodiff import gradients
from foveal.errors import ShapeError
from foveal.explain.model import Model, float_outputs, main_output, modes_restored, trains
from foveal.graph import Graph, Node
from foveal.guard import guard_updates
from foveal.kinds import name_kind
from foveal.lower import lower
from foveal.ops.op import Type
from foveal.passes.fusion.fuse import fuse
from foveal.passes.layout import plan_layout
from foveal.passes.simplify import simplify
from foveal.scheduling import schedule
from foveal.trace import tracing
from foveal.variable import Variable
from foveal.workers import threads_for

# The sizes of one image, without the batch; one number for a vector.
InputShape = Annotated[Sequence[int] | int, "of one image"]
name_kind(InputShape, "the sizes of one image without the batch, such as (3, 224, 224)", Sequence[int] | int)

# Bytes of a float32.
BYTES = 4
UNITS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"))


@dataclass(frozen=True)
class LinearCost:
    """The cost of a fully connected layer from `inputs` to `outputs` numbers, counted without building it."""

    inputs: int
    outputs: int
    parameters: int
    # How `parameters` is computed, such as (3*32*32 + 1)*10.
    formula: str

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.inputs * self.outputs

    @property
    def bytes(self) -> int:
        """Bytes of the parameters."""
        return BYTES * self.parameters

    def __str__(self) -> str:
        sizes = f"{in_words(self.parameters)} parameters, {size_in_words(self.bytes)}"
        return f"{sizes} ({self.formula} = {self.parameters:,})"


def linear_cost(input_shape: InputShape, outputs: int, bias: bool = True) -> LinearCost:
    """Return what a Linear layer on values of `input_shape` (without the batch) would cost.

    It has (inputs + 1) * outputs parameters, or inputs * outputs without a bias. Nothing is allocated: a layer from
    3x1024x1024 to 1000 has 3.1 billion parameters, which take 12.6 GB. Raises ShapeError for sizes below 1.
    """
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if not shape or min(*shape, outputs, outputs) < 1:
        raise ShapeError(f"linear_cost: input_shape {shape} and outputs {outputs} have to be 1 or more in each place")
    inputs = prod(shape)
    text = "*".join(map(str, shape))
    formula = f"({text} + 1)*{outputs}" if bias else f"{text}*{outputs}"
    return LinearCost(inputs, outputs, (inputs + bias) * outputs, formula)


def in_words(count: int) -> str:
    """Return a count with its unit as a word: 3,145,729,000 becomes 3.1 billion."""
    for unit, word in UNITS:
        if count >= unit:
            return f"{count / unit:,.1f} {word}"
    return str(count)


def size_in_words(size: float) -> str:
    """Return a number of bytes in decimal units: 12.6 GB."""
    for unit, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {word}"
    return f"{size:.0f} B"


def short(count: int) -> str:
    """Return three digits of a count and a letter for its unit: 1.81G."""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            digits = 2 - min(len(str(count // unit)) - 1, 2)
            return f"{count / unit:.{digits}f}{letter}"
    return str(count)


def parameter_formula(variables: Sequence[tuple[str, Variable]]) -> str:
    """Return how a layer's number of parameters is computed, as an expression.

    A layer with weights and biases, such as 4 filters of 3x3 on 3 channels: (3*3*3 + 1)*4. Any other layer: the sum of
    the products of its parameters' shapes.
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
    """Return the multiply-adds of the convolutions and matrix products in an operator; nothing else is counted.

    expansion: returns the graph that a composite operator consists of.
    """
    if node.op is None:
        return 0
    count = node.op.flops(node.type, *(x.type for x in node.inputs), **node.attributes) // 2
    if count or not node.op.composite:
        return count
    return sum(macs_of(inner, expansion) for inner in expansion(node).nodes)


def macs_formula(node: Node) -> str | None:
    """Return how a node's multiply-adds are computed, as an expression; None for an operator without a formula.

    Convolution: taps * channels * filters * outputs. Linear layer: inputs * outputs.
    """
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
    """Bytes that a program will hold at once for its temporary values: what its memory plan says, not an estimate."""

    inference: int
    # Activations and gradients of a training step; None if the model cannot be trained on such a batch.
    training: int | None
    # Why it cannot be trained.
    refused: str = ""


def planned_memory(model: Model, image: Type) -> Memory:
    """Plan the memory of one forward pass, and of one training step without an optimiser's state.

    image: the type of the batch, [N, C, H, W]. Nothing is compiled and nothing of this size is allocated.
    """
    with modes_restored(model):
        inference = arena_bytes(inference_graph(model, image))
        try:
            return Memory(inference, arena_bytes(training_graph(model, image)))
        except ShapeError as error:
            return Memory(inference, None, str(error))


def inference_graph(model: Model, image: Type) -> Graph:
    """Trace the model in evaluation mode up to its first output."""
    model.eval()
    with tracing() as recording:
        output = main_output(model(recording.argument(image, "x")))
        assert output is not None, "a traced model returns tensors"
        return recording.graph([output])


def training_graph(model: Model, image: Type) -> Graph:
    """Trace a training step: forward, gradients of the sum of all outputs, and the update p - g of each parameter."""
    model.train()
    with tracing() as recording:
        x = recording.argument(image, "x")
        # What random layers draw from: seed and step.
        recording.key = recording.argument(Type((4,), "int32"), "key")
        outputs = float_outputs(model(x))
        loss = recording.lift(reduce(add, (y.sum() for y in outputs)))
        parameters = [p for p in model.parameters() if trains(p)]
        slopes = gradients(loss, [recording.lift(p) for p in parameters])
        for p, slope in zip(parameters, slopes, strict=True):
            recording.assign(p, recording.lift(p) - slope)
        guarded = guard_updates(recording, loss, dict(zip(parameters, slopes, strict=True)))
        return recording.graph([loss, *outputs, *([guarded[0]] if guarded else [])])


def arena_bytes(graph: Graph) -> int:
    """Return the bytes of the block in which a program would hold its temporary values."""
    simplified = simplify(graph)
    groups = fuse(simplified)
    lowered = lower(simplified, groups, plan_layout(simplified, groups))
    return plan_arena(schedule(lowered.calls, simplified), lowered.outputs, threads_for(simplified)).size
