"""Copies from one memory order to another: every element in its place, nothing outside is touched, NaN is found."""

from dataclasses import replace

import numpy as np
import pytest

from foveal.bind import make_table
from foveal.checking.guard_pages import allocator
from foveal.kernel import runtime
from foveal.kernel.compile import native
from foveal.kernel.target import assume, host
from foveal.lower import lower_copy
from foveal.strides import channels_last, contiguous, ordered
from foveal.view import Buffer, View

# rows of one vector or less, of some, and with remainders; few and many channels; parts of more than one square
SHAPES = [
    (2, 3, 5, 7),
    (2, 3, 8, 4),
    (1, 2, 9, 1),
    (3, 7, 5, 8),
    (2, 8, 3, 5),
    (2, 33, 9, 9),
    (1, 64, 8, 8),
    (2, 70, 9, 11),
]
WIDTHS = [(4, 16), (8, 16), (16, 32)]


def views(shape, to, order, large):
    size = int(np.prod(shape))
    # a large array that nobody else sees is written past the cache
    y = Buffer(size, argument=not large)
    return View(y, shape, to(shape)), View(Buffer(size), shape, order(shape))


def array(memory, view):
    return np.lib.stride_tricks.as_strided(memory, view.shape, [memory.itemsize * s for s in view.strides])


def run_native(call, memory):
    code = native(list(call.kernels))
    table = make_table([call], [0], code.addresses, memory, None)
    runtime.alone()(table.ctypes.data, 1, 0)


def run_plain(call, memory):
    call.kernel.interpret([array(memory[view.buffer], view) for view in call.views], sizes=call.sizes)


def checked_copies(y, x, lanes, registers):
    """Yield (call, run, memory) for the checked copy of x to y, in plain Python and native, at this width.

    The memory is NaN. There is no such copy where both axes are shorter than a vector.
    """
    with assume(replace(host(), lanes=lanes, registers=registers)):
        call = lower_copy(y, x, checked=True)
        if call is None:
            assert min(int(np.prod(x.shape[2:])), x.shape[1]) < 8
            return
        for run in (run_plain, run_native):
            yield call, run, {v.buffer: np.full(v.buffer.size, np.nan, np.float32) for v in call.views}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("lanes", "registers"), WIDTHS)
def test_every_element_is_copied_to_its_place_at_every_width(shape, lanes, registers):
    rng = np.random.default_rng(0)
    for to, order in ((channels_last, contiguous), (contiguous, channels_last), (channels_last, channels_last)):
        y, x = views(shape, to, order, large=False)
        for call, run, memory in checked_copies(y, x, lanes, registers):
            values = rng.standard_normal(x.buffer.size).astype(np.float32)
            memory[x.buffer][:] = values
            run(call, memory)
            np.testing.assert_array_equal(array(memory[y.buffer], y), array(values, x))
            assert memory[call.views[1].buffer].max() == abs(values).max()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 33, 9, 9), (2, 3, 8, 4)], ids=str)
@pytest.mark.parametrize(("lanes", "registers"), WIDTHS)
def test_float64_is_rounded_to_float32_at_every_width(shape, lanes, registers):
    for order in (contiguous, channels_last):
        y, x = views(shape, channels_last, order, large=False)
        wide = View(Buffer(x.buffer.size, "float64"), shape, order(shape))
        for call, run, memory in checked_copies(y, wide, lanes, registers):
            memory[wide.buffer] = np.random.default_rng(0).standard_normal(wide.buffer.size)
            run(call, memory)
            given = array(memory[wide.buffer], wide)
            np.testing.assert_array_equal(array(memory[y.buffer], y), given.astype(np.float32))
            memory[wide.buffer][-1] = 1e300
            run(call, memory)
            assert memory[call.views[1].buffer].max() == np.inf


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (2, 33, 9, 9), (1, 1, 5, 5)], ids=str)
def test_what_is_not_finite_is_found_wherever_it_stands(shape, value):
    y, x = views(shape, channels_last, contiguous, large=False)
    call = lower_copy(y, x, checked=True)
    memory = {v.buffer: np.zeros(v.buffer.size, np.float32) for v in call.views}
    largest = memory[call.views[1].buffer]
    for place in {0, 1, 34, 35, 36, x.buffer.size // 2, x.buffer.size - 1} & set(range(x.buffer.size)):
        memory[x.buffer][:] = 1e38
        run_native(call, memory)
        assert np.isfinite(largest).all()
        memory[x.buffer][place] = value
        run_native(call, memory)
        assert not np.isfinite(largest).all()


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("large", [False, True])
def test_nothing_outside_of_the_arrays_is_touched(at_end, large):
    """An access there would end this process."""
    new = allocator(at_end)
    # what is written past the cache begins on a cache line
    shapes = SHAPES if not large else [(4, 3, 32, 16), (2, 16, 16, 8)]
    small_cache = replace(host(), llc=1 << 10)
    for shape in shapes:
        for to, order in ((channels_last, contiguous), (contiguous, channels_last), (contiguous, contiguous)):
            y, x = views(shape, to, order, large)
            with assume(small_cache):
                call = lower_copy(y, x, checked=True)
                if call is None:
                    continue
                assert call.kernel.arrays[0].streamed == (large and call.kernel.name == "strips")
                memory = {v.buffer: new(4 * v.buffer.size).view(np.float32) for v in call.views}
                memory[x.buffer][:] = np.arange(x.buffer.size)
                run_native(call, memory)
            np.testing.assert_array_equal(array(memory[y.buffer], y), array(memory[x.buffer], x))


def test_parts_of_larger_arrays_are_copied_too():
    """Rows of a crop, which have gaps between them."""
    whole = np.arange(2 * 5 * 12 * 20, dtype=np.float32).reshape(2, 5, 12, 20)
    crop = whole[:, 1:4, 1:11, 2:18]
    x = View(Buffer(whole.size), crop.shape, tuple(s // 4 for s in crop.strides))
    y = View(Buffer(crop.size, argument=True), crop.shape, channels_last(crop.shape))
    call = lower_copy(y, x, checked=False)
    assert [view.shape for view in call.views] == [(2, 10, 1, 48), (2, 10, 3, 16)]
    memory = {x.buffer: whole.reshape(-1)[crop.ctypes.data // 4 - whole.ctypes.data // 4 :]}
    memory[y.buffer] = np.full(crop.size, np.nan, np.float32)
    run_native(call, memory)
    np.testing.assert_array_equal(array(memory[y.buffer], y), crop)


def test_there_is_no_kernel_for_orders_in_which_neither_side_has_neighbours():
    shape = (4, 16, 16)
    y = View(Buffer(1024), shape, ordered(shape, (0, 1, 2)))
    assert lower_copy(y, View(Buffer(2048), shape, (512, 32, 2)), checked=False) is None
    # a vector of each axis is needed
    assert lower_copy(View(Buffer(9), (3, 3), (3, 1)), View(Buffer(9), (3, 3), (1, 3)), checked=False) is None
