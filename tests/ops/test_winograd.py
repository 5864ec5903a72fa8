"""Minimal filtering: its matrices, its accuracy, and the ways its work is cut, which large shapes choose."""

import checks
import numpy as np
import pytest
import widths

from foveal import ops
from foveal.api import compile
from foveal.kernel.target import assume
from foveal.ops.kernels.conv import select, winograd_matrices, winograd_transform
from foveal.ops.kernels.conv.cost_model import DIRECT, Algorithm, Problem
from foveal.variable import Variable

SCHEMES = {
    **{f"F({m},3)": winograd_matrices.scheme(m) for m in winograd_matrices.TILE_SIZES[1]},
    **{f"stride 2, {m}": winograd_matrices.strided(m) for m in winograd_matrices.TILE_SIZES[2]},
}
TRANSPOSED = [(m, first) for m in winograd_matrices.PHASE_POINTS for first in (0, 1)]
ALL = list(SCHEMES.values()) + [winograd_matrices.transposed(m, first) for m, first in TRANSPOSED]


def arrays(s):
    """AT, BT, G, GW, AW with a row or column for each point, and a column of BT for each input."""
    of = list(s.class_of)
    at, reads, g, gw, aw = (np.array(matrix) for matrix in (s.AT, s.BT, s.G, s.GW, s.AW))
    bt = np.zeros((s.points, s.inputs))
    np.add.at(bt, (slice(None), list(s.reads)), reads)
    return at, bt, g[of], gw, aw[:, of]


@pytest.mark.parametrize("s", SCHEMES.values(), ids=SCHEMES)
def test_the_matrices_compute_correlations(s):
    at, bt, g, gw, aw = arrays(s)
    rng, m, n, stride = np.random.default_rng(0), s.outputs, s.inputs, s.step // s.outputs
    d, w, dy = (rng.standard_normal((k, k)) for k in (n, 3, m))
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3))[::stride, ::stride]
    forward = at @ ((g @ w @ g.T) * (bt @ d @ bt.T)) @ at.T
    np.testing.assert_allclose(forward, np.einsum("pqrs,rs->pq", windows, w), atol=1e-12)
    weight = aw @ ((gw @ dy @ gw.T) * (bt @ d @ bt.T)) @ aw.T
    np.testing.assert_allclose(weight, np.einsum("pqrs,pq->rs", windows, dy), atol=1e-12)


@pytest.mark.parametrize(("m", "first"), TRANSPOSED)
def test_the_matrices_compute_gradients_in_x(m, first):
    at, bt, g, _, _ = arrays(winograd_matrices.transposed(m, first))
    rng = np.random.default_rng(m)
    dy, taps = rng.standard_normal(m + 1), rng.standard_normal(3)
    want = np.empty(2 * m)
    # the filter is rotated by 180 degrees, so its taps come in reverse order
    want[first::2] = dy[:-1] * taps[0] + dy[1:] * taps[2]
    want[1 - first :: 2] = dy[1 - first :][:m] * taps[1]
    np.testing.assert_allclose(at @ ((g @ taps) * (bt @ dy)), want, atol=1e-12)


@pytest.mark.parametrize("s", ALL)
@pytest.mark.parametrize("name", ["AT", "BT", "G", "GW", "AW"])
def test_products_share_parts_without_changing_the_result(s, name):
    matrix = getattr(s, name)
    values = list(np.random.default_rng(0).standard_normal(len(matrix[0])).astype("f4"))
    want = np.array(matrix) @ np.array(values, "f8")
    np.testing.assert_allclose(winograd_transform.multiply_matrix(matrix, values), want, atol=1e-6)
    d = np.outer(values, values)
    both = {(i, j): v for i, j, v in winograd_transform.transform_2d(matrix, matrix, lambda i, j: d[i, j])}
    assert len(both) == len(matrix) ** 2
    for (i, j), value in both.items():
        np.testing.assert_allclose(value, want[i] * want[j], atol=2e-5)


@pytest.mark.parametrize("s", ALL)
def test_positions_of_a_class_are_neighbours(s):
    order = winograd_transform.point_order(s, s)
    assert sorted(order.point.values()) == list(range(s.points**2))
    assert sorted(order.class_.values()) == list(range(s.classes**2))
    for (i, j), point in order.point.items():
        class_ = order.class_[s.class_of[i], s.class_of[j]]
        (members,) = (r for r in order.ranges if r.first <= class_ < r.first + r.classes)
        assert 0 <= point - members.start - (class_ - members.first) * members.copies < members.copies


def results(N, C, K, H, W, threads=2, stride=1, padding=1):
    """Forward, dx and dw computed natively, and in float64."""
    rng = np.random.default_rng(N + C + K)
    how = {"stride": stride, "padding": padding}
    x, w = (rng.standard_normal(s).astype("f4") for s in ((N, C, H, W), (K, C, 3, 3)))
    wanted = ops.conv2d(x.astype("f8"), w.astype("f8"), **how)
    dy = rng.standard_normal(wanted.shape).astype("f4")
    filters = Variable(w)

    def all_three(x, dy):
        return [
            ops.conv2d(x, filters, **how),
            ops.conv2d_input_grad(dy, filters, image_size=(H, W), **how),
            ops.conv2d_weight_grad(dy, x, kernel_size=(3, 3), **how),
        ]

    found = compile(all_three, threads)(x, dy)
    x, w, dy = (a.astype("f8") for a in (x, w, dy))
    return found, [
        wanted,
        ops.conv2d_input_grad(dy, w, image_size=(H, W), **how),
        ops.conv2d_weight_grad(dy, x, kernel_size=(3, 3), **how),
    ]


def check(found, wants):
    for got, want, limit in zip(found, wants, (1e-5, 1e-5, 2e-5), strict=True):
        assert checks.error(got, want) < limit


@pytest.mark.parametrize(
    "shape", [(3, 64, 64, 14, 14), (1, 256, 256, 8, 8), (16, 16, 16, 32, 32), (2, 70, 130, 6, 5), (2, 70, 100, 9, 9)]
)
def test_accuracy_on_the_shapes_of_networks(shape):
    check(*results(*shape))


@pytest.mark.parametrize(
    "shape", [(3, 64, 128, 28, 28), (64, 64, 128, 8, 8), (4, 128, 256, 16, 16), (16, 16, 32, 32, 32)]
)
def test_accuracy_with_stride_2(shape):
    check(*results(*shape, stride=2))


@pytest.mark.parametrize("m", [3, 7])
@pytest.mark.parametrize(
    ("padding", "shape"),
    [
        (1, (3, 70, 33, 7, 14)),
        (0, (2, 16, 40, 9, 16)),
        ((2, 0, 1, 2), (2, 8, 128, 8, 3)),
        (1, (1, 64, 64, 15, 2)),
        ((0, 2, 2, 1), (3, 16, 5, 11, 12)),
    ],
)
def test_tiles_of_three_and_joined_tiles(m, padding, shape, monkeypatch):
    """Of images that are whole tiles, and of others, whose last tiles reach over an edge by 1 to 6 pixels.

    Only the first and the last have channels that are no whole vectors: each part of a vector is compiled by itself.
    """
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(m))
    found, wants = results(*shape, padding=padding)
    check(found, wants)
    for one, two in zip(results(*shape, threads=1, padding=padding)[0], found, strict=True):
        assert np.array_equal(one, two)


def test_a_joined_tile_has_the_filters_of_its_larger_part():
    joined, large = winograd_matrices.scheme(7), winograd_matrices.scheme(4)
    assert (joined.G, joined.AW, joined.points) == (large.G, large.AW, 11)
    assert sorted(joined.class_of) == sorted([*range(6), *range(1, 6)])


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize("m", [3, 7])
def test_joined_tiles_in_narrower_vectors(m, vectors, monkeypatch):
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(m))
    with assume(widths.SECOND[vectors]):
        check(*results(2, 36, 21, 7, 10))


@pytest.mark.parametrize("vectors", widths.SECOND)
@pytest.mark.parametrize(
    ("stride", "shape"), [(1, (2, 72, 129, 6, 5)), (1, (16, 16, 16, 8, 9)), (2, (3, 64, 33, 9, 14))]
)
def test_accuracy_in_narrower_vectors(stride, shape, vectors, monkeypatch):
    """Of 4x4 outputs, whatever would be chosen for these vectors."""
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(4))
    with assume(widths.SECOND[vectors]):
        check(*results(*shape, stride=stride))


@pytest.mark.parametrize(
    ("m", "padding", "size"),
    [
        (2, 0, (9, 14)),
        (3, 0, (9, 14)),
        (4, 1, (17, 3)),
        (3, 1, (12, 6)),
        (4, (1, 0, 0, 2), (9, 14)),
        (2, (2, 1, 1, 0), (17, 3)),
        (3, (0, 3, 3, 2), (9, 14)),
    ],
)
def test_stride_2_with_any_padding(m, padding, size, monkeypatch):
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(m))
    check(*results(2, 16, 33, *size, stride=2, padding=padding))


@pytest.mark.parametrize(("stride", "m"), [(1, 4), (1, 3), (1, 7), (2, 4)])
@pytest.mark.parametrize("shape", [(2, 136, 72, 6, 9), (1, 64, 33, 3, 3)])
def test_threads_share_filters_where_tiles_are_few(shape, stride, m, monkeypatch):
    monkeypatch.setattr(select, "choose", lambda _: Algorithm(m, parallel_over="filters"))
    found, wants = results(*shape, stride=stride)
    check(found, wants)
    for one, two in zip(results(*shape, threads=1, stride=stride)[0], found, strict=True):
        assert np.array_equal(one, two)


def test_the_choice_depends_on_the_shape():
    def chosen(C, K, P, kind="forward", stride=(1, 1), N=32):
        problem = Problem(kind, N, C, K, P, P, (3, 3), stride, (1, 1), 1)
        return problem.default().winograd_tile

    assert chosen(64, 64, 32) == chosen(64, 64, 32, "weight") == 4
    assert chosen(16, 16, 32) == 4
    assert chosen(64, 64, 2) == 2
    # 6 rows are two of 3, 7 rows a tile of 4 and one of 3, 14 rows twice that
    assert chosen(128, 128, 3) == chosen(128, 128, 6) == chosen(128, 128, 6, "weight") == 3
    assert chosen(128, 128, 7) == chosen(128, 128, 14) == chosen(128, 128, 7, "weight") == 7
    assert chosen(128, 128, 8) == chosen(128, 128, 15) == chosen(128, 128, 28) == 4
    assert chosen(64, 128, 16, stride=(2, 2)) == chosen(64, 128, 16, "weight", (2, 2)) == 4
    assert chosen(128, 64, 32, "transposed", (2, 2)) == 4
    assert chosen(256, 128, 14, stride=(2, 2)) == 2
    assert chosen(3, 32, 16, stride=(2, 2)) == chosen(64, 64, 32, stride=(2, 1)) == DIRECT
    assert chosen(1, 6, 28) == DIRECT
