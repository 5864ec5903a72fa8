"""Sums of chunks that were computed apart, added in a fixed order, so that the number of threads changes no bit."""

from foveal.kernel.lang import (
    Array,
    Index,
    Value,
    lanes,
    loop,
    maximum,
    minimum,
    parallel,
    parallel_vectors,
    var,
    vectors,
)
from foveal.ops.kernels.sizes import CallSizes
from foveal.ops.op import Lowering
from foveal.ops.window import Pair
from foveal.view import View


def lower_kernel_sums(lowering: Lowering, dw: View, partial: View, first: Pair) -> None:
    """dw [K, C/G, R, S] = the gradients of the chunks, `partial` [chunks, R', S', C/G, K], added up.

    R' x S' is the part of the window that meets the image, whose first (row, column) is `first`. The weights of all
    other positions meet only padding, and their gradient is 0.
    """
    (K, c_group, R, S), (chunks, *window, _, _) = dw.shape, partial.shape
    if tuple(window) == (R, S):
        lower_sums(lowering, dw.permuted(2, 3, 1, 0).reshaped((R * S * c_group * K,)), partial)
        return
    total = dw.permuted(2, 3, 1, 0).reshaped((R, S, c_group * K))
    lowering.call(add_chunks_of_kernel, [total], [partial.reshaped((chunks, *window, c_group * K))], first=first)


def lower_sums(lowering: Lowering, total: View, partial: View) -> None:
    """total [n] = the sum over chunks of `partial` [chunks, ...], which has n elements in each."""
    (n,), sizes = total.shape, CallSizes()
    partial = partial.reshaped((partial.shape[0], n))
    specs = [sizes.spec(total), sizes.spec(partial)]
    lowering.call(add_chunks, [total], [partial], specs=specs, sizes=sizes.values, tail=n % lanes())


def add_chunks(total: Array, partial: Array, *, tail: int) -> None:
    """total[i] = the sum over chunks of partial[chunk, i], in their order. tail: the elements after whole vectors."""
    chunks, n = partial.extents
    for i, width in parallel_vectors(n, tail=tail):
        acc = var(0.0, width)
        for chunk in loop(chunks):
            acc += partial.load((chunk, i), width)
        total.store((i,), acc, width)


def add_chunks_of_kernel(total: Array, partial: Array, *, first: Pair) -> None:
    """total[r, s, i] = the sum over chunks of partial[chunk, r - first, s - first, i]; 0 where that has no element."""
    chunks, rows, columns, n = partial.shape
    for r, s in parallel(*total.shape[:2]):
        is_used = one_if_within(r, first[0], rows) * one_if_within(s, first[1], columns)
        for i, width in vectors(n):
            acc = var(0.0, width)
            # no iteration for a position without a sum, so its addresses are never read
            for chunk in loop(is_used * chunks):
                acc += partial.load((chunk, r - first[0], s - first[1], i), width)
            total.store((r, s, i), acc, width)


def one_if_within(i: Index, first: int, count: int) -> Value:
    """1 if first <= i < first + count, else 0."""
    return minimum(maximum(i - (first - 1), 0), 1) * minimum(maximum(first + count - i, 0), 1)
