"""Sliding windows over the rows and columns of an image: sizes, checks, and views of NumPy arrays."""

from typing import Any

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Index, where
from foveal.ops.kernels.pool import both
from foveal.ops.kernels.taps import forward_taps
from foveal.strides import Ndarray

Pair = tuple[int, int]


Sides = tuple[int, int, int, int]


def output_size(
    what: str, size: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: Sides, dilation: Pair
) -> Pair:
    """Output rows and columns of a sliding window; floor((n + pads - d (k - 1) - 1) / u) + 1 along each axis."""
    found = []
    for axis, word in enumerate(("rows", "columns")):
        padded = size[axis] + padding[2 * axis] + padding[2 * axis + 1]
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        if reach > padded:
            raise ShapeError(
                f"{what}: the kernel reaches over {reach} {word}, the padded input has {padded}"
                f" (input {size[0]}x{size[1]}, kernel {kernel[0]}x{kernel[1]}, padding {padding}, dilation {dilation});"
                " use a smaller kernel, more padding, or a larger input"
            )
        found.append((padded - reach) // stride[axis] + 1)
    return found[0], found[1]


def check_window(what: str, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
    """Refuse sizes that mean nothing."""
    for word, values, least in (
        ("kernel size", kernel, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if min(values) < least:
            raise ShapeError(f"{what}: {word} {values} has to be {least} or more")


def ceiled(size: tuple[int, ...], kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Sides:
    """The padding with which as many windows fit as where the output size is rounded up.

    The last window may then reach beyond the given padding, but starts in the image or in the padding before it.
    """
    found = []
    for axis in range(2):
        before, after = padding[2 * axis : 2 * axis + 2]
        padded = size[axis] + before + after
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        last = -((reach - padded) // stride[axis])
        if last * stride[axis] >= size[axis] + before:
            last -= 1
        found += [before, after + max(0, last * stride[axis] + reach - padded)]
    return found[0], found[1], found[2], found[3]


def check_meeting(what: str, size: tuple[int, ...], kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
    """Refuse windows that meet nothing but padding."""
    outputs = output_size(what, size, kernel, stride, padding, dilation)
    for axis, word in enumerate(("rows", "columns")):
        taps = forward_taps(outputs[axis], kernel[axis], stride[axis], padding[2 * axis], dilation[axis])[0]
        for p in range(outputs[axis]) if padding[2 * axis] or padding[2 * axis + 1] else ():
            if not taps.inside(p, size[axis]):
                raise ShapeError(
                    f"{what}: window {p} of {outputs[axis]} along the {word} lies outside of the image"
                    f" (input {size[0]}x{size[1]}, size {kernel}, stride {stride}, padding {padding}, dilation"
                    f" {dilation}); use less padding: half of the window always holds"
                )


def pair(value: Any, what: str) -> tuple[int, int]:
    """One int for rows and columns, or two."""
    items = (value, value) if isinstance(value, int | np.integer) else tuple(value)
    if len(items) != 2 or not all(isinstance(i, int | np.integer) for i in items):
        raise ShapeError(f"{what} has to be an int or two ints (rows, columns), got {value!r}")
    return int(items[0]), int(items[1])


def sides(value: Any, what: str) -> tuple[int, int, int, int]:
    """Padding as (top, bottom, left, right), from an int, (rows, columns) or all four."""
    if isinstance(value, int | np.integer) or len(tuple(value)) == 2:
        rows, columns = pair(value, what)
        return rows, rows, columns, columns
    items = tuple(int(i) for i in value)
    if len(items) != 4:
        raise ShapeError(f"{what} has to be an int, (rows, columns) or (top, bottom, left, right), got {value!r}")
    return items


def windows(x: Ndarray, kernel: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Ndarray:
    """x's windows, a view of shape [N, C, P, Q, R, S] on the zero-padded input."""
    top, bottom, left, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def scatter(into: Ndarray, values: Ndarray, stride: Pair, padding: Sides, dilation: Pair) -> None:
    """Add values [N, C, P, Q, R, S] to the places of `into` [N, C, H, W] that the windows are read from."""
    top, bottom, left, right = padding
    padded = np.pad(np.zeros_like(into), ((0, 0), (0, 0), (top, bottom), (left, right)))
    P, Q, R, S = values.shape[2:]
    for r in range(R):
        for s in range(S):
            rows = slice(r * dilation[0], r * dilation[0] + (P - 1) * stride[0] + 1, stride[0])
            cols = slice(s * dilation[1], s * dilation[1] + (Q - 1) * stride[1] + 1, stride[1])
            padded[:, :, rows, cols] += values[..., r, s]
    H, W = into.shape[2:]
    into += padded[:, :, top : top + H, left : left + W]


def window(name: str, size: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    """Hyper-parameters in full form."""
    full = {
        "size": pair(size, f"{name}: size"),
        "stride": pair(stride, f"{name}: stride"),
        "padding": sides(padding, f"{name}: padding"),
        "dilation": pair(dilation, f"{name}: dilation"),
    }
    check_window(name, full["size"], full["stride"], full["padding"], full["dilation"])  # type: ignore[arg-type]
    return full


def tap(p: Any, count: int, u: int, r: int, pad: int, n: int) -> tuple[Any, Any]:
    """The input position at distance r in output p of `count`, and whether it is inside; it is kept inside either
    way.
    """
    at = p * u + r - pad
    if r >= pad and (count - 1) * u + r - pad < n:
        return at, True
    valid = (at >= 0) & (at < n)
    return where(valid, at, 0), valid


def taps(
    place: tuple[Index, Index], counts: Pair, image: Pair, size: Pair, stride: Pair, padding: Sides, dilation: Pair
) -> list[tuple[Any, Any, Any]]:
    """(h, v, whether it is inside) of each input position in the window of output `place`, of `counts`, row by row."""
    found = []
    for r in range(size[0]):
        for s in range(size[1]):
            h, row = tap(place[0], counts[0], stride[0], r * dilation[0], padding[0], image[0])
            v, column = tap(place[1], counts[1], stride[1], s * dilation[1], padding[2], image[1])
            found.append((h, v, both(row, column)))
    return found
