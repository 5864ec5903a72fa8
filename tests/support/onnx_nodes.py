"""ONNX's node tests on Foveal's operators, natively: a function per operator type, and why the others are left out.

A function takes the node's attributes, its inputs (None for one left out) and the arrays it has to give (for their
number alone), and returns the outputs. test_onnx_nodes.py compares them.
"""

import json
import math
from collections.abc import Callable

import numpy as np
from shared import VECTORS

import foveal
from foveal import nn, ops
from foveal.variable import Variable

FOLDER = VECTORS / "onnx-node"

RUN: dict[str, Callable] = {}
LEFT_OUT = {  # operator types
    "ArgMax": "no such operator: classes are picked from the outputs in NumPy",
    "ConvInteger": "integer arithmetic",
    "DeformConv": "no deformable convolution",
    "MatMulInteger": "integer arithmetic",
}

OPTIMISERS = ("Adagrad", "Adam", "Momentum")  # test_optimisers.py runs these
ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad": 1e-3}  # published with four digits


def runs(name):
    """Marks the function that computes an operator type."""

    def mark(function):
        RUN[name] = function
        return function

    return mark


def load():
    """The tests' descriptions, [] where they are not at hand."""
    index = FOLDER / "index.json"
    listed = json.loads(index.read_text()) if index.is_file() else []
    return [test for test in listed if test["nodes"][0]["op_type"] not in OPTIMISERS]


def arrays(test):
    """(inputs, expected outputs) of a test, in the node's order."""
    (node,) = test["nodes"]
    with np.load(FOLDER / f"{test['name']}.npz") as stored:
        inputs = [stored[f"in:{name}"] if name else None for name in node["inputs"]]
        return inputs, [stored[f"out:{name}"] for name in node["outputs"] if name]


def reason(test):
    """Why a test is left out; None where it runs."""
    (node,) = test["nodes"]
    kind, attributes = node["op_type"], node["attrs"]
    if kind in LEFT_OUT:
        return LEFT_OUT[kind]
    dtypes = {dtype for dtype, _ in test["arrays"].values()}
    shape = test["arrays"].get(f"in:{node['inputs'][0]}", [None, []])[1]
    spatial = kind in WINDOWED
    if spatial and len(shape) == 5:
        return "three-dimensional images"
    if kind == "ReduceMax" and "bool" in dtypes:
        return "booleans"
    if kind == "ReduceMax" and 0 in shape:
        return "the largest of no elements is an error here"
    if kind == "MatMul" and any(len(s) != 2 for _, s in test["arrays"].values()):
        return "products of stacks of matrices"
    if kind == "MaxPool" and attributes.get("storage_order"):
        return "indices in column-major order"
    if test["name"] in ("test_onehot_negative_indices", "test_onehot_out_of_range_indices"):
        return "negative labels count from the end in ONNX; here they are errors"
    if test["name"] in RANDOM:
        return "which values are dropped depends on ONNX's generator"
    return None


WINDOWED = ("AveragePool", "Conv", "ConvTranspose", "LpPool", "MaxPool")
RANDOM = (
    "test_training_dropout",
    "test_training_dropout_default",
    "test_training_dropout_default_mask",
    "test_training_dropout_mask",
)


def native(function, *inputs):
    """`function`, compiled, of these arrays."""
    return np.asarray(foveal.compile(function)(*inputs))


def constant(array):
    """An array that a compiled function holds."""
    return Variable(np.asarray(array, np.float32))


def auto_pads(attributes, sizes, kernel, stride, dilation):
    """ONNX's (begin ..., end ...) padding, also where auto_pad says it."""
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        return attributes.get("pads", [0] * 2 * len(sizes))
    begin, end = [], []
    for n, k, u, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (math.ceil(n / u) - 1) * u + d * (k - 1) + 1 - n)
        less = total // 2
        begin.append(less if mode == "SAME_UPPER" else total - less)
        end.append(total - less if mode == "SAME_UPPER" else less)
    return begin + end


def as_images(x):
    """A sequence [N, C, L] as an image of one row."""
    return x[:, :, None] if x.ndim == 3 else x


def window(attributes, x, kernel):
    """stride, padding and dilation of a windowed operator on images (a sequence's row has none)."""
    rank = x.ndim - 2
    stride = attributes.get("strides", [1] * rank)
    dilation = attributes.get("dilations", [1] * rank)
    pads = auto_pads(attributes, x.shape[2:], kernel, stride, dilation)
    sides = [p for axis in range(rank) for p in (pads[axis], pads[axis + rank])]
    if rank == 1:
        stride, dilation, sides = [1, *stride], [1, *dilation], [0, 0, *sides]
    return {"stride": tuple(stride), "padding": tuple(sides), "dilation": tuple(dilation)}


def pooling(attributes, x):
    kernel = attributes["kernel_shape"]
    size = (1, *kernel) if len(kernel) == 1 else tuple(kernel)
    ceil = bool(attributes.get("ceil_mode", 0))
    return {"kernel_size": size, "ceil_mode": ceil, **window(attributes, x, kernel)}


def like(y, x):
    """y in the rank of x."""
    return y[:, :, 0] if x.ndim == 3 else y


# convolution


@runs("Conv")
def conv(attributes, inputs, _):
    x, w, *bias = inputs
    how = window(attributes, x, w.shape[2:]) | {"groups": attributes.get("group", 1)}
    y = native(lambda a, b: ops.conv2d(a, b, **how), as_images(x), as_images(w))
    return [like(y, x) + (bias[0].reshape(-1, *[1] * (x.ndim - 2)) if bias else 0)]


# pooling


@runs("MaxPool")
def max_pool(attributes, inputs, wanted):
    (x,) = inputs
    how, images = pooling(attributes, x), as_images(x.astype(np.float32))
    found = [native(lambda a: ops.max_pool2d(a, **how), images)]
    if len(wanted) == 2:
        places = native(lambda a: ops.max_pool2d_index(a, **how), images)
        planes = np.arange(np.prod(x.shape[:2])).reshape(*x.shape[:2], 1, 1)
        found.append(places + planes * np.prod(x.shape[2:]))  # ONNX counts through all images
    return [like(y, x) for y in found]


@runs("AveragePool")
def average_pool(attributes, inputs, _):
    (x,) = inputs
    how = pooling(attributes, x)
    how["count_include_pad"] = bool(attributes.get("count_include_pad", 0))
    return [like(native(lambda a: ops.avg_pool2d(a, **how), as_images(x)), x)]


@runs("LpPool")
def lp_pool(attributes, inputs, _):
    (x,) = inputs
    how = pooling(attributes, x) | {"norm_type": attributes.get("p", 2)}
    return [like(native(lambda a: ops.lp_pool2d(a, **how), as_images(x)), x)]


@runs("GlobalAveragePool")
def global_average_pool(attributes, inputs, _):
    return [native(ops.global_avg_pool2d, *inputs)]


@runs("GlobalMaxPool")
def global_max_pool(attributes, inputs, _):
    return [native(lambda x: ops.adaptive_max_pool2d(x, output_size=1), *inputs)]


@runs("MaxUnpool")
def max_unpool(attributes, inputs, wanted):
    x, places = inputs[:2]
    image = wanted[0].shape[2:]
    # ONNX counts in the image that the windows just cover
    rows, columns = (
        (n - 1) * u + k for n, u, k in zip(x.shape[2:], attributes["strides"], attributes["kernel_shape"], strict=True)
    )
    row, column = places // columns % rows, places % columns
    places = (row * image[1] + column).astype(np.int32)
    return [native(lambda a, i: ops.max_unpool2d(a, i, image_size=image), x, places)]


# norms


@runs("BatchNormalization")
def batch_norm(attributes, inputs, wanted):
    x, gamma, beta, mean, var = inputs
    eps = attributes.get("epsilon", 1e-5)
    layer = nn.BatchNorm2d(x.shape[1], eps=eps, momentum=0.1)  # ONNX's is 0.9, of the old value
    state = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    layer.load_state_dict(state | {"num_batches_tracked": np.int64(0)})
    if not attributes.get("training_mode"):
        return [np.asarray(layer.eval()(x))]
    y = np.asarray(layer.train()(x))
    count = x.size / x.shape[1]
    batch_var = (layer.running_var.data - 0.9 * var) / 0.1 * (count - 1) / count  # ONNX's is biased
    return [y, layer.running_mean.data, 0.9 * var + 0.1 * batch_var]


@runs("GroupNormalization")
def group_norm(attributes, inputs, _):
    x, scale, bias = inputs
    layer = nn.GroupNorm(attributes["num_groups"], x.shape[1], eps=attributes.get("epsilon", 1e-5))
    layer.load_state_dict({"weight": scale, "bias": bias})
    return [np.asarray(layer(x))]


@runs("InstanceNormalization")
def instance_norm(attributes, inputs, _):
    x, scale, bias = inputs
    layer = nn.InstanceNorm2d(x.shape[1], eps=attributes.get("epsilon", 1e-5), affine=True)
    layer.load_state_dict({"weight": scale, "bias": bias})
    return [np.asarray(layer(x))]


@runs("LayerNormalization")
def layer_norm(attributes, inputs, wanted):
    x, scale, *bias = inputs
    axis = attributes.get("axis", -1) % x.ndim
    eps = attributes.get("epsilon", 1e-5)
    axes = tuple(range(axis, x.ndim))

    def normalised(a, *rest):
        y = ops.standardize(a, axes=axes, eps=eps) * rest[0]
        return y + rest[1] if len(rest) > 1 else y

    found = [native(normalised, x, scale, *bias)]
    if len(wanted) == 3:
        mean = native(lambda a: ops.mean(a, axes=axes, keepdims=True), x)
        square = native(lambda a, m: ops.mean((a - m) * (a - m), axes=axes, keepdims=True), x, mean)
        found += [mean, native(lambda v: ops.rsqrt(v + eps), square)]
    return found


@runs("RMSNormalization")
def rms_norm(attributes, inputs, _):
    axis = attributes.get("axis", -1) % inputs[0].ndim
    axes, eps = tuple(range(axis, inputs[0].ndim)), attributes.get("epsilon", 1e-5)
    return [native(lambda x, scale: ops.rms_norm(x, axes=axes, eps=eps) * scale, *inputs)]


@runs("LpNormalization")
def lp_normalization(attributes, inputs, _):
    p, axis = attributes.get("p", 2), attributes.get("axis", -1)
    return [native(lambda x: ops.lp_normalize(x, p=p, axis=axis), *inputs)]


@runs("LRN")
def local_response_norm(attributes, inputs, _):
    size = attributes["size"]
    how = {
        "size": size,
        "alpha": attributes.get("alpha", 1e-4),
        "beta": attributes.get("beta", 0.75),
        "k": attributes.get("bias", 1.0),
        "before": (size - 1) // 2,
    }
    return [native(lambda x: ops.local_response_norm(x, **how), *inputs)]


@runs("Dropout")
def dropout(attributes, inputs, wanted):
    ratio = float(inputs[1]) if len(inputs) > 1 else attributes.get("ratio", 0.5)
    training = len(inputs) > 2 and bool(inputs[2])
    layer = nn.Dropout(ratio).train(training)
    found = [np.asarray(layer(inputs[0]))]
    return found + [np.ones(inputs[0].shape, bool)] * (len(wanted) - 1)  # nothing is dropped here


# activations


@runs("Relu")
def relu(attributes, inputs, _):
    return [native(ops.relu, *inputs)]


@runs("Tanh")
def tanh(attributes, inputs, _):
    return [native(ops.tanh, *inputs)]


# products, reductions, shapes


@runs("Gemm")
def gemm(attributes, inputs, _):
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    ta, tb = bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))

    def product(a, b, *c):
        y = ops.matmul(a, b, ta=ta, tb=tb) * alpha
        return y + c[0] * beta if c else y

    return [native(product, *inputs)]


@runs("MatMul")
def matmul(attributes, inputs, _):
    return [native(ops.matmul, *inputs)]


def reduction(operator):
    def run(attributes, inputs, _):
        x, *axes = inputs
        chosen = tuple(int(a) for a in axes[0]) or None if axes else None
        keep = bool(attributes.get("keepdims", 1))
        return [native(lambda a: operator(a, axes=chosen, keepdims=keep), x)]

    return run


RUN["ReduceMax"], RUN["ReduceMean"] = reduction(ops.max), reduction(ops.mean)


@runs("Flatten")
def flatten(attributes, inputs, _):
    (x,) = inputs
    axis = attributes.get("axis", 1)
    rows = math.prod(x.shape[:axis])
    return [native(lambda a: a.reshape(rows, x.size // rows), x)]


@runs("OneHot")
def one_hot(attributes, inputs, wanted):
    labels, depth, values = inputs
    off, on = (float(v) for v in values)
    flat = labels.astype(np.int32).ravel()
    y = native(lambda i: ops.one_hot(i, classes=int(depth)) * (on - off) + off, flat)
    y = y.reshape(*labels.shape, int(depth))
    axis = attributes.get("axis", -1)
    return [np.moveaxis(y, -1, axis if axis >= 0 else axis + y.ndim).astype(wanted[0].dtype)]
