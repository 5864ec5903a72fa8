"""What poolings over windows of rows and columns share: hyper-parameters, shape rule, loops of plain kernels."""

from collections.abc import Iterator
from typing import Any, ClassVar

from foveal.errors import ShapeError
from foveal.kernel.lang import Array, Index, Scalar, loop, loops, parallel, splat, vectors
from foveal.ops.kernels.epilogue import EpilogueOutputs
from foveal.ops.op import Lowering, Operator
from foveal.ops.window import PaddingArgument, Pair, PairArgument, Window
from foveal.strides import Shape
from foveal.view import View

# A producer is fused into a pooling only if each element of its result lies in at most this many windows, as it is
# computed anew for each of them. It trades arithmetic for memory traffic: up to four computations of a few pointwise
# steps cost less than writing the array and reading it again. It admits 3x3 windows with stride 2, not with stride 1.
MAX_RECOMPUTATIONS = 4


def check_images(name: str, x: Shape) -> None:
    """Raise ShapeError, in the name of an operator, for a shape that is not [N, C, H, W]."""
    if len(x) != 4:
        raise ShapeError(f"{name}: takes images [N, C, H, W], got shape {x}")


def rows_and_columns(x: Shape) -> Pair:
    """(H, W) of images [N, C, H, W]."""
    return x[2], x[3]


def sliding_window(
    name: str,
    x: Shape,
    kernel_size: PairArgument,
    stride: PairArgument | None,
    padding: PaddingArgument,
    dilation: PairArgument,
    ceil_mode: bool,
) -> Window:
    """The window that a caller's hyper-parameters describe, for images x [N, C, H, W].

    ceil_mode: there are as many windows as start in the image or in the padding before it, not only those that end in
    the padding after it. The result has the additional padding at the bottom and on the right.
    """
    check_images(name, x)
    window = Window.of(name, kernel_size, kernel_size if stride is None else stride, padding, dilation)
    return window.ceiled(rows_and_columns(x)) if ceil_mode else window


class Pooling(Operator):
    """Base of poolings whose attribute `window` slides over images. Lanes run over channels."""

    #: the position of the input that may be computed while it is read, if there is one
    reads: ClassVar[int | None] = None

    def arguments(self, *, window: Window, **rest: Any) -> dict[str, Any]:
        return {**window.arguments(), **rest}

    def pooled(self, x: Shape, window: Window) -> Shape:
        """The shape [N, C, P, Q] of images x [N, C, H, W] after pooling.

        Raises ShapeError where a window does not fit into the image, or would lie in the padding only.
        """
        check_images(self.name, x)
        return (*x[:2], *window.outputs_inside(self.name, x[2:]))

    def prologue(self, *_: Shape, window: Window, **rest: Any) -> int | None:
        (R, S), (u_rows, u_columns) = window.size, window.stride
        # an element lies in about R S / (u_rows u_columns) windows
        is_cheap = MAX_RECOMPUTATIONS * u_rows * u_columns >= R * S
        return self.reads if is_cheap else None

    def lower(self, lowering: Lowering, y: View, /, *inputs: View, **attributes: Any) -> None:
        if self.epilogues:
            self.lower_results(lowering, EpilogueOutputs([y]), *inputs, **attributes)
        else:
            super().lower(lowering, y, *inputs, **attributes)


def channel_vectors(y: Array) -> Iterator[tuple[Index, int]]:
    """Loop over the channels of y [N, C, H, W]: (first channel, lanes), one by one if they are apart in memory."""
    yield from vectors(y.shape[1], None if y.strides[1] == 1 else 1)


def output_vectors(y: Array) -> Iterator[tuple[Index, Index, Index, Index, int]]:
    """Loop over an output [N, C, P, Q]: (n, p, q, first channel, lanes). Threads share the images and their rows."""
    N, _, P, Q = y.shape
    for n, p in parallel(N, P):
        for q in loop(Q):
            for c, width in channel_vectors(y):
                yield n, p, q, c, width


def zero_image(y: Array, n: Index) -> None:
    """Zero image n of y [N, C, H, W]."""
    for h, v in loops(*y.shape[2:]):
        for c, width in channel_vectors(y):
            y.store((n, c, h, v), 0.0, width)


def add_at(y: Array, index: tuple[Index, ...], value: Scalar, width: int) -> None:
    """Add `width` lanes to the elements of y from `index` on."""
    y.store(index, y.load(index, width) + value, width)


def hits_inside(hit: Scalar, valid: Scalar, width: int) -> Scalar:
    """The lanes in which there is a hit, if the position is valid: one truth value, True where that is known."""
    return hit if valid is True else hit & splat(valid, width)  # type: ignore[operator]
