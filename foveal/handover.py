"""Handing arrays over: what a caller gives is copied into a program's memory, and results into arrays of their own.

A program computes on memory of its own, so a caller may change an array as soon as a call has returned, and keep what
it got. Large arrays are copied by native code on the program's threads, from the caller's memory order to the
program's, at the rate at which memory is copied; what is given is checked for NaN and infinity on the way, and float64
becomes float32. So are arrays with gaps, such as crops, when the second one with the same strides comes. Small arrays
are copied, and were checked before, by NumPy, which begins sooner.
"""

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.bind import make_table
from foveal.errors import NumericsError
from foveal.kernel import runtime
from foveal.kernel.builder import PARALLEL_LOOPS
from foveal.kernel.compile import Kernel, native
from foveal.kinds import as_float32
from foveal.lower import KernelCall, Lowered, lower_copy
from foveal.strides import Ndarray, Shape, memory_order, ordered
from foveal.view import Buffer, View
from foveal.workers import workers

# Bytes of an array from which on it is copied by native code. From 500 elements on NumPy hands Python's lock to other
# threads while it copies, and to get it back takes longer than the copy.
LARGE = 1 << 11
# Bytes up to which a copy, of some microseconds, keeps Python's lock; and from which on threads share it: telling them
# takes about as long as copying half of it.
BRIEF, SHARED = 1 << 17, 1 << 18
# Images of fewer channels than this are copied into channels-last memory channel by channel, where NumPy does it, so
# that its innermost loop runs over pixels.
MIN_CHANNELS = 9
# Bits of infinity. A float32 read as an integer is larger only if it is NaN.
INFINITY = 0x7F800000
# Other ways in which arrays lie, of each argument, of which a native copy is kept.
MOST_WAYS = 8
# The words of a record in a table of calls, which the addresses of its arrays follow.
RECORD = 3


def check_finite(x: Ndarray, what: str) -> None:
    """Raise NumericsError if x holds NaN or infinity; the message names the first one."""
    # One fast pass: a sum is finite only if all elements are. One that overflows is looked at below.
    if x.nbytes < LARGE and x.flags.c_contiguous:
        # of squares, for which NumPy looks for no errors of its own
        total = np.vdot(x, x)
    else:
        with np.errstate(all="ignore"):
            total = x.sum()
    if math.isfinite(total):
        return
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        raise NumericsError(
            f"{what} holds {x[index]} at index {index} ({len(bad)} of {x.size} values are NaN or infinite);"
            " clean the data. Nothing was computed"
        )


def check_early(x: Ndarray, what: str) -> str:
    """Check a small array, and return ""; of a large one return its name, by which it is checked when it is copied."""
    if x.nbytes >= LARGE:
        return what
    check_finite(x, what)
    return ""


@dataclass(frozen=True)
class Handover:
    """The native copies of a program, by number of the argument or result; none of small ones."""

    #: by the caller's memory order, outermost axis first: how an argument is copied. float32 is checked
    arguments: dict[int, dict[Shape, KernelCall]]
    #: how a result is copied into an array in C order
    results: dict[int, KernelCall]

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels of all copies."""
        calls = [*(call for orders in self.arguments.values() for call in orders.values()), *self.results.values()]
        return [call.kernel for call in calls]


def plan_handover(lowered: Lowered) -> Handover:
    """Return how the arguments and results of a program are copied by native code."""
    arguments: dict[int, dict[Shape, KernelCall]] = {}
    results: dict[int, KernelCall] = {}
    for number, view in large(lowered.arguments):
        own = own_memory(view)
        checked = view.buffer.dtype == "float32"
        # as NumPy makes arrays, and as the program has them
        orders = dict.fromkeys([tuple(range(len(view.shape))), memory_order(view.strides)])
        calls = {order: lower_copy(own, of_caller(view, order), checked) for order in orders}
        arguments[number] = {order: call for order, call in calls.items() if call is not None}
    for number, view in large(lowered.outputs):
        call = lower_copy(of_caller(view, tuple(range(len(view.shape)))), view.over(view.shape, view.strides), False)
        if call is not None:
            results[number] = call
    return Handover(arguments, results)


def large(views: Sequence[View]) -> Iterator[tuple[int, View]]:
    """Yield the arrays that are copied by native code, with their numbers."""
    for number, view in enumerate(views):
        if 4 * math.prod(view.shape) >= LARGE:
            yield number, view


def own_memory(view: View) -> View:
    """Return an argument in the program's memory as what is written past the cache, if it is as large as values are
    that are written so.
    """
    return View(Buffer(view.buffer.size, view.buffer.dtype), view.shape, view.strides)


def of_caller(view: View, order: Shape) -> View:
    """Return an array of the caller's, of a view's shape and dtype, whose axes lie in this order, outermost first."""
    return View(Buffer(view.buffer.size, view.buffer.dtype, argument=True), view.shape, ordered(view.shape, order))


class Copier:
    """A native copy that is made again and again, by one thread at a time."""

    def __init__(self, call: KernelCall, threads: int) -> None:
        """threads: how many may make it at most."""
        self.code = native([call.kernel])
        size = 4 * math.prod(call.views[0].shape)
        self.shared, self.locked = size >= SHARED, size <= BRIEF
        self.divided = threads > 1
        self.counters = np.zeros((1, PARALLEL_LOOPS * threads), np.int64)
        # the arrays' addresses are given in each run
        memory = {view.buffer: np.zeros(1, np.float32) for view in call.views}
        checked = call.written[1:]
        # what the kernel finds while it reads: largest magnitudes, and their bits
        largest = np.zeros(checked[0].buffer.size if checked else 1, np.float32)
        self.bits = largest.view(np.int32)
        memory |= {view.buffer: largest for view in checked}
        counters = self.counters if threads > 1 else None
        self.table = make_table([call], [0], self.code.addresses, memory, counters)
        self.source = RECORD + len(call.views) - 1
        self.records = self.table.ctypes.data

    def run(self, target: int, source: int, threads: int) -> None:
        """Copy from one address to another, on so many threads."""
        self.table[RECORD], self.table[self.source] = target, source
        if self.divided:
            self.counters[:] = 0
        if threads == 1 or not self.shared:
            runtime.alone(self.locked)(self.records, 1, 0)
        else:
            workers().run(threads, self.records, 1)

    def found_finite(self) -> bool:
        """Return True if all that the last run has read was finite."""
        return int(self.bits.item() if self.bits.size == 1 else self.bits.max()) < INFINITY


class Entrance:
    """The memory of an argument, and how it is filled."""

    def __init__(self, memory: Ndarray, view: View, copies: dict[Shape, KernelCall], threads: int) -> None:
        """view: what lies in this memory."""
        self.memory, self.address, self.view, self.threads = memory, memory.ctypes.data, view, threads
        self.shape, self.dtype = memory.shape, memory.dtype
        # with the strides in bytes of the arrays that each copies
        self.copiers = [
            (order, tuple(memory.itemsize * stride for stride in ordered(memory.shape, order)), Copier(call, threads))
            for order, call in copies.items()
        ]
        # by dtype and strides in bytes: the copies of other arrays that have come twice without one that lies otherwise
        # between, those of `copiers` aside; None where no kernel fits
        self.others: dict[tuple[np.dtype[Any], Shape], Copier | None] = {}
        self.last: tuple[np.dtype[Any], Shape] | None = None

    def fill(self, given: Ndarray, name: str, finite: bool, threads: int) -> None:
        """Copy what was given. Raises NumericsError for NaN and infinity in it, if it has to be finite, and DataError
        for float64 beyond the range of float32.
        """
        copier = self.copier(given) if self.copiers else None
        if copier is None:
            given = self.narrowed(given, name)
            if finite:
                check_finite(given, name)
            fill(self.memory, given)
            return
        copier.run(self.address, address(given), threads)
        is_narrowed = given.dtype != self.dtype
        if (finite or is_narrowed) and not copier.found_finite():
            if is_narrowed:
                self.narrowed(given, name)
            # of the copy: the caller's array may have been changed meanwhile
            if finite:
                check_finite(self.memory, name)

    def narrowed(self, given: Ndarray, name: str) -> Ndarray:
        """Return an array of float64 as float32, any other one as it is."""
        return given if given.dtype == self.dtype else as_float32(given, name or "an argument")

    def copier(self, given: Ndarray) -> Copier | None:
        """Return the native copy of arrays that lie as this one does; None if there is none."""
        if given.shape != self.shape or not given.flags.aligned:
            return None
        found = given.strides
        if given.dtype == self.dtype:
            for order, strides, copier in self.copiers:
                # along an axis of one element they say nothing
                if found == strides or (1 in self.shape and given.transpose(order).flags.c_contiguous):
                    return copier
        way = given.dtype, found
        # it takes some milliseconds to make one, which a single array is not worth
        if way not in self.others and way == self.last:
            if len(self.others) == MOST_WAYS:
                self.others.clear()
            call = self.call_for(given)
            self.others[way] = None if call is None else Copier(call, self.threads)
        self.last = way
        return self.others.get(way)

    def call_for(self, given: Ndarray) -> KernelCall | None:
        """Return a call that copies arrays of this dtype and these strides; None if there is no kernel for them."""
        size, kind = given.itemsize, str(given.dtype)
        apart = [stride for n, stride in zip(self.shape, given.strides, strict=True) if n > 1]
        if any(stride <= 0 or stride % size for stride in apart) or kind not in (self.view.buffer.dtype, "float64"):
            return None
        # axes of one element may have any stride: one that is none of a neighbour's
        strides = tuple(s // size if n > 1 else given.size for n, s in zip(self.shape, given.strides, strict=True))
        source = View(Buffer(given.size, kind, argument=True), self.shape, strides)
        return lower_copy(own_memory(self.view), source, self.view.buffer.dtype == "float32")


class Exit:
    """The memory of a result, and how it is handed out."""

    def __init__(self, memory: Ndarray, call: KernelCall | None, threads: int) -> None:
        self.memory, self.address = memory, memory.ctypes.data
        self.copier = Copier(call, threads) if call else None

    def copy(self, threads: int) -> Ndarray:
        """Return a copy in C order, for the caller to keep."""
        if self.copier is None:
            return self.memory.copy()
        made: Ndarray = np.empty(self.memory.shape, self.memory.dtype)
        self.copier.run(address(made), self.address, threads)
        return made


def address(array: Ndarray) -> int:
    """Return where the first element of an array lies that has one."""
    flags = array.flags
    if flags.c_contiguous and flags.writeable:
        # a third of the time of what follows
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return int(array.ctypes.data)


def fill(target: Ndarray, given: Ndarray) -> None:
    """Copy an argument into its memory, by NumPy."""
    if target.ndim == 4 and 1 < target.shape[1] < MIN_CHANNELS and given.strides != target.strides:
        for channel in range(target.shape[1]):
            target[:, channel] = given[:, channel]
    else:
        target[...] = given
