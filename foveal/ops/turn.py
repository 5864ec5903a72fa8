"""Filters whose outputs are not neighbours in memory, copied so that they are."""

from typing import Any

from foveal.kernel.lang import lanes, loop, parallel, transpose
from foveal.ops.op import Lowering


def outputs_last(to: Lowering, w: Any) -> Any:
    """w [outputs, inputs, R, S] with outputs as neighbours: itself, or a copy as R, S, inputs, outputs.

    A gradient in x swaps the roles of inputs and outputs, and its kernels' lanes still run over outputs.
    """
    outputs, inputs, R, S = w.shape
    if w.strides[0] == 1 or w.strides[1] != 1:
        return w
    turned = to.scratch((R, S, inputs, outputs))
    to.call(turn, [turned], [w.permuted(2, 3, 0, 1)])
    return turned.permuted(3, 2, 0, 1)


def turn(y: Any, x: Any) -> None:
    """y[r, s, i, o] = x[r, s, o, i], a square of lanes x lanes at a time."""
    R, S, inputs, outputs = y.shape
    size = lanes()
    full_o, full_i = outputs - outputs % size, inputs - inputs % size
    for r, s, b in parallel(R, S, full_o // size) if full_o and full_i else ():
        o = b * size
        for i in loop(full_i, step=size):
            rows = [x.load((r, s, o + j, i), size) for j in range(size)]
            for j, column in enumerate(transpose(rows)):
                y.store((r, s, i + j, o), column, size)
    if (full_o, full_i) == (outputs, inputs):
        return
    for r, s in parallel(R, S):
        for o in loop(outputs):
            for i in loop(inputs, start=full_i):
                y[r, s, i, o] = x[r, s, o, i]
        for o in loop(outputs, start=full_o):
            for i in loop(full_i):
                y[r, s, i, o] = x[r, s, o, i]
