"""Writes a traced model in evaluation mode as ONNX: a node per operator, parameters as initializers."""

from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import numpy as np
import onnx

from foveal.errors import FovealError
from foveal.graph import Graph, Node
from foveal.strides import Ndarray

# The first opset with Gelu, and the version of the file format that belongs to it.
OPSET, IR = 20, 9

# The value of an attribute of an ONNX node.
Attribute = str | int | float | Sequence[int]


class ConvAttributes(TypedDict):
    """Attributes of conv2d. Padding is (top, bottom, left, right)."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int


class PoolAttributes(TypedDict, total=False):
    """Attributes of poolings."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    # Of average pooling: on which sides the padding counts.
    counted: tuple[bool, ...]


class Writer:
    """Collects ONNX nodes and initializers. Values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, array: Ndarray) -> str:
        """Add an initializer; return its name."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Attribute) -> str:
        """Add a node of one output; return its name."""
        name = f"v{len(self.nodes)}"
        node = onnx.helper.make_node(kind, list(inputs), [name])
        node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return name


def pads(padding: tuple[int, int, int, int]) -> list[int]:
    """Return (top, bottom, left, right) in ONNX's order."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def conv2d(writer: Writer, x: str, w: str, **attributes: Unpack[ConvAttributes]) -> str:
    """Write a convolution."""
    return writer.node(
        "Conv",
        x,
        w,
        strides=attributes["stride"],
        pads=pads(attributes["padding"]),
        dilations=attributes["dilation"],
        group=attributes["groups"],
    )


def batch_norm(writer: Writer, x: str, mean: str, var: str, gamma: str, beta: str, *, eps: float) -> str:
    """Write batch norm with known statistics."""
    return writer.node("BatchNormalization", x, gamma, beta, mean, var, epsilon=eps)


def pool(kind: str) -> Callable[..., str]:
    """Return a function that writes poolings of an ONNX kind."""

    def write(writer: Writer, x: str, **attributes: Unpack[PoolAttributes]) -> str:
        window: dict[str, Attribute] = {
            "kernel_shape": attributes["kernel_size"],
            "strides": attributes["stride"],
            "dilations": attributes["dilation"],
            "pads": pads(attributes["padding"]),
        }
        # In ONNX all of the padding counts, or none.
        if kind == "AveragePool":
            window["count_include_pad"] = int(any(attributes["counted"]))
        return writer.node(kind, x, **window)

    return write


def clip(writer: Writer, x: str, *, low: float, high: float) -> str:
    """Write limits, which are inputs of the node in ONNX."""
    limits = [writer.constant(np.array(limit, np.float32)) for limit in (low, high)]
    return writer.node("Clip", x, *limits)


def reshape(writer: Writer, x: str, *, shape: tuple[int, ...]) -> str:
    """Write a reshape, whose shape is an input of the node in ONNX."""
    return writer.node("Reshape", x, writer.constant(np.array(shape, np.int64)))


# By operator: (writer, names of inputs, attributes) -> name of the output.
WRITERS: dict[str, Callable[..., str]] = {
    "conv2d": conv2d,
    "batch_norm_inference": batch_norm,
    "max_pool2d": pool("MaxPool"),
    "avg_pool2d": pool("AveragePool"),
    "global_avg_pool2d": lambda writer, x: writer.node("GlobalAveragePool", x),
    "reshape": reshape,
    "linear": lambda writer, x, w: writer.node("Gemm", x, w, transB=1),
    "add": lambda writer, a, b: writer.node("Add", a, b),
    "multiply": lambda writer, a, b: writer.node("Mul", a, b),
    "relu": lambda writer, x: writer.node("Relu", x),
    "clip": clip,
    "gelu": lambda writer, x: writer.node("Gelu", x),
}


def model(graph: Graph) -> onnx.ModelProto:
    """Return the graph as an ONNX model, with inputs x0, x1, ... in the order of its arguments.

    Raises FovealError for an operator without a counterpart.
    """
    writer, names = Writer(), {node: f"x{i}" for i, node in enumerate(graph.arguments)}

    def name(node: Node) -> str:
        """Return the name of a node's value, and write the node when it is first asked for."""
        if node not in names:
            names[node] = stored(writer, node) or computed(writer, node, [name(x) for x in node.inputs])
        return names[node]

    # Nodes are in order, so that no call of `name` recurses deeply.
    for node in graph.nodes:
        if node.op is not None:
            name(node)
    value = onnx.helper.make_tensor_value_info
    inputs = [value(names[n], onnx.TensorProto.FLOAT, n.shape) for n in graph.arguments]
    outputs = [value(names[n], onnx.TensorProto.FLOAT, n.shape) for n in graph.outputs]
    body = onnx.helper.make_graph(writer.nodes, "foveal", inputs, outputs, writer.initializers)
    opset = onnx.helper.make_opsetid("", OPSET)
    onnx_model = onnx.helper.make_model(body, opset_imports=[opset], ir_version=IR)
    onnx.checker.check_model(onnx_model)
    return onnx_model


def stored(writer: Writer, node: Node) -> str | None:
    """Return the initializer of a parameter, also of a reshaped one, or of a constant; None for other nodes."""
    if node.variable is not None:
        return writer.constant(np.array(node.variable.data, np.float32, order="C"))
    if node.op is not None and node.op.name == "constant":
        return writer.constant(np.array(node.attributes["value"], np.float32))
    if node.op is not None and node.op.name == "reshape" and node.inputs[0].variable is not None:
        return writer.constant(np.array(node.inputs[0].variable.data, np.float32).reshape(node.shape))
    return None


def computed(writer: Writer, node: Node, inputs: list[str]) -> str:
    """Write a node whose inputs have these names; return the name of its output."""
    assert node.op is not None
    if node.op.name not in WRITERS:
        raise FovealError(f"the operator {node.op} has no counterpart in ONNX here")
    return WRITERS[node.op.name](writer, *inputs, **node.op.arguments(**node.attributes))
