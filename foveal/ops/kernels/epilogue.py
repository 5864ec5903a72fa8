"""What becomes of a convolution's sums before they are stored: pointwise steps, and sums over all pixels per channel.

A fused group gives the steps (nest.Step): slot 0 is the convolution's sum, the next slots are the arrays read at the
same place, then come the steps. An operator that can end with them says so by `epilogues` and is lowered to
`EpilogueOutputs`; its kernel calls `BoundEpilogue.store` with its register tile where it would store it.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from foveal.kernel.lang import LINE, lanes, loop, parallel, splat, var, vectors, where
from foveal.ops.kernels import expression
from foveal.ops.op import Lowering

FAR = 1 << 18  # elements of an array that does not stay in the second-level cache


PIVOT, SUM, SQUARES, COUNT = range(4)  # rows of partial moments


@dataclass(frozen=True)
class Epilogue:
    """results: the slot of each stored array. sums: slots added up over N, P and Q. moments: the slot whose mean and
    variance per channel are taken, if any.
    """

    steps: tuple[expression.Step, ...] = ()
    results: tuple[int, ...] = (0,)
    sums: tuple[int, ...] = ()
    moments: int | None = None

    @property
    def rows(self) -> int:
        """Rows of partial sums that each task keeps."""
        return len(self.sums) + (4 if self.moments is not None else 0)


@dataclass(frozen=True)
class EpilogueOutputs:
    """Where a convolution's results go. outputs: one array per stored slot; extras: the arrays the steps read, all of
    the
    output's logical shape (strides 0 where they are repeated). sums: [K] each; moments: [2, K], mean and biased
    variance.
    """

    outputs: list[Any]
    extras: list[Any] = field(default_factory=list)
    epilogue: Epilogue = Epilogue()
    sums: list[Any] = field(default_factory=list)
    moments: Any = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, K, P, Q]"""
        N, K, P, Q = self.outputs[0].shape
        return N, K, P, Q

    def each(self, change: Any) -> "EpilogueOutputs":
        """The same with every array of the output's shape seen differently."""
        outputs, extras = [change(v) for v in self.outputs], [change(v) for v in self.extras]
        return replace(self, outputs=outputs, extras=extras)

    def call(self, to: Lowering, body: Any, tasks: int, scratch: list[Any], inputs: list[Any], **static: Any) -> None:
        """Call `body`(*outputs, partial, *scratch, *inputs, *extras), then combine what its tasks have summed."""
        K = self.shape[1]
        partial = to.scratch((tasks, max(self.epilogue.rows, 1), K if self.epilogue.rows else 1))
        nhwc = self.each(lambda v: v.permuted(0, 2, 3, 1))
        to.call(body, [*nhwc.outputs, partial, *scratch], [*inputs, *nhwc.extras], epilogue=self.epilogue, **static)
        if self.epilogue.rows:
            to.call(
                combine,
                [*self.sums, *([self.moments] if self.moments is not None else [])],
                [partial],
                sums=len(self.sums),
            )


class BoundEpilogue:
    """An epilogue bound to the arrays of one kernel; images are [N, P, Q, K]."""

    def __init__(self, epilogue: Epilogue, arrays: tuple[Any, ...], between: int) -> None:
        """arrays: the kernel's, ordered as in `EpilogueOutputs.call`; `between` of them are scratch and inputs."""
        self.epilogue = epilogue
        self.aligned = True  # whether `store` begins at multiples of its width
        count = len(epilogue.results)
        self.outputs, self.partial = arrays[:count], arrays[count]
        self.own = arrays[count + 1 : count + 1 + between]  # scratch and inputs
        self.extras = arrays[count + 1 + between :]
        self.far = [x for x in self.extras if not repeated(x) and math.prod(x.shape) > FAR]

    def open(self, task: Any, k: Any, width: int) -> None:
        """Before the first sums of a task for channels k ... k + width."""
        for row in range(self.epilogue.rows):
            self.partial.store((task, row, k), 0.0, width)

    def open_all(self, task: Any, channels: int) -> None:
        """Before the first sums of a task that has all channels."""
        for k, width in vectors(channels) if self.epilogue.rows else ():
            self.open(task, k, width)

    def prefetch(self, pixels: list[tuple[Any, Any, Any]], k: Any, channels: int) -> None:
        """Bring early what `store` will read at the pixels for `channels` channels from k on."""
        for x in self.far:
            for pixel in pixels:
                for line in range(0, channels, LINE):
                    x.prefetch((*pixel, k + line))

    def store(self, task: Any, pixels: list[tuple[Any, Any, Any]], totals: list[Any], k: Any, width: int) -> None:
        """Finish the sums `totals` of pixels (n, p, q) for channels k ... k + width, and store them."""
        e, values = self.epilogue, []
        wanted = (*e.results, *e.sums, *((e.moments,) if e.moments is not None else ()))
        same = [expression.load(x, (0, 0, 0, k), width) if repeated(x) else None for x in self.extras]
        for pixel, total in zip(pixels, totals, strict=True):
            read = [
                expression.load(x, (*pixel, k), width) if one is None else one
                for x, one in zip(self.extras, same, strict=True)
            ]
            found = expression.evaluate([total, *read], e.steps, wanted)
            for y, value in zip(self.outputs, found, strict=False):
                expression.store(y, (*pixel, k), value, width, self.aligned)
            values.append(found[len(e.results) :])
        for row in range(len(e.sums)):
            total = added([found[row] for found in values])
            self.partial.store((task, row, k), self.partial.load((task, row, k), width) + total, width)
        if e.moments is not None:
            self.add_moments(task, [found[-1] for found in values], k, width)

    @property
    def pixelwise(self) -> bool:
        """Whether `finish` cannot do what `store` does: pixels read values of their own, or are added up."""
        return bool(self.epilogue.rows) or not all(repeated(x) for x in self.extras)

    def finish(self, total: Any, k: int) -> list[Any]:
        """What is stored of sums of channel k: a vector whose lanes are pixels."""
        read = [x[0, 0, 0, k] for x in self.extras]
        found = expression.evaluate([total, *read], self.epilogue.steps, self.epilogue.results)
        return [splat(value, lanes()) for value in found]

    def add_moments(self, task: Any, values: list[Any], k: Any, width: int) -> None:
        """Sums of d and d^2, where d is the distance from a pivot: the mean of the task's first values.

        So near the mean, d^2 loses no digits, as x^2 would where the mean is large.
        """
        first = len(self.epilogue.sums)

        def row(i: int) -> Any:
            return self.partial.load((task, first + i, k), width)

        count = row(COUNT)
        pivot = where(count == 0.0, added(values) * (1.0 / len(values)), row(PIVOT))
        distances = [value - pivot for value in values]
        total = row(SUM) + added(distances)
        squares = row(SQUARES) + added([d * d for d in distances])
        for i, value in enumerate((pivot, total, squares, count + float(len(values)))):
            self.partial.store((task, first + i, k), value, width)


def added(values: list[Any]) -> Any:
    """The sum, two by two, so that additions do not wait for each other."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def repeated(x: Any) -> bool:
    """Whether all pixels read the same."""
    return not any(x.strides[:3])


def combine(*arrays: Any, sums: int) -> None:
    """totals[k] = the tasks' sums in their order; moments[., k] = theirs, merged as in Chan, Golub and LeVeque 1979."""
    totals, partial = arrays[:-1], arrays[-1]
    tasks, _, K = partial.shape

    def over(k: Any, width: int) -> None:
        for row, y in enumerate(totals[:sums]):
            total = var(0.0, width)
            for task in loop(tasks):
                total += partial.load((task, row, k), width)
            y.store((k,), total, width)
        if sums < len(totals):
            merge_moments(totals[sums], partial, sums, k, width)

    for (b,) in parallel(K // lanes()):
        over(b * lanes(), lanes())
    if K % lanes():
        for _ in parallel(1):
            over(K - K % lanes(), K % lanes())


def merge_moments(y: Any, partial: Any, first: int, k: Any, width: int) -> None:
    mean, squares, before = var(0.0, width), var(0.0, width), var(0.0, width)
    for task in loop(partial.shape[0]):
        pivot, added, squared, count = (partial.load((task, first + i, k), width) for i in (PIVOT, SUM, SQUARES, COUNT))
        shift = added / count
        delta = pivot + shift - mean.get()
        share = count / (count + before.get())
        mean += delta * share
        squares += squared - shift * added + delta * delta * before.get() * share
        before += count
    y.store((0, k), mean, width)
    y.store((1, k), squares.get() / before.get(), width)
