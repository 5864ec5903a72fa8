"""Interpolation against PyTorch: values and gradients, both ways to say a size, and what is refused."""

import numpy as np
import pytest
from checks import error

import foveal
from foveal import ops
from foveal.errors import ShapeError
from foveal.ops.interpolate import Axis

LIMIT = 1e-5
# (shape of x, arguments); sizes up and down, odd factors, one row, one pixel, more channels than lanes
CASES = [
    ((2, 3, 5, 7), {"size": (9, 4), "mode": "bilinear"}),
    ((2, 3, 5, 7), {"size": (9, 4), "mode": "bilinear", "align_corners": True}),
    ((1, 20, 4, 4), {"scale_factor": 2, "mode": "bilinear", "align_corners": False}),
    ((2, 3, 6, 5), {"scale_factor": (1.3, 0.6), "mode": "bilinear"}),
    ((1, 2, 1, 1), {"size": (3, 2), "mode": "bilinear", "align_corners": True}),
    ((1, 2, 8, 9), {"size": 1, "mode": "bilinear", "align_corners": True}),
    ((2, 3, 5, 7), {"size": (11, 3), "mode": "bicubic"}),
    ((2, 3, 5, 7), {"size": (11, 3), "mode": "bicubic", "align_corners": True}),
    ((1, 9, 4, 3), {"scale_factor": 1.7, "mode": "bicubic"}),
    ((1, 2, 2, 2), {"scale_factor": 4.0, "mode": "bicubic", "align_corners": True}),
    ((2, 3, 5, 7), {"size": (12, 5)}),
    ((1, 17, 5, 3), {"scale_factor": 2.0, "mode": "nearest"}),
    ((2, 3, 9, 7), {"scale_factor": (0.4, 1.9), "mode": "nearest"}),
    ((2, 3, 5, 7), {"size": (12, 5), "mode": "nearest-exact"}),
    ((2, 3, 5, 7), {"scale_factor": 0.7, "mode": "nearest-exact"}),
    ((2, 3, 7, 5), {"size": (3, 2), "mode": "area"}),
    ((2, 3, 5), {"size": 8, "mode": "linear"}),
    ((2, 3, 5), {"size": (3,), "mode": "linear", "align_corners": True}),
    ((1, 9, 6), {"scale_factor": 1.6, "mode": "linear"}),
    ((2, 3, 5), {"scale_factor": 3.0}),
    ((2, 3, 5), {"size": 4, "mode": "nearest-exact"}),
    ((2, 3, 5), {"size": 2, "mode": "area"}),
]


@pytest.mark.parametrize(("shape", "how"), CASES, ids=str)
def test_values_and_gradients_are_pytorchs(shape, how, torch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    double = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = torch.nn.functional.interpolate(double, **how)
    dy = rng.standard_normal(tuple(want.shape)).astype(np.float32)
    want.backward(torch.tensor(dy, dtype=torch.float64))
    got = foveal.compile(lambda a: ops.interpolate(a, **how))(x)
    slope = foveal.grad(lambda a, c: ops.sum(ops.interpolate(a, **how) * c))(x, dy)
    assert error(got, want.detach().numpy()) < LIMIT
    assert error(ops.interpolate(x.astype(np.float64), **how), want.detach().numpy()) < 1e-6
    assert error(slope, double.grad.numpy()) < LIMIT


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_pixel_that_is_shown_is_pytorchs_for_all_sizes(mode, torch):
    """Where the place is next to a whole number, rounding decides: 2 pixels as 82 are an example."""
    for n in (1, 2, 3, 7, 31):
        x = torch.arange(n, dtype=torch.float32).reshape(1, 1, n, 1)
        for m in range(1, 100):
            want = torch.nn.functional.interpolate(x, size=(m, 1), mode=mode).numpy().ravel()
            axis = Axis(n, m, mode, False, None)
            assert [axis.taps(p)[0][0] for p in range(m)] == want.astype(int).tolist(), (n, m)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_machine_code_rounds_alike(mode):
    for n, m in ((2, 82), (2, 41), (3, 97), (7, 55)):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, n)
        y = foveal.compile(lambda a, m=m: ops.interpolate(a, size=m, mode=mode))(x)
        assert (y.ravel() == [Axis(n, m, mode, False, None).taps(p)[0][0] for p in range(m)]).all()


def test_scales_of_every_kind_are_pytorchs(torch):
    rng = np.random.default_rng(1)
    for mode in ("bilinear", "bicubic"):
        for scale in (0.3, 1 / 3, 1.1, 2.5, 2.9999362, *rng.uniform(0.3, 4, 6)):
            n = int(rng.integers(4, 40))
            x = torch.eye(n).reshape(1, n, n, 1)
            want = torch.nn.functional.interpolate(x, scale_factor=(scale, 1.0), mode=mode).numpy()[0, :, :, 0].T
            m = len(want)
            axis = Axis(n, m, {"bilinear": "linear", "bicubic": "cubic"}[mode], False, scale)
            np.testing.assert_allclose(axis.matrix(), want, atol=3e-5, err_msg=f"{mode} {n} {scale}")


def test_a_constant_image_stays_and_a_ramp_is_continued():
    x = np.full((1, 2, 5, 4), 3.0, np.float32)
    for mode in ("bilinear", "bicubic", "area", "nearest"):
        np.testing.assert_allclose(ops.interpolate(x, size=(7, 9), mode=mode), 3.0, rtol=1e-6)
    ramp = np.arange(5.0, dtype=np.float32).reshape(1, 1, 5)
    y = ops.interpolate(ramp, size=9, mode="linear", align_corners=True)
    np.testing.assert_allclose(y.ravel(), np.arange(9) / 2)


X, SEQUENCE = np.ones((1, 2, 4, 4), np.float32), np.ones((1, 2, 4), np.float32)
REFUSED = [
    (lambda: ops.interpolate(X), "give either size or scale_factor"),
    (lambda: ops.interpolate(X, size=3, scale_factor=2.0), "give either size or scale_factor"),
    (lambda: ops.interpolate(X, size=0), "size is 0, it has to be one number above 0, or one for each of 2 axes"),
    (lambda: ops.interpolate(X, size=(3, 3, 3)), r"size is \(3, 3, 3\)"),
    (lambda: ops.interpolate(X, scale_factor=-1.0), "scale_factor is -1.0"),
    (lambda: ops.interpolate(X, scale_factor=0.2), r"scale_factor \(0.2, 0.2\) leaves nothing"),
    (lambda: ops.interpolate(X, size=3, mode="linear"), "mode is 'linear'; for images choose one of nearest"),
    (lambda: ops.interpolate(SEQUENCE, size=3, mode="bilinear"), "for sequences choose one of nearest.*linear, area"),
    (lambda: ops.interpolate(X, size=3, align_corners=False), "align_corners is for linear, bilinear and bicubic"),
    (lambda: ops.interpolate(X[0, 0], size=3), "takes images .* or sequences .*, got shape"),
    (lambda: ops.interpolate(X[:, :, :0], size=3), "has no pixels"),
    (lambda: ops.resample(X, output_size=(0, 2), mode="linear"), "has to be 1 or more rows and columns"),
    (lambda: ops.resample(X, output_size=2, mode="bilinear"), "mode 'bilinear' is not known"),
    (lambda: ops.resample(X, output_size=2, mode="cubic", scale_factor=(0.0, 1.0)), "has to be above 0"),
    (lambda: ops.resample_grad(SEQUENCE, image_size=2, mode="cubic"), r"takes images \[N, C, H, W\]"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(call, words):
    with pytest.raises(ShapeError, match=words):
        call()
