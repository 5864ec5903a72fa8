"""A traced model in evaluation mode as ONNX: one node per operator, parameters as initializers in ONNX's layouts."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from foveal.errors import FovealError
from foveal.graph import Graph, Node
from foveal.strides import Ndarray

onnx: Any = import_module("onnx")
OPSET, IR = 20, 9  # the first opset with Gelu

Attributes = Mapping[str, Any]


class Writer:
    """ONNX nodes and initializers as they come to be; a value's name stands for it."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, array: Ndarray) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def pads(padding: tuple[int, int, int, int]) -> list[int]:
    """(top, bottom, left, right) in ONNX's order."""
    top, bottom, left, right = padding
    return [top, left, bottom, right]


def conv2d(to: Writer, x: str, w: str, **how: Any) -> str:
    return to.node(
        "Conv", x, w, strides=how["stride"], pads=pads(how["padding"]), dilations=how["dilation"], group=how["groups"]
    )


def batch_norm(to: Writer, x: str, mean: str, var: str, gamma: str, beta: str, *, eps: float) -> str:
    return to.node("BatchNormalization", x, gamma, beta, mean, var, epsilon=eps)


WINDOW = {"kernel_shape": "kernel_size", "strides": "stride", "dilations": "dilation"}


def pool(kind: str) -> Callable[..., str]:
    def write(to: Writer, x: str, **how: Any) -> str:
        window = {key: how[name] for key, name in WINDOW.items()}
        if kind == "AveragePool":  # all of the padding counts, or none
            window["count_include_pad"] = int(any(how["counted"]))
        return to.node(kind, x, **window, pads=pads(how["padding"]))

    return write


def clip(to: Writer, x: str, *, low: float, high: float) -> str:
    return to.node("Clip", x, to.constant(np.float32(low)), to.constant(np.float32(high)))  # type: ignore[arg-type]


def reshape(writer: Writer, x: str, *, shape: tuple[int, ...]) -> str:
    return writer.node("Reshape", x, writer.constant(np.array(shape, np.int64)))


WRITERS: dict[str, Callable[..., str]] = {
    "conv2d": conv2d,
    "batch_norm_inference": batch_norm,
    "max_pool2d": pool("MaxPool"),
    "avg_pool2d": pool("AveragePool"),
    "global_avg_pool2d": lambda to, x: to.node("GlobalAveragePool", x),
    "reshape": reshape,
    "linear": lambda to, x, w: to.node("Gemm", x, w, transB=1),
    "add": lambda to, a, b: to.node("Add", a, b),
    "multiply": lambda to, a, b: to.node("Mul", a, b),
    "relu": lambda to, x: to.node("Relu", x),
    "clip": clip,
    "gelu": lambda to, x: to.node("Gelu", x),
}


def model(graph: Graph) -> Any:
    """The graph's ONNX model, with inputs x0, x1, ... in the order of its arguments."""
    to, names = Writer(), {node: f"x{i}" for i, node in enumerate(graph.arguments)}

    def name(node: Node) -> str:
        if node not in names:
            names[node] = stored(to, node) or written(to, node, [name(x) for x in node.inputs])
        return names[node]

    for node in graph.nodes:  # in order, so that no call of `name` goes deep
        if node.op is not None:
            name(node)
    value = onnx.helper.make_tensor_value_info
    inputs = [value(names[n], onnx.TensorProto.FLOAT, n.shape) for n in graph.arguments]
    outputs = [value(names[n], onnx.TensorProto.FLOAT, n.shape) for n in graph.outputs]
    body = onnx.helper.make_graph(to.nodes, "foveal", inputs, outputs, to.initializers)
    opset = onnx.helper.make_opsetid("", OPSET)
    made = onnx.helper.make_model(body, opset_imports=[opset], ir_version=IR)
    onnx.checker.check_model(made)
    return made


def stored(to: Writer, node: Node) -> str | None:
    """The initializer of a parameter, also of a reshaped one, or of a constant; None for what is computed."""
    if node.variable is not None:
        return to.constant(np.array(node.variable.data, np.float32, order="C"))
    if node.op is not None and node.op.name == "constant":
        return to.constant(np.array(node.attributes["value"], np.float32))
    if node.op is not None and node.op.name == "reshape" and node.inputs[0].variable is not None:
        return to.constant(np.array(node.inputs[0].variable.data, np.float32).reshape(node.shape))
    return None


def written(to: Writer, node: Node, inputs: list[str]) -> str:
    """The name of a node's value, after adding what computes it."""
    assert node.op is not None
    if node.op.name not in WRITERS:
        raise FovealError(f"the operator {node.op} has no counterpart in ONNX here")
    return WRITERS[node.op.name](to, *inputs, **node.attributes)
