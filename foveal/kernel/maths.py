"""exp and log in the kernel language, on scalars or lanes: polynomials, no calls into a C library.

After the single-precision routines of Cephes (S. L. Moshier): exp by x = n ln 2 + r, log by x = 2^e m.
"""

from typing import Any

import numpy as np

from foveal.kernel.lang import F32, I32, bitcast, cast, floor, fma, maximum, minimum, where

EXP_LOW, EXP_HIGH = -87.33654, 88.72283  # below: under the smallest normal number; above: infinity
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def polynomial(x: Any, *coefficients: float) -> Any:
    """Horner's rule, the highest power's coefficient first."""
    total: Any = fma(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        total = fma(total, x, c)
    return total


def exp(x: Any) -> Any:
    """e^x: at most 2 ULP from correct where the result is a normal number; smaller results are 0."""
    n = floor(fma(minimum(maximum(x, EXP_LOW), EXP_HIGH), 1.44269504088896341, 0.5))
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    p = polynomial(
        r,
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
    y = fma(p, r * r, r) + 1.0
    half = floor(n * 0.5)  # 2^n in two factors: n = 128 has no float32 of its own
    y = y * power_of_two(half) * power_of_two(n - half)
    y = where(x < EXP_LOW, 0.0, y)
    return where(x > EXP_HIGH, float("inf"), where(x == x, y, x))


def power_of_two(n: Any) -> Any:
    return bitcast((cast(n, I32) + 127) << 23, F32)


def log(x: Any) -> Any:
    """ln x: at most 2 ULP from correct; -inf at 0 and below the smallest normal number, NaN below 0."""
    bits = bitcast(maximum(x, SMALLEST_NORMAL), I32)
    e = cast((bits >> 23) - 126, F32)
    m = bitcast((bits & 0x007FFFFF) | 0x3F000000, F32)  # in [0.5, 1)
    small = m < 0.70710678
    e = where(small, e - 1.0, e)
    m = where(small, m + m, m) - 1.0
    z = m * m
    p = polynomial(
        m, 7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    y = fma(p, m * z, e * LN2_LOW)
    y = fma(z, -0.5, y)
    y = fma(e, LN2_HIGH, m + y)
    y = where(x < SMALLEST_NORMAL, float("-inf"), y)
    y = where(x < 0.0, float("nan"), y)
    return where(x == float("inf"), x, where(x == x, y, x))
