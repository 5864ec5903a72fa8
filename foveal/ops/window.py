"""Sliding windows over the rows and columns of an image: what convolutions, poolings and im2col share.

Output (p, q) of a window of R x S taps reads, with tap (r, s), the pixel x[p u + r d - pad, q u + s d - pad]: u is the
stride, d the dilation, each along its axis; pad is the padding at the top, or on the left. Users call the window the
kernel (`kernel_size`). Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", has pictures of
all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from foveal.errors import ShapeError
from foveal.kernel.lang import Index, Scalar, where
from foveal.kinds import name_kind
from foveal.strides import Ndarray

# rows and columns
Pair = tuple[int, int]

# top, bottom, left, right
Sides = tuple[int, int, int, int]

# What operators take for a Pair: one number for rows and columns, or (rows, columns).
PairArgument = int | Sequence[int]

# What operators take for a padding: a number for all sides, (rows, columns), (top, bottom, left, right), or a word.
PaddingArgument = int | Sequence[int] | str

name_kind(PairArgument, "an int or two ints (rows, columns)")
name_kind(PaddingArgument, "an int, (rows, columns), (top, bottom, left, right), 'same' or 'valid'")

WORDS = ("rows", "columns")

# a position that is known, or one in a kernel
P = TypeVar("P", int, Index)


@dataclass(frozen=True)
class Window:
    """R x S taps that slide over an image: size (R, S), and stride, padding and dilation along rows and columns.

    The methods that can fail take the name of the operator, or of the layer, whose error it then is.
    """

    size: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @classmethod
    def of(
        cls,
        name: str,
        kernel_size: PairArgument,
        stride: PairArgument = 1,
        padding: PaddingArgument = 0,
        dilation: PairArgument = 1,
    ) -> "Window":
        """The window that a caller's hyper-parameters describe.

        padding: a number, (rows, columns), (top, bottom, left, right), or a word of `full_padding`. Raises ShapeError
        where a value has another form, the kernel size, the stride or the dilation is below 1, or the padding below 0.
        """
        size = pair(kernel_size, f"{name}: kernel_size")
        u = pair(stride, f"{name}: stride")
        d = pair(dilation, f"{name}: dilation")
        # a word's padding is computed from the other three, so they are checked before it
        check_window(name, size, u, (0, 0, 0, 0), d)
        window = cls(size, u, full_padding(name, padding, size, u, d), d)
        check_window(name, window.size, window.stride, window.padding, window.dilation)
        return window

    def sliding(self) -> dict[str, Any]:
        """Stride, padding and dilation, as operators take them whose filters give the size."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def arguments(self) -> dict[str, Any]:
        """The hyper-parameters as operators take them: the inverse of `of`."""
        return {"kernel_size": self.size, **self.sliding()}

    @property
    def reach(self) -> Pair:
        """The rows and columns from a window's first tap to its last: d (R - 1) + 1."""
        return self.dilation[0] * (self.size[0] - 1) + 1, self.dilation[1] * (self.size[1] - 1) + 1

    def padded(self, axis: int, n: int) -> int:
        """The number of positions along an axis, of an image with n, together with its padding."""
        return n + self.padding[2 * axis] + self.padding[2 * axis + 1]

    def outputs(self, name: str, image: Sequence[int]) -> Pair:
        """(P, Q) of an image (H, W): floor((n + pads - d (k - 1) - 1) / u) + 1 along each axis.

        Raises ShapeError where the window does not fit into the padded image.
        """
        counts = []
        for axis, word in enumerate(WORDS):
            padded, reach = self.padded(axis, image[axis]), self.reach[axis]
            if reach > padded:
                raise ShapeError(
                    f"{name}: the kernel reaches over {reach} {word}, the padded input has {padded}"
                    f" (input {image[0]}x{image[1]}, kernel {self.size[0]}x{self.size[1]}, padding {self.padding},"
                    f" dilation {self.dilation}); use a smaller kernel, more padding, or a larger input"
                )
            counts.append((padded - reach) // self.stride[axis] + 1)
        return counts[0], counts[1]

    def outputs_inside(self, name: str, image: Sequence[int]) -> Pair:
        """`outputs`, with a ShapeError where a window reads nothing but padding, so that it has no maximum or mean."""
        counts = self.outputs(name, image)
        for axis, word in enumerate(WORDS):
            for p in range(counts[axis]) if any(self.padding[2 * axis : 2 * axis + 2]) else ():
                if not self.read(axis, p, image[axis]):
                    raise ShapeError(
                        f"{name}: window {p} of {counts[axis]} along the {word} lies outside of the image"
                        f" (input {image[0]}x{image[1]}, size {self.size}, stride {self.stride}, padding"
                        f" {self.padding}, dilation {self.dilation}); use less padding: half of the window always"
                        " holds"
                    )
        return counts

    def read(self, axis: int, p: int, n: int) -> list[int]:
        """The positions, of n along an axis, that the p-th window reads."""
        positions = (self.position(axis, p, tap) for tap in range(self.size[axis]))
        return [i for i in positions if 0 <= i < n]

    def ceiled(self, image: Sequence[int]) -> "Window":
        """The window whose padding is enlarged so that its number of outputs is rounded up, as ceil_mode asks for.

        The last window along an axis may then reach beyond the given padding, but it starts in the image or in the
        padding before it.
        """
        padding = list(self.padding)
        for axis in range(2):
            padded, reach, u = self.padded(axis, image[axis]), self.reach[axis], self.stride[axis]
            # ceil((padded - reach) / u), the number of the last window
            last = -((reach - padded) // u)
            if last * u >= image[axis] + self.padding[2 * axis]:
                last -= 1
            padding[2 * axis + 1] += max(0, last * u + reach - padded)
        return replace(self, padding=(padding[0], padding[1], padding[2], padding[3]))

    def taps(self) -> Iterator[Pair]:
        """(r, s) of each tap, row by row."""
        for r in range(self.size[0]):
            for s in range(self.size[1]):
                yield r, s

    def position(self, axis: int, p: P, tap: int) -> P:
        """The position along an axis that a tap of the p-th window reads; it may lie in the padding."""
        return p * self.stride[axis] + tap * self.dilation[axis] - self.padding[2 * axis]

    def pixels(self, output: tuple[Index, Index], counts: Pair, image: Pair) -> list[tuple[Index, Index, Scalar]]:
        """(h, v, valid) of each tap of window `output`, one of P x Q = `counts`, row by row, for plain kernels.

        valid: if the tap lies in the image (H, W), True where that is known at build time. (h, v) is a pixel of the
        image either way.
        """
        pixels = []
        for r, s in self.taps():
            h, row = self.tap(0, output[0], counts[0], r, image[0])
            v, column = self.tap(1, output[1], counts[1], s, image[1])
            pixels.append((h, v, both(row, column)))
        return pixels

    def tap(self, axis: int, p: Index, count: int, tap: int, n: int) -> tuple[Index, Scalar]:
        """The position, of n along an axis, that a tap of the p-th of `count` windows reads, and if it is inside.

        If it is not, the position is given as 0.
        """
        position = self.position(axis, p, tap)
        if self.position(axis, 0, tap) >= 0 and self.position(axis, count - 1, tap) < n:
            return position, True
        valid = (position >= 0) & (position < n)
        return where(valid, position, 0), valid

    def view(self, x: Ndarray, padding: float = 0.0) -> Ndarray:
        """The windows [N, C, P, Q, R, S] of x [N, C, H, W] in NumPy, a view of x with a border of `padding`."""
        top, bottom, left, right = self.padding
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=padding)
        view = np.lib.stride_tricks.sliding_window_view(x, self.reach, axis=(2, 3))
        (u_rows, u_columns), (d_rows, d_columns) = self.stride, self.dilation
        return view[:, :, ::u_rows, ::u_columns, ::d_rows, ::d_columns]

    def add_to(self, x: Ndarray, values: Ndarray) -> None:
        """Add values [N, C, P, Q, R, S] to the pixels of x [N, C, H, W] that they belong to: the adjoint of `view`."""
        (H, W), (P, Q) = x.shape[2:], values.shape[2:4]
        top, bottom, left, right = self.padding
        padded = np.zeros((*x.shape[:2], H + top + bottom, W + left + right), x.dtype)
        (u_rows, u_columns), (d_rows, d_columns) = self.stride, self.dilation
        # for each tap the pixels that all windows read with it
        for r, s in self.taps():
            rows = slice(r * d_rows, r * d_rows + (P - 1) * u_rows + 1, u_rows)
            columns = slice(s * d_columns, s * d_columns + (Q - 1) * u_columns + 1, u_columns)
            padded[:, :, rows, columns] += values[..., r, s]
        x += padded[:, :, top : top + H, left : left + W]


def both(a: Scalar, b: Scalar) -> Scalar:
    """a and b, as one truth value; either may be True at build time, and the other is then returned as it is."""
    if a is True:
        return b
    return a if b is True else a & b  # type: ignore[operator]


def check_window(name: str, size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> None:
    """Raise ShapeError where a size, stride or dilation is below 1, or a padding below 0."""
    for word, values, minimum in (
        ("kernel size", size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if min(values) < minimum:
            raise ShapeError(f"{name}: {word} {values} has to be {minimum} or more")


def full_padding(name: str, padding: PaddingArgument, size: Pair, stride: Pair, dilation: Pair) -> Sides:
    """Padding as (top, bottom, left, right), from numbers as `sides` takes them or from a word.

    "valid" is no padding. "same" is as much as gives an output of the image's size with stride 1: d (k - 1) along each
    axis, half of it on either side, and the odd one at the bottom and on the right, as in PyTorch.
    """
    if not isinstance(padding, str):
        return sides(padding, f"{name}: padding")
    if padding == "valid":
        return 0, 0, 0, 0
    if padding != "same":
        raise ShapeError(f"{name}: padding is {padding!r}; choose 'same', 'valid' or numbers of rows and columns")
    if stride != (1, 1):
        raise ShapeError(f"{name}: padding='same' is for stride 1, the stride is {stride}: give the padding in numbers")
    rows, columns = (d * (k - 1) for d, k in zip(dilation, size, strict=True))
    return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2


def pair(value: PairArgument, what: str) -> Pair:
    """(rows, columns), from one int for both or from two; `what` names the value in the error."""
    items = (value, value) if isinstance(value, int | np.integer) else items_of(value)
    if len(items) != 2 or not all(isinstance(i, int | np.integer) for i in items):
        raise ShapeError(f"{what} is {value!r}, it has to be an int or two ints (rows, columns)")
    return int(items[0]), int(items[1])


def items_of(value: object) -> tuple[Any, ...]:
    """The items of what can be walked through; none of anything else, such as an array of rank 0."""
    try:
        return tuple(value)  # type: ignore[arg-type]
    except TypeError:
        return ()


def sides(value: PairArgument, what: str) -> Sides:
    """Padding as (top, bottom, left, right), from an int, (rows, columns) or all four."""
    if isinstance(value, int | np.integer) or len(items_of(value)) == 2:
        rows, columns = pair(value, what)
        return rows, rows, columns, columns
    items = items_of(value)
    if len(items) != 4 or not all(isinstance(i, int | np.integer) for i in items):
        raise ShapeError(f"{what} is {value!r}, it has to be an int, (rows, columns) or (top, bottom, left, right)")
    return int(items[0]), int(items[1]), int(items[2]), int(items[3])
