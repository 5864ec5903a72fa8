"""Kernels whose sizes are given by their call, and kernels that call functions by address."""

import ctypes

import numpy as np
import pytest

from foveal.errors import KernelError
from foveal.kernel import compile as kernels
from foveal.kernel.compile import ArraySpec, Kernel, Size
from foveal.kernel.lang import loop, parallel
from foveal.kernel.target import host


def run(kernel, arrays, sizes=()):
    """Run a kernel on arrays, alone."""
    code = kernels.native([kernel, *kernel.functions])
    words = [*(a.ctypes.data for a in arrays), *sizes, *code.addresses[1:], 0]
    table = np.array(words, np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code.addresses[0])
    call(table.ctypes.data, 0, 1)


def doubled(y, x):
    for i, j in parallel(*y.extents):
        y[i, j] = x[i, j] * 2.0


def of_size(count, stride):
    """[count, 3] with rows `stride` elements apart."""
    return ArraySpec((count, 3), (stride, 1))


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_one_code_serves_all_numbers_of_rows(rows):
    kernel = Kernel(doubled, (of_size(Size(0), 3), of_size(Size(0), Size(1))), sizes=2)
    memory = np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)
    native, plain = np.full((rows, 3), np.nan, np.float32), np.full((rows, 3), np.nan, np.float32)
    run(kernel, [native, memory], (rows, 5))
    kernel.interpret([plain, memory[:, :3]])
    np.testing.assert_array_equal(native, memory[:, :3] * np.float32(2))
    np.testing.assert_array_equal(plain, native)


def test_numbers_of_a_call_are_no_part_of_the_code():
    kernel = Kernel(doubled, (of_size(Size(0), 3), of_size(Size(0), 3)), sizes=1)
    fixed = Kernel(doubled, (of_size(4, 3), of_size(4, 3)))
    assert kernels.key(kernel, host()) != kernels.key(fixed, host())


def in_steps(y, x):
    for row in loop(x.extents[0], start=1, step=2, adds=True):
        y[row, 0] = x[row, 0] + x[row + 1, 1]
        # the products count in a loop around others too
        for j in loop(y.extents[1], start=1):
            y[row, j] = x[row, 2]


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_products_of_an_index_that_are_added_up_are_those_that_are_multiplied(rows):
    arrays = (ArraySpec((Size(0), 3), (Size(1), 1)), ArraySpec((Size(0), 3), (Size(2), 1)))
    memory = np.random.default_rng(rows).standard_normal((rows + 2, 7)).astype(np.float32)
    native = np.full((rows + 2, 5), np.nan, np.float32)
    run(Kernel(in_steps, arrays, sizes=3), [native, memory], (rows, 5, 7))
    want = np.full((rows + 2, 5), np.nan, np.float32)
    want[1:rows:2, 0] = memory[1:rows:2, 0] + memory[2 : rows + 1 : 2, 1]
    want[1:rows:2, 1:3] = memory[1:rows:2, 2:3]
    np.testing.assert_array_equal(native, want)


def rows_of(y, x, *, functions):
    (function,) = functions
    for (i,) in parallel(y.shape[0]):
        function(y.at(i, 0), x, i * 2)


def function_kernel(by):
    y, x = ArraySpec((4, 3), (3, 1)), ArraySpec((16,), (1,))
    return Kernel(rows_of, (y, x), functions=(Kernel(shifted_row, (y, x), (("by", by),), indices=1),))


def shifted_row(y, x, start, *, by):
    for i in loop(3):
        y[0, i] = x[start + i] + by


@pytest.mark.parametrize("by", [0.5, 8.0])
def test_a_function_is_called_by_address_with_arrays_and_indices(by):
    kernel = function_kernel(by)
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    native, plain = np.full((4, 3), np.nan, np.float32), np.full((4, 3), np.nan, np.float32)
    run(kernel, [native, x])
    kernel.interpret([plain, x])
    np.testing.assert_array_equal(native, np.stack([x[2 * i : 2 * i + 3] for i in range(4)]) + np.float32(by))
    np.testing.assert_array_equal(plain, native)


def test_kernels_that_differ_in_their_functions_share_their_code():
    one, other = function_kernel(0.5), function_kernel(8.0)
    assert kernels.key(one, host()) == kernels.key(other, host())
    assert kernels.key(one.functions[0], host()) != kernels.key(other.functions[0], host())


def test_a_function_has_no_parallel_loop():
    function = Kernel(doubled, (of_size(4, 3), of_size(4, 3)), indices=0)
    with pytest.raises(KernelError, match="its caller has the loop"):
        kernels.build_ir(function, host(), "k")


def test_the_arrays_of_a_function_have_the_strides_that_it_was_built_for():
    y, x = ArraySpec((4, 3), (3, 1)), ArraySpec((16,), (1,))
    other = Kernel(shifted_row, (ArraySpec((4, 3), (5, 1)), x), (("by", 1.0),), indices=1)
    with pytest.raises(AssertionError, match="strides"):
        kernels.build_ir(Kernel(rows_of, (y, x), functions=(other,)), host(), "k")
