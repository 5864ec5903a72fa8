"""Staging: copies of the part of the images that a task reads, in a buffer of each thread.

Two reasons to copy: a zero border (halo) around the image, so that no inner loop asks whether a tap meets the padding;
and another order in memory, in which one vector or one run of loads serves several images. There are three forms:

    function      buffer                           what is neighbouring in it        used by
    stage_band    [1, rows, columns, C]            channels, as in the image         direct, weight_grad
    stage_batch   [1, rows, columns, images, C]    the same pixel of all images      direct_batch
    stage_lanes   [1, rows, columns C, lanes]      the same element of all images    direct_simd_batch and its gradient

The first axis of a buffer is the thread. A buffer is small enough for the second-level cache, so what is staged is read
from there, once per filter tap.
"""

from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from foveal.kernel.lang import Array, Index, lanes, loop, maximum, minimum, pack, thread, transpose, var, vectors
from foveal.ops.kernels.taps import Axes
from foveal.ops.window import Pair

Permutable = TypeVar("Permutable", bound="HasAxes")


class HasAxes(Protocol):
    """An Array of a kernel, or a View of a program."""

    def permuted(self: Permutable, *axes: int) -> Permutable: ...


def nhwc(image: Permutable) -> Permutable:
    """[N, C, H, W] seen as [N, H, W, C], the order in which images lie in memory."""
    return image.permuted(0, 2, 3, 1)


class Border(NamedTuple):
    """The box of rows and columns that a band of outputs reads, with the padding that it reaches into.

    top: the first row that band 0 reads, negative in the padding. rows: of any band. left, columns: the same for
    columns, and at least those of the image.
    """

    top: int
    rows: int
    left: int
    columns: int


def bordered(axes: Axes, size: Pair, band: int) -> Border | None:
    """The box that a band of at most `band` output rows per phase reads from an image of `size` (rows, columns).

    None if no tap leaves the image, so that nothing has to be staged.
    """
    lows = [min((t.low for t in phases if t.taps), default=0) for phases in axes]
    highs = [max((t.high for t in phases if t.taps), default=0) for phases in axes]
    if not any(t.leaves(n) for phases, n in zip(axes, size, strict=True) for t in phases):
        return None
    left = min(lows[1], 0)
    first_band = [replace(t, count=min(t.count, band)) for t in axes[0] if t.taps]
    bottom = max((t.high for t in first_band), default=0)
    return Border(lows[0], bottom - lows[0] + 1, left, max(highs[1], size[1] - 1) - left + 1)


def zero_buffer(buffer: Array) -> None:
    """Zero this thread's [rows, columns, C] once per call: tasks write whole rows of the image, never beside it."""
    _, _, columns, channels = buffer.shape
    for h in loop(buffer.extents[1]):
        for i, width in vectors(columns * channels):
            buffer.row(thread(), h).store((i,), 0.0, width)


def stage_band(buffer: Array, x: Array, n: Index, top: Index, left: int) -> None:
    """buffer[h, v] = x[n, top + h, left + v]: all columns of a band of rows; rows outside of the image become zero.

    left: Border.left, 0 or less. The columns beside the image keep the zeros of `zero_buffer`.
    """
    rows = buffer.extents[1]
    _, H, W, C = x.shape
    # of the buffer's rows, those before `first` lie above the image, those from `end` on below it
    first = minimum(maximum(-top, 0), rows)
    end = maximum(minimum(H - top, rows), first)

    def zero(h: Index) -> None:
        for i, width in vectors(W * C):
            buffer.row(thread(), h).store((i - left * C,), 0.0, width)

    for h in loop(first):
        zero(h)
    for h in loop(end, start=first):
        # one row of the image, [W C] numbers in a run
        target, source = buffer.row(thread(), h), x.row(n, h + top)
        for i, width in vectors(W * C):
            target.store((i - left * C,), source.load((i,), width), width)
    for h in loop(rows, start=end):
        zero(h)


def stage_batch(buffer: Array, x: Array, n: Index, images: int, top: Index) -> None:
    """buffer[h, v, i] = x[n + i, top + h, v]: the same pixel of the images of a register tile side by side."""
    columns = buffer.shape[2]
    for i in loop(images):
        for h in loop(buffer.extents[1]):
            target, source = buffer.at(thread(), h, 0, i, 0), x.at(n + i, h + top, 0, 0)
            # a row of the image is read in one run; its pixels are written `images` pixels apart
            for v in loop(columns):
                for c, width in vectors(x.shape[3]):
                    target.store((0, 0, v, 0, c), source.load((0, 0, v, c), width), width)


def zero_sides(buffer: Array, left: int, image: int) -> None:
    """Zero what lies beside the image's `image` elements in each row of this thread's [rows, elements, lanes].

    left: elements before the image. Written once per call, as `stage_lanes` writes only the image's elements.
    """
    _, _, elements, size = buffer.shape
    right = elements - left - image
    for start, count in ((0, left), (left + image, right)):
        if count == 0:
            continue
        for h in loop(buffer.extents[1]):
            for i, width in vectors(count * size):
                buffer.row(thread(), h).store((start * size + i,), 0.0, width)


def stage_lanes(
    buffer: Array, x: Array, n: Index, images: int, top: Index, left: int, rows: tuple[Index, Index] | None = None
) -> None:
    """buffer[h, left + i, m] = element i of row top + h of image n + m; lanes after the last image become 0.

    x: [N, H, W, C], of which a row is one run of W C elements. images: how many from n on. rows: the first and the end
    of the buffer's rows to fill; all of them unless given.
    """
    first, end = rows or (0, buffer.extents[1])
    size, run = lanes(), x.shape[2] * x.shape[3]

    def stage(h: Index, m: int, i: Index, width: int) -> None:
        """Elements i ... i + width of the images from m on: a square of them transposed in registers, or only one."""
        valid = min(size, images - m)
        sources = [x.row(n + m + k, h + top) for k in range(valid)]
        empty = [var(0.0, width).get()] * (size - valid)
        loaded = [source.load((i,), width) for source in sources] + empty
        by_element = transpose(loaded) if width == size else [pack(loaded)]
        for k, vector in enumerate(by_element):
            buffer.store((thread(), h, left + i + k, m), vector, size)

    for h in loop(end, start=first):
        # each vector of images
        for m in range(0, images, size):
            # squares of lanes() elements x lanes() images
            for b in loop(run // size):
                stage(h, m, b * size, size)
            # the rest of the row: a last square that overlaps the one before, or one by one if the row is too short
            if run % size and run > size:
                stage(h, m, run - size, size)
            elif run % size:
                for i in loop(run):
                    stage(h, m, i, 1)
