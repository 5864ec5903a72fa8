"""Minimal filtering: its matrices, its accuracy, and the ways its work is cut, which large shapes choose."""

import checks
import numpy as np
import pytest

from foveal import ops
from foveal.graph import Variable
from foveal.ops import choice, transforms
from foveal.program import compile


@pytest.mark.parametrize("m", transforms.POINTS)
def test_the_matrices_compute_correlations(m):
    s = transforms.scheme(m)
    at, bt, g, gw, aw = (np.array(matrix) for matrix in (s.AT, s.BT, s.G, s.GW, s.AW))
    rng = np.random.default_rng(m)
    d, w, dy = (rng.standard_normal((k, k)) for k in (s.n, 3, m))
    windows = np.lib.stride_tricks.sliding_window_view
    forward = at @ ((g @ w @ g.T) * (bt @ d @ bt.T)) @ at.T
    np.testing.assert_allclose(forward, (windows(d, (3, 3)) * w).sum((2, 3)), atol=1e-12)
    weight = aw @ ((gw @ dy @ gw.T) * (bt @ d @ bt.T)) @ aw.T
    np.testing.assert_allclose(weight, (windows(d, (m, m)) * dy).sum((2, 3)), atol=1e-12)


@pytest.mark.parametrize("m", transforms.POINTS)
@pytest.mark.parametrize("name", ["AT", "BT", "G", "GW", "AW"])
def test_products_share_even_and_odd_parts_without_changing_the_result(m, name):
    matrix = getattr(transforms.scheme(m), name)
    values = list(np.random.default_rng(0).standard_normal(len(matrix[0])).astype("f4"))
    want = np.array(matrix) @ np.array(values, "f8")
    np.testing.assert_allclose(transforms.product(matrix, values), want, atol=1e-6)


def results(N, C, K, H, W, threads=2):
    """Forward, dx and dw computed natively, and in float64."""
    rng = np.random.default_rng(N + C + K)
    x, w = (rng.standard_normal(s).astype("f4") for s in ((N, C, H, W), (K, C, 3, 3)))
    dy = rng.standard_normal((N, K, H, W)).astype("f4")
    filters = Variable(w)
    dx_how, dw_how = {"padding": 1, "size": (H, W)}, {"padding": 1, "size": (3, 3)}

    def all_three(x, dy):
        return [
            ops.conv2d(x, filters, padding=1),
            ops.conv2d_input_grad(dy, filters, **dx_how),
            ops.conv2d_weight_grad(dy, x, **dw_how),
        ]

    found = compile(all_three, threads)(x, dy)
    x, w, dy = (a.astype("f8") for a in (x, w, dy))
    return found, [
        ops.conv2d(x, w, padding=1),
        ops.conv2d_input_grad(dy, w, **dx_how),
        ops.conv2d_weight_grad(dy, x, **dw_how),
    ]


def check(found, wants):
    for got, want, limit in zip(found, wants, (1e-5, 1e-5, 2e-5), strict=True):
        assert checks.error(got, want) < limit


@pytest.mark.parametrize(
    "shape", [(3, 64, 64, 14, 14), (1, 256, 256, 8, 8), (16, 16, 16, 32, 32), (2, 70, 130, 6, 5)]
)
def test_accuracy_on_the_shapes_of_networks(shape):
    check(*results(*shape))


@pytest.mark.parametrize("shape", [(2, 20, 40, 6, 9), (4, 130, 70, 4, 4), (1, 64, 33, 3, 3)])
def test_threads_share_filters_where_tiles_are_few(shape, monkeypatch):
    monkeypatch.setattr(choice, "choose", lambda _: choice.Choice(4, shared=True))
    found, wants = results(*shape)
    check(found, wants)
    for one, two in zip(results(*shape, threads=1)[0], found, strict=True):
        assert np.array_equal(one, two)


def test_the_choice_depends_on_the_shape():
    def chosen(C, K, P, kind="forward", stride=(1, 1), N=32):
        problem = choice.Problem(kind, N, C, K, P, P, (3, 3), stride, (1, 1), 1)
        return problem.default().m

    assert chosen(64, 64, 32) == chosen(64, 64, 32, "weight") == 4
    assert chosen(16, 16, 32) == 4
    assert chosen(64, 64, 2) == 2
    assert chosen(64, 64, 32, stride=(2, 2)) == chosen(1, 6, 28) == choice.DIRECT
