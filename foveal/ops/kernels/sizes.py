"""Sizes and numbers that a kernel gets from its call, so that kernels that differ in them only share one code."""

from collections.abc import Callable, Hashable, Iterable, Sequence

from foveal.kernel.compile import ArraySpec, Size
from foveal.kernel.lang import LINE, Index
from foveal.ops.kernels.expression import Step
from foveal.ops.op import KEYED
from foveal.view import View

# Steps that combine the values of a row into one; see rows.py.
REDUCTIONS = ("sum", "max")


class CallSizes:
    """The sizes of one call, numbered in the order in which they are asked for."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.named: dict[Hashable, Size] = {}

    def of(self, n: int, *name: Hashable) -> Size:
        """The size n; those of the same name and value are one, and code that computes with them is shared.

        Which names are equal must not depend on the sizes, or kernels would differ by accident.
        """
        if (name, n) not in self.named:
            self.named[name, n] = Size(len(self.values))
            self.values.append(n)
        return self.named[name, n]

    def stride(self, n: int, *name: Hashable) -> int | Size:
        """The stride n as a size, unless it is that of a repeated element or of neighbours."""
        return n if n in (0, 1) else self.of(n, *name)

    def spec(self, view: View, *known: int, steps: Sequence[int] = ()) -> ArraySpec:
        """What a kernel is specialised to for this view, all of whose sizes the call gives but for the axes `known`.

        An axis of one place that is known has stride 0. steps: axes whose strides are known.
        """
        count = len(self.values)
        extents: list[int | Size] = []
        strides: list[int | Size] = []
        for axis, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
            extents.append(n if axis in known else self.of(n, count, axis))
            if axis in known and n == 1:
                strides.append(0)
            else:
                strides.append(stride if axis in steps else self.stride(stride, count, axis, "stride"))
        return spec_of(view, extents, strides)

    def batch(self, view: View, *name: Hashable) -> ArraySpec:
        """The spec of an array [N, ...] of which the call gives N alone, the number of images unless it has a name."""
        return spec_of(view, (self.of(view.shape[0], *(name or ("images",))), *view.shape[1:]), view.strides)

    def batch_specs(self, staged: View | None, known: Sequence[View]) -> Callable[[View], ArraySpec]:
        """The specs of a convolution's arrays, of which the call gives the numbers of images, tasks and staged rows.

        staged: [1, rows, ...] per thread, if anything is staged. known: arrays of which the call gives nothing.
        """

        def spec(view: View) -> ArraySpec:
            if any(view is other for other in known):
                return view.spec
            if view is staged:
                rows, of_thread = self.of(view.shape[1], "staged"), self.of(view.strides[0], "staged", "stride")
                return ArraySpec((1, rows, *view.shape[2:]), (of_thread, *view.strides[1:]))
            # partial sums [tasks, rows, K], or images
            return self.batch(view, "tasks") if len(view.shape) == 3 else self.batch(view)

        return spec

    def images(self, view: View, role: str) -> ArraySpec:
        """The spec of images [N, H, W, C], of which the call gives all but C and the strides of columns and channels.

        Images of one role that are equally large have their sizes in common, and so do their pixels' addresses.
        """
        N, H, W, C = view.shape
        by_image, by_row, *known = view.strides
        shape = (self.of(N, "images"), self.of(H, role, "rows"), self.of(W, role, "columns"), C)
        return spec_of(view, shape, (self.stride(by_image, role, 0), self.stride(by_row, role, 1), *known))


def spec_of(view: View, shape: Sequence[int | Size], strides: Sequence[int | Size]) -> ArraySpec:
    """What a kernel is specialised to for this view, with some of its shape and strides given by the call.

    Only an array whose rows begin on cache lines is written past the cache: its kernel needs not ask.
    """
    streamed = view.streamed and all(stride % LINE == 0 for stride in view.strides if stride != 1)
    return ArraySpec(tuple(shape), tuple(strides), view.buffer.dtype, streamed)


def is_neighbour(stride: Index | Size) -> bool:
    """True if this stride is known to be 1: places of the axis are neighbours in memory."""
    return isinstance(stride, int) and stride == 1


def is_repeated(stride: Index | Size) -> bool:
    """True if this stride is known to be 0: all places of the axis are the same element."""
    return isinstance(stride, int) and stride == 0


def numbers_apart(
    inputs: int, steps: tuple[Step, ...], results: tuple[int, ...], views: Iterable[View]
) -> tuple[tuple[Step, ...], tuple[int, ...], tuple[float, ...]]:
    """The straight-line program with its constants as slots after those of the inputs: (steps, results, numbers).

    A constant such as 1/N depends on sizes, and code does not have to. What is computed from constants alone is
    computed here, as it would be while the kernel is built. A 0 stays a step, since it makes code shorter. Beside views
    of integers nothing is set apart: a constant that meets integers is one itself, and numbers of a call are not.
    """
    has_constants = not all(operands for _, _, operands in steps)
    if not has_constants or any(view.buffer.dtype != "float32" for view in views):
        return steps, results, ()
    # by old slot: its number, for those that are known
    known: dict[int, float] = {}
    kept: list[tuple[int, Step]] = []
    for slot, step in enumerate(steps, start=inputs):
        name, attributes, operands = step
        value = None
        if name not in REDUCTIONS and all(operand in known for operand in operands):
            value = KEYED[name].scalar(*(known[i] for i in operands), **dict(attributes))
        if isinstance(value, float):
            known[slot] = value
        else:
            kept.append((slot, step))
    # numbers and zeros that are read, in the order in which they are
    read = dict.fromkeys(slot for _, (_, _, operands) in kept for slot in operands)
    read |= dict.fromkeys(results)
    numbers = [slot for slot in read if known.get(slot)]
    zeros = [slot for slot in read if known.get(slot) == 0.0]
    kept = [(slot, ("constant", (("value", known[slot]),), ())) for slot in zeros] + kept
    new = {slot: slot for slot in range(inputs)}
    new |= {slot: inputs + i for i, slot in enumerate([*numbers, *(slot for slot, _ in kept)])}
    renumbered = tuple((name, attributes, tuple(new[i] for i in operands)) for _, (name, attributes, operands) in kept)
    return renumbered, tuple(new[slot] for slot in results), tuple(known[slot] for slot in numbers)
