"""The folder of kernels: what it may hold; and the parts that its kernels are made of, in plain Python."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from foveal.errors import ShapeError
from foveal.kernel import target
from foveal.ops import kernels
from foveal.ops.kernels import epilogue, moments, pool
from foveal.ops.kernels.pointwise import largest_divisor
from foveal.ops.kernels.reduction import tree_sum
from foveal.ops.op import Operator
from foveal.ops.pool_window import MeanWindow
from foveal.ops.window import Window

FOLDER = Path(kernels.__file__).parent


def test_kernels_hold_no_operator():
    for path in FOLDER.rglob("*.py"):
        dotted = path.relative_to(FOLDER).with_suffix("").parts
        module = importlib.import_module(".".join((kernels.__name__, *dotted)).removesuffix(".__init__"))
        operators = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Operator) and value.__module__ == module.__name__
        ]
        assert operators == [], module.__name__


def test_the_table_of_kernels_lists_every_file():
    table = kernels.__doc__.split("----------------  -")[1]
    listed = {line.split()[0] for line in table.splitlines()[1:] if line.strip()}
    files = {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in FOLDER.glob("*/__init__.py")}
    assert listed == files | folders


def test_parts_merge_to_the_moments_of_all():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((40, 5)) + 100).astype(np.float32)
    running, before = moments.RunningMoments(5), 0.0
    for part in np.split(x, [3, 4, 20]):
        mean = part.mean(axis=0)
        running.merge(before, float(len(part)), mean, ((part - mean) ** 2).sum(axis=0))
        before += len(part)
    np.testing.assert_allclose(running.mean.get(), x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(running.squares.get() / len(x), x.var(axis=0, dtype=np.float64), rtol=1e-4)


@pytest.mark.parametrize(("rows", "channels", "chunks"), [(1, 3, 1), (64, 3, 8), (1000, 3, 16), (1 << 16, 64, 256)])
def test_moments_are_cut_by_the_cache_of_the_target(rows, channels, chunks):
    with target.assume(target.AVX2):
        assert moments.moment_chunks(rows, channels) == chunks


def test_what_is_larger_than_the_cache_is_prefetched():
    class Image:
        def __init__(self, *shape):
            self.shape = self.extents = shape

    with target.assume(target.AVX2):
        assert not epilogue.exceeds_l2(Image(1, 512, 512))
        assert epilogue.exceeds_l2(Image(1, 512, 513))


@pytest.mark.parametrize("count", range(1, 10))
def test_tree_sum_adds_every_value(count):
    assert tree_sum([float(1 << i) for i in range(count)]) == (1 << count) - 1


@pytest.mark.parametrize(("n", "limit", "divisor"), [(12, 5, 4), (7, 6, 1), (7, 7, 7), (30, 100, 30)])
def test_largest_divisor(n, limit, divisor):
    assert largest_divisor(n, limit) == divisor


@pytest.mark.parametrize("bounds", [(0, 0), (2, 5), (0, 9), (7, 3), (-2, 20), (9, 9)])
def test_a_loop_in_pieces_visits_each_position_once(bounds):
    visited = list(pool.loop_in_pieces(9, max(0, bounds[0]), bounds[1]))
    assert [i for i, _ in visited] == list(range(9))
    assert [i for i, known in visited if known] == [i for i in range(9) if bounds[0] <= i < bounds[1]]


def test_a_point_outside_is_moved_to_the_nearest_inside():
    for row, column, nearest, valid in ((-1, 2, (0, 2), False), (4, 9, (4, 5), False), (3, 0, (3, 0), True)):
        point = pool.GridPoint(row, column, row_inside=False, column_inside=False, size=(5, 6))
        assert point.nearest() == nearest
        assert bool(point.valid()) is valid
    known = pool.GridPoint(1, 2, row_inside=True, column_inside=True, size=(5, 6))
    assert known.valid() is True


def test_windows_that_overlap_are_not_disjoint():
    assert pool.disjoint(Window((2, 3), (2, 3)))
    assert not pool.disjoint(Window((2, 3), (2, 2)))
    assert not pool.disjoint(Window((2, 3), (2, 3), padding=(0, 1, 0, 0)))
    assert not pool.disjoint(Window((1, 2), (1, 2), dilation=(1, 2)))


def test_taps_that_count_in_a_mean():
    # 3 taps with stride 2 over 4 positions, one padded at either end: taps -1 0 1 and 1 2 3, and with ceil_mode 3 4 5
    image, window = (4, 4), Window((3, 3), (2, 2), (1, 1, 1, 1))

    def shares(window, count=2):
        return window.shares((count, count), image)

    every, inside = (MeanWindow.dividing("pool", window, count_include_pad) for count_include_pad in (True, False))
    np.testing.assert_allclose(shares(every), [[1 / 9] * 2] * 2, rtol=1e-6)
    np.testing.assert_allclose(shares(inside), [[1 / 4, 1 / 6], [1 / 6, 1 / 9]], rtol=1e-6)
    ceiled = every.ceiled(image)
    assert (ceiled.padding, ceiled.counted) == ((1, 2, 1, 2), (1, 1, 1, 1))
    np.testing.assert_allclose(shares(ceiled, 3)[2], [1 / 6, 1 / 6, 1 / 4], rtol=1e-6)
    above = MeanWindow.dividing("pool", window, counted=(1, 0, 0, 0))
    np.testing.assert_allclose(shares(above), [[1 / 6, 1 / 9], [1 / 6, 1 / 9]], rtol=1e-6)
    fifths = MeanWindow.dividing("pool", window, divisor_override=5)
    np.testing.assert_allclose(shares(fifths), [[1 / 5] * 2] * 2, rtol=1e-6)
    with pytest.raises(ShapeError, match="pool: divisor_override is 0, it has to be 1 or more"):
        MeanWindow.dividing("pool", window, divisor_override=0)
