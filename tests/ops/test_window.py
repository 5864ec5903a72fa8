"""Windows over images: their outputs against counting, their NumPy views and adjoints, words for padding, errors."""

import numpy as np
import pytest

from foveal import ops
from foveal.errors import ShapeError
from foveal.ops.window import Window, pair, sides

WINDOWS = [
    Window((3, 2)),
    Window((2, 3), stride=(2, 3)),
    Window((3, 3), padding=(1, 0, 2, 1)),
    Window((2, 2), stride=(3, 1), padding=(0, 2, 1, 1), dilation=(2, 3)),
]
IMAGE = (7, 8)


def counted(window, axis):
    """The number of windows that lie in the padded image, by trying one position after another."""
    n = IMAGE[axis] + window.padding[2 * axis] + window.padding[2 * axis + 1]
    last_tap = (window.size[axis] - 1) * window.dilation[axis]
    return len([start for start in range(0, n, window.stride[axis]) if start + last_tap < n])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_outputs_are_the_windows_that_fit(window):
    assert window.outputs("test", IMAGE) == (counted(window, 0), counted(window, 1))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_view_shows_what_positions_say(window):
    x = np.random.default_rng(0).standard_normal((2, 3, *IMAGE))
    view = window.view(x, padding=-1.0)
    assert view.shape == (2, 3, *window.outputs("test", IMAGE), *window.size)
    for p, q, r, s in np.ndindex(view.shape[2:]):
        h, v = window.position(0, p, r), window.position(1, q, s)
        inside = h in range(IMAGE[0]) and v in range(IMAGE[1])
        assert (view[:, :, p, q, r, s] == (x[:, :, h, v] if inside else -1.0)).all()
        assert (h in window.read(0, p, IMAGE[0])) == (h in range(IMAGE[0]))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_adding_back_is_the_adjoint_of_the_view(window):
    rng = np.random.default_rng(1)
    x, start = rng.standard_normal((2, 2, 3, *IMAGE))
    values = rng.standard_normal(window.view(x).shape)
    added = start.copy()
    window.add_to(added, values)
    np.testing.assert_allclose(np.sum(window.view(x) * values), np.sum(x * (added - start)))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_arguments_are_the_inverse_of_of(window):
    assert Window.of("test", **window.arguments()) == window


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_padding_same_keeps_the_size(size, dilation):
    window = Window.of("test", size, padding="same", dilation=dilation)
    assert window.outputs("test", IMAGE) == IMAGE
    top, bottom, left, right = window.padding
    assert bottom - top == right - left == dilation * (size - 1) % 2


def test_padding_valid_is_none():
    assert Window.of("test", 3, padding="valid").padding == (0, 0, 0, 0)


def test_poolings_have_the_size_for_a_stride_where_there_is_none():
    x = np.zeros((1, 1, 9, 9), np.float32)
    for op in (ops.max_pool2d, ops.avg_pool2d, ops.lp_pool2d):
        assert op.normalise(x, kernel_size=(2, 3), stride=None)["window"].stride == (2, 3)
    with pytest.raises(ShapeError, match=r"test: stride is .*, it has to be an int or two ints"):
        Window.of("test", (2, 3), None)


@pytest.mark.parametrize(
    ("n", "size", "stride", "padding", "expected"),
    [
        # one more window, which begins in the image
        (6, 3, 2, 0, 3),
        # all is read without one more
        (7, 3, 2, 0, 3),
        (5, 2, 4, 1, 2),
        # one that would begin in the padding after the image is left out
        (3, 1, 3, 1, 2),
    ],
)
def test_rounded_up_as_many_windows_as_begin_before_the_end(n, size, stride, padding, expected):
    window = Window.of("test", size, stride, padding).ceiled((n, n))
    assert window.outputs("test", (n, n)) == (expected, expected)


def test_numbers_for_rows_and_columns():
    assert pair(np.int64(2), "test") == (2, 2)
    assert pair([2, 3], "test") == (2, 3)
    assert sides(1, "test") == (1, 1, 1, 1)
    assert sides((1, 2), "test") == (1, 1, 2, 2)
    assert sides((1, 2, 3, 4), "test") == (1, 2, 3, 4)


REFUSED = {
    "three sizes": (lambda: Window.of("pool", (1, 2, 3)), "pool: kernel_size is .*, it has to be an int or two ints"),
    "three sides": (
        lambda: Window.of("pool", 2, 1, (1, 2, 3)),
        r"padding is .*, it has to be an int, \(rows, columns\) or",
    ),
    "size 0": (lambda: Window.of("pool", 0), r"pool: kernel size \(0, 0\) has to be 1 or more"),
    "stride 0": (lambda: Window.of("pool", 2, 0), r"pool: stride \(0, 0\) has to be 1 or more"),
    "dilation 0": (lambda: Window.of("pool", 2, 1, "same", 0), r"pool: dilation \(0, 0\) has to be 1 or more"),
    "padding -1": (lambda: Window.of("pool", 2, 1, -1), r"pool: padding \(-1, -1, -1, -1\) has to be 0 or more"),
    "word": (lambda: Window.of("pool", 2, 1, "full"), "pool: padding is 'full'; choose 'same', 'valid' or numbers"),
    "same, stride": (lambda: Window.of("pool", 2, 2, "same"), "padding='same' is for stride 1, the stride is"),
    "too large": (lambda: Window((9, 1)).outputs("pool", IMAGE), "pool: the kernel reaches over 9 rows"),
    "padding only": (
        lambda: Window((1, 1), padding=(0, 0, 0, 2)).outputs_inside("pool", IMAGE),
        "pool: window 8 of 10 along the columns lies outside of the image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_window_is_refused(name):
    build, words = REFUSED[name]
    with pytest.raises(ShapeError, match=words):
        build()
