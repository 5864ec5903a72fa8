"""Folding batch norm into the layer before it, for inference: with known statistics it is a scale and a shift.

gamma (w * x + b - mean) / sigma + beta = (w gamma / sigma) * x + (b - mean) gamma / sigma + beta, with sigma =
sqrt(var + eps): Jacob et al. 2018, equation 14, here without quantisation. (nn.Fold is another thing: columns into
images.)
"""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

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
from foveal.structure import flattened
from foveal.trace import LayerCall, Symbol, Trace, tracing
from foveal.variable import Variable

Foldable = Conv2d | Linear


@dataclass(frozen=True)
class Use:
    """One call of a layer or batch norm while the model was traced: the node it read and the node it returned."""

    module: Module
    input: Node
    output: Node


def fold_batch_norm(model: Module, shape: Shape | Sequence[Shape]) -> Module:
    """Return a copy of the model, for inference, without the batch norms that directly follow a layer.

    shape: of an input, such as (1, 3, 224, 224); of several inputs a list of shapes. The model is traced once on it, to
    see which layer's result goes to which batch norm. A batch norm is folded if it has running statistics and reads the
    result of a Conv2d or Linear, nothing else reads that result, and both are called once, have parameters of their own
    and no hooks; Identity takes its place. All other batch norms stay as they are. The outputs of the copy differ by
    rounding. Train the model, not the copy.

    Raises ShapeError for a shape that does not fit, and for models that return anything but arrays.
    """
    folded = copy.deepcopy(model).eval()
    with tracing() as recording:
        shapes = [s for s in shape if not isinstance(s, int)] or [cast(Shape, shape)]
        outputs = folded(*(recording.argument(Type(tuple(s)), f"x{i}") for i, s in enumerate(shapes)))
        reads = count_reads(recording, outputs)
    uses = list(foldable_uses(recording.call))
    shared = shared_variables(folded)
    for layer, norm in foldable_pairs(uses, reads):
        if not shared & {id(v) for m in (layer, norm) for _, v in m.parts()}:
            fold_into(layer, norm)
            replace_by_identity(folded, norm)
    return folded


def foldable_uses(call: LayerCall) -> Iterator[Use]:
    """The calls of convolutions, linear layers and batch norms inside of `call`, in their order."""
    for part in call.parts:
        if not isinstance(part, LayerCall):
            continue
        layer, x, y = part.layer, part.input, part.result
        # A hook may have put something in the place of what the layer computed.
        plain = isinstance(layer, Foldable | BatchNorm2d) and not layer._hooks
        if plain and isinstance(x, Symbol) and isinstance(y, Symbol):
            yield Use(cast(Module, layer), x.node, y.node)
        yield from foldable_uses(part)


def count_reads(recording: Trace, outputs: object) -> Counter[Node]:
    """How often each node is read by others; an output of the model counts as read once, by the caller."""
    results, _ = flattened(outputs)
    symbols = [y for y in results if isinstance(y, Symbol)]
    if len(symbols) != len(results):
        kinds = ", ".join(type(y).__name__ for y in results)
        raise ShapeError(
            f"fold_batch_norm: the model has to return arrays, in tuples, lists or dicts, it returned {kinds}"
        )
    graph = recording.graph(symbols)
    return Counter([x for user in graph.nodes for x in user.inputs] + list(graph.outputs))


def shared_variables(model: Module) -> set[int]:
    """The ids of the variables that more than one layer has."""
    modules = dict.fromkeys(module for _, module in model.named_modules())
    holders = Counter(id(v) for m in modules for _, v in m.parts() if isinstance(v, Variable))
    return {v for v, count in holders.items() if count > 1}


def foldable_pairs(uses: list[Use], reads: Counter[Node]) -> Iterator[tuple[Foldable, BatchNorm2d]]:
    """(layer, the batch norm that alone reads its result), where both are used once."""
    # which layer computed a node
    origin = {use.output: use.module for use in uses if isinstance(use.module, Foldable)}
    for use in uses:
        norm, layer = use.module, origin.get(use.input)
        if not isinstance(norm, BatchNorm2d) or not norm.track_running_stats or not isinstance(layer, Foldable):
            continue
        if reads[use.input] == 1 and used_once(layer, reads) and used_once(norm, reads):
            yield layer, norm


def used_once(module: Module, reads: Counter[Node]) -> bool:
    """True if no parameter or statistic of the module is read twice, by a second call of it or by anything else."""
    variables = {v for _, v in module.parts() if isinstance(v, Variable)}
    return all(count == 1 for node, count in reads.items() if node.variable in variables)


def fold_into(layer: Foldable, norm: BatchNorm2d) -> None:
    """Change the layer's weight and bias so that it returns what the norm makes of its result; computed in float64."""
    one, zero = np.ones(norm.num_features), np.zeros(norm.num_features)

    def double(variable: Variable | None, otherwise: Ndarray) -> Ndarray:
        return otherwise if variable is None else variable.data.astype(np.float64)

    # [K] each; the weight is [K, C, R, S], [K, C, S] or [K, C]
    scale = double(norm.weight, one) / np.sqrt(double(norm.running_var, one) + norm.eps)
    shift = (double(layer.bias, zero) - double(norm.running_mean, zero)) * scale
    weight = double(layer.weight, one)
    layer.weight.data = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    layer.bias = Parameter(shift + double(norm.bias, zero))


def replace_by_identity(model: Module, norm: Module) -> None:
    """Put Identity in the place of the norm, wherever the model has it."""
    for _, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if child is norm:
                setattr(module, name, Identity())
