"""What becomes of a kernel's results before they are stored: pointwise steps, and sums over all pixels per channel.

The kernels of convolutions and poolings hold a tile of results in registers. An epilogue applies the pointwise nodes
that follow in the graph to this tile (bias, batch norm, relu, residual sums, ...), stores what others read, and adds up
sums and moments per channel, so that none of these needs a pass over memory. The gradient in x of a depthwise
convolution adds up the gradient in the weights as well, which multiplies the same elements of dy by those of x.

A fused group gives the steps (see expression.Step): slot 0 is the kernel's result, the next slots are the arrays that
are read at the same place, then come the steps. An operator that can end with them says so by `epilogues` and is
lowered to `EpilogueOutputs`; its kernel calls `BoundEpilogue.store` with its register tile where it would store it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast, overload

from foveal.kernel.compile import ArraySpec
from foveal.kernel.lang import LINE, Array, Index, Scalar, Value, l2, lanes, loop, parallel_vectors, splat, var, vectors
from foveal.ops.kernels import expression, moments
from foveal.ops.kernels.register_tile import FLOAT_BYTES
from foveal.ops.kernels.sizes import CallSizes, is_repeated
from foveal.ops.op import Lowering
from foveal.view import View

# A pixel's place in channels-last images: image, row and column.
Pixel = tuple[Index, Index, Index]


@dataclass(frozen=True)
class Epilogue:
    """What is computed from a kernel's results, in terms of slots."""

    #: the straight-line program that follows the kernel
    steps: tuple[expression.Step, ...] = ()
    #: the slot of each stored array
    results: tuple[int, ...] = (0,)
    #: the slots that are added up over N, P and Q
    sums: tuple[int, ...] = ()
    #: the slot whose mean and variance per channel are taken over N, P and Q, if any
    moments: int | None = None
    #: the slot of x, if the gradient in the weights of a depthwise convolution is added up, and its number of taps
    x: int | None = None
    taps: int = 0

    @property
    def sum_rows(self) -> int:
        """Rows of partial sums that are added up: one for each sum, then one for each tap."""
        return len(self.sums) + self.taps

    @property
    def rows(self) -> int:
        """Rows of partial sums, of a value per channel each, that a task keeps."""
        return self.sum_rows + (moments.PARTIAL_ROWS if self.moments is not None else 0)

    @property
    def has_sums(self) -> bool:
        """True if the epilogue adds up sums or moments."""
        return self.rows > 0


@dataclass(frozen=True)
class EpilogueOutputs:
    """The arrays that a kernel with an epilogue writes, and those that its epilogue reads."""

    #: one array [N, K, P, Q] for each stored slot
    outputs: list[View]
    #: the arrays that the steps read, all of the outputs' logical shape (with stride 0 where they are repeated)
    extras: list[View] = field(default_factory=list)
    #: what is computed
    epilogue: Epilogue = Epilogue()
    #: an array [K] for each sum
    sums: list[View] = field(default_factory=list)
    #: an array [2, K] for mean and biased variance, if the epilogue takes moments
    moments: View | None = None
    #: an array [K, 1, R, S], if the epilogue adds up a depthwise convolution's gradient in the weights
    weight_grad: View | None = None
    #: an int32 array [N, K, P, Q], if a max pooling stores the places of its maxima
    places: list[View] = field(default_factory=list)

    @property
    def totals(self) -> list[View]:
        """What `combine_tasks` writes: an array [K] for each sum and each tap, and that of the moments."""
        of_taps = [] if self.weight_grad is None else tap_rows(self.weight_grad)
        return [*self.sums, *of_taps, *([self.moments] if self.moments is not None else [])]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, K, P, Q]"""
        N, K, P, Q = self.outputs[0].shape
        return N, K, P, Q

    def each(self, change: Callable[[View], View]) -> "EpilogueOutputs":
        """The same with `change` applied to every array of the outputs' shape."""
        outputs, extras = [change(v) for v in self.outputs], [change(v) for v in self.extras]
        return replace(self, outputs=outputs, extras=extras)

    def call(
        self,
        lowering: Lowering,
        body: Callable[..., None],
        tasks: int,
        scratch: list[View],
        inputs: list[View],
        spec: Callable[[View], ArraySpec] | None = None,
        sizes: Sequence[int] = (),
        **static: Any,
    ) -> None:
        """Call body(*outputs, partial, *scratch, *inputs, *extras), and combine what its tasks have summed.

        The body gets outputs and extras channels last, and its arguments through a `BoundEpilogue`. tasks: the number
        of parts of the work that keep partial sums of their own; where nothing is summed, `partial` has a row that is
        not used. spec: what the body is specialised to for a view, with sizes that the call gives in `sizes`.
        """
        K = self.shape[1]
        # [tasks, rows of partial sums, K]
        partial = lowering.scratch((tasks, max(self.epilogue.rows, 1), K if self.epilogue.has_sums else 1))
        nhwc = self.each(lambda v: v.permuted(0, 2, 3, 1))
        written, read = [*nhwc.outputs, partial, *scratch], [*inputs, *nhwc.extras]
        specs = [spec(view) for view in (*written, *read)] if spec else None
        lowering.call(body, written, read, specs=specs, sizes=sizes, epilogue=self.epilogue, **static)
        if self.epilogue.has_sums:
            totals, given = self.totals, CallSizes()
            # a total is [K] or [2, K]
            specs = [given.spec(total, *range(len(total.shape) - 1)) for total in totals]
            specs.append(given.spec(partial, 1))
            static = {"sums": self.epilogue.sum_rows, "tail": K % lanes()}
            lowering.call(combine_tasks, totals, [partial], specs=specs, sizes=given.values, **static)


class BoundEpilogue:
    """An epilogue bound to the arrays of one kernel; images are channels last, [N, P, Q, K]."""

    #: what is computed
    epilogue: Epilogue
    #: True if `store` is only called with channels that are a multiple of its width; a kernel may set it to False
    aligned: bool
    #: the images that are written
    outputs: tuple[Array, ...]
    #: [tasks, rows, K]: sums of each task
    partial: Array
    #: the kernel's scratch and inputs
    operands: tuple[Array, ...]
    #: the images that the steps read
    extras: tuple[Array, ...]
    #: those of the extras that have to be prefetched
    far: list[Array]

    def __init__(
        self, epilogue: Epilogue, arrays: tuple[Array, ...], between: int, far: tuple[bool, ...] | bool | None = None
    ) -> None:
        """arrays: the kernel's, as `EpilogueOutputs.call` orders them; `between` of them are scratch and inputs.

        far: for each extra, or for all, if it has to be prefetched, where the call gives its size.
        """
        self.epilogue = epilogue
        self.aligned = True
        count = len(epilogue.results)
        self.outputs, self.partial = arrays[:count], arrays[count]
        self.operands = arrays[count + 1 : count + 1 + between]
        self.extras = arrays[count + 1 + between :]
        if isinstance(far, bool):
            far = (far,) * len(self.extras)
        elif far is None:
            far = tuple(bool(exceeds_l2(x)) for x in self.extras)
        self.far = [x for x, is_far in zip(self.extras, far, strict=True) if is_far and not repeated(x)]

    def zero_sums(self, task: Index, k: Index, width: int) -> None:
        """Zero the task's partial sums of the channels k ... k + width; called before its first results."""
        for row in range(self.epilogue.rows):
            self.partial.store((task, row, k), 0.0, width)

    def zero_all_sums(self, task: Index, channels: int) -> None:
        """Zero the partial sums of a task that has all channels."""
        for k, width in vectors(channels) if self.epilogue.has_sums else ():
            self.zero_sums(task, k, width)

    def prefetch(self, pixels: Sequence[Pixel], k: Index, channels: int) -> None:
        """Start to fetch what `store` will read at the pixels for `channels` channels from k on."""
        for x in self.far:
            for pixel in pixels:
                for line in range(0, channels, LINE):
                    x.prefetch((*pixel, k + line))

    def store(
        self, task: Index, pixels: Sequence[Pixel], totals: Sequence[Scalar], k: Index, width: int
    ) -> list[Scalar]:
        """Apply the steps to the results `totals` of the pixels for channels k ... k + width, and store them.

        Returns x of each pixel, if the gradient in the weights is added up.
        """
        return self.store_vectors(task, pixels, [totals], [(k, width)])

    def store_vectors(
        self,
        task: Index,
        pixels: Sequence[Pixel],
        totals: Sequence[Sequence[Scalar]],
        vectors: Sequence[tuple[Index, int]],
    ) -> list[Scalar]:
        """`store` for several vectors (first channel, lanes), where totals[v][m] is the result of pixel m in vector v.

        The totals and everything computed from them stay in registers; only partial sums, a few values per channel,
        are read and written in the first-level cache. A pixel is done with before the next one: what is added up is no
        longer needed then, and where a cache line that is written past the cache is two vectors, these follow each
        other. A core has few lines that are written in part at a time, and writes a further one to memory twice.
        """
        columns = [
            ColumnSums(self, task, of_vector, *vector) for of_vector, vector in zip(totals, vectors, strict=True)
        ]
        for m, pixel in enumerate(pixels):
            for column in columns:
                column.add(m, pixel)
        for column in columns:
            column.write()
        return [x for column in columns for x in column.xs]

    @property
    def pixelwise(self) -> bool:
        """True if results have to go through `store`: pixels read values of their own, or are added up."""
        return self.epilogue.has_sums or not all(repeated(x) for x in self.extras)

    def finish(self, total: Scalar, k: int) -> list[Value]:
        """The values that are stored for the results `total` of channel k: a vector whose lanes are pixels.

        Only for an epilogue that is not `pixelwise`; the kernel stores the values itself.
        """
        read = [x[0, 0, 0, k] for x in self.extras]
        values = expression.evaluate([total, *read], self.epilogue.steps, self.epilogue.results)
        # a result depends on the total, so it is no plain number
        return [cast(Value, splat(value, lanes())) for value in values]


class ColumnSums:
    """What an epilogue does with one vector of channels of a register tile, pixel after pixel.

    Sums are added up one value after the other, so that each value is needed for a short time only: 16 registers also
    hold the tile's results that are still to come.
    """

    def __init__(self, bound: BoundEpilogue, task: Index, totals: Sequence[Scalar], k: Index, width: int) -> None:
        self.bound, self.task, self.totals, self.k, self.width = bound, task, totals, k, width
        # what is the same for all pixels (a bias, a scale) is loaded once
        self.same = [expression.load(x, (0, 0, 0, k), width) if repeated(x) else None for x in bound.extras]
        # for each row of sums that of the pixels so far
        self.sums: list[Scalar] = []
        #: x of each pixel, if the gradient in the weights is added up
        self.xs: list[Scalar] = []
        # the values whose moments are taken
        self.values: list[Scalar] = []

    def add(self, m: int, pixel: Pixel) -> None:
        """Compute and store what belongs to pixel m, and add it to the sums."""
        bound, epilogue, width = self.bound, self.bound.epilogue, self.width
        others = [slot for slot in (epilogue.moments, epilogue.x) if slot is not None]
        read = [
            expression.load(x, (*pixel, self.k), width) if one is None else one
            for x, one in zip(bound.extras, self.same, strict=True)
        ]
        slots = (*epilogue.results, *epilogue.sums, *others)
        values = expression.evaluate([self.totals[m], *read], epilogue.steps, slots)
        for y, value in zip(bound.outputs, values, strict=False):
            expression.store(y, (*pixel, self.k), value, width, bound.aligned)
        rest = values[len(epilogue.results) :]
        summed = rest[: len(epilogue.sums)]
        self.sums = [a + b for a, b in zip(self.sums, summed, strict=True)] if m else summed
        if epilogue.moments is not None:
            self.values.append(rest[len(epilogue.sums)])
        if epilogue.x is not None:
            self.xs.append(rest[-1])

    def write(self) -> None:
        """Add the sums of all pixels, and their moments, to the task's."""
        partial, epilogue, task, k, width = self.bound.partial, self.bound.epilogue, self.task, self.k, self.width
        for row, increment in enumerate(self.sums):
            partial.store((task, row, k), partial.load((task, row, k), width) + increment, width)
        if epilogue.moments is not None:
            moments.accumulate(partial, task, epilogue.sum_rows, self.values, k, width)


def tap_rows(weight_grad: View) -> list[View]:
    """The channels [K] of each tap of [K, 1, R, S], row after row of the window."""
    by_channel, _, by_row, by_column = weight_grad.strides
    K, _, R, S = weight_grad.shape
    row = weight_grad.over((K,), (by_channel,))
    return [replace(row, offset=row.offset + r * by_row + s * by_column) for r in range(R) for s in range(S)]


def repeated(x: Array) -> bool:
    """True if all pixels of the image read the same."""
    return all(is_repeated(stride) for stride in x.strides[:3])


@overload
def exceeds_l2(x: View) -> bool: ...
@overload
def exceeds_l2(x: Array) -> bool | Value: ...


def exceeds_l2(x: Array | View) -> bool | Value:
    """True if the array is larger than the second-level cache, so that reading it has to wait unless it is prefetched.

    A tile's pixels lie in several short rows, which the hardware's prefetcher does not foresee.
    """
    elements: Index = math.prod(x.extents)
    return FLOAT_BYTES * elements > l2()


def combine_tasks(*arrays: Array, sums: int, tail: int) -> None:
    """Add up the tasks' partial sums [tasks, rows, K] in their order, and merge their moments.

    arrays: `sums` arrays [K], one [2, K] for mean and biased variance if the epilogue takes moments, and the partial
    sums. tail: how many channels are left by whole vectors of them.
    """
    totals, partial = arrays[:-1], arrays[-1]
    tasks, _, K = partial.extents
    # threads share the channels
    for k, width in parallel_vectors(K, tail=tail):
        for row, y in enumerate(totals[:sums]):
            total = var(0.0, width)
            for task in loop(tasks):
                total += partial.load((task, row, k), width)
            y.store((k,), total, width)
        if sums < len(totals):
            moments.merge_tasks(totals[sums], partial, sums, k, width)
