"""ONNX's node tests of transposed convolution and of borders."""

import numpy as np
from onnx_nodes import as_images, like, native, runs

from foveal import ops

MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}


@runs("ConvTranspose")
def conv_transpose(attributes, inputs, wanted):
    x, w = inputs
    rank = x.ndim - 2
    stride = attributes.get("strides", [1] * rank)
    dilation = attributes.get("dilations", [1] * rank)
    extra = attributes.get("output_padding", [0] * rank)
    begin, end = np.split(np.array(attributes.get("pads", [0] * 2 * rank)), 2)
    size = attributes.get("output_shape")
    if attributes.get("auto_pad") == "SAME_UPPER":
        size = [n * u for n, u in zip(x.shape[2:], stride, strict=True)]
    if size is not None:  # padding is what brings the output to this size; where it is negative, the output grows
        full = [
            u * (n - 1) + o + (k - 1) * d + 1
            for u, n, o, k, d in zip(stride, x.shape[2:], extra, w.shape[2:], dilation, strict=True)
        ]
        total = np.subtract(full, size)
        extra = extra + np.maximum(-total, 0)
        begin, end = np.maximum(total, 0) // 2, np.maximum(total, 0) - np.maximum(total, 0) // 2
    sides = [int(p) for pair in zip(begin, end, strict=True) for p in pair]
    if rank == 1:
        stride, dilation, extra, sides = [1, *stride], [1, *dilation], [0, *extra], [0, 0, *sides]
    how = {
        "stride": tuple(stride),
        "padding": tuple(sides),
        "output_padding": tuple(int(e) for e in extra),
        "dilation": tuple(dilation),
        "groups": attributes.get("group", 1),
    }
    y = native(lambda a, b: ops.conv_transpose2d(a, b, **how), as_images(x), as_images(w))
    return [like(y, x)]


@runs("Pad")
def pad(attributes, inputs, wanted):
    x, given, *rest = inputs
    value = float(rest[0]) if rest and rest[0] is not None else 0.0
    axes = [int(a) % x.ndim for a in rest[1]] if len(rest) > 1 else range(x.ndim)
    pads = dict.fromkeys(range(x.ndim), (0, 0))
    pads |= {a: (int(b), int(e)) for a, b, e in zip(axes, *np.split(given, 2), strict=True)}
    assert pads[0] == pads[1] == (0, 0), "borders about images, not about the batch or the channels"
    mode = MODES[attributes.get("mode", "constant")]
    y = native(lambda a: ops.pad(a, padding=pads[2] + pads[3], mode=mode, value=value), x.astype(np.float32))
    return [y.astype(x.dtype)]
