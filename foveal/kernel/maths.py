"""Elementary functions in the kernel language, on scalars or lanes: polynomials, no calls into a C library.

exp and log follow the single-precision routines of Cephes (S. L. Moshier): exp by x = n ln 2 + r, log by x = 2^e m. The
polynomials of tanh and erf are minimax fits, by Lawson's algorithm: near 0 to the relative error, further out to the
absolute error. Coefficients stand with the highest power's first.
"""

import numpy as np

from foveal.kernel.lang import F32, I32, Scalar, Value, bitcast, cast, floor, fma, maximum, minimum, sqrt, where

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

# below EXP_LOW e^x is under the smallest normal number, above EXP_HIGH it is infinity
EXP_LOW, EXP_HIGH = -87.33654, 88.72283
LOG2_E = 1.44269504088896341
# ln 2 in two parts, the first of which has so few bits that its product with n is exact
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)

SQRT_HALF = 0.70710678
# (ln(1 + m) - m + m^2 / 2) / m^3 for 1 + m from sqrt(1/2) to sqrt 2
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)

# from here on tanh rounds to 1
TANH_ONE = 9.0109
# (tanh t - t) / t^3 by t^2, for t up to TANH_NEAR, above which the formula with e^2t loses no digits
TANH_NEAR = 0.625
TANH = (-5.70498733e-3, 2.0639088e-2, -5.37397154e-2, 1.33314416e-1, -3.33332807e-1)

# from here on erf rounds to 1
ERF_ONE = 3.9193
# (erf t - t) / t by t^2, for t up to 1
ERF = (7.85389202e-5, -8.0102036e-4, 5.18832915e-3, -2.68538129e-2, 1.12835854e-1, -3.7612626e-1, 1.28379166e-1)
# 1 - erf t by t - ERF_MIDDLE, for t from 1 to ERF_ONE, near whose middle that is
ERF_MIDDLE = 2.5
ERF_COMPLEMENT = (
    9.12466203e-6,
    -2.10406179e-5,
    -6.18875565e-5,
    2.78900407e-4,
    -2.86506634e-4,
    -5.70370583e-4,
    2.81817443e-3,
    -6.10324647e-3,
    8.61531869e-3,
    -8.35323613e-3,
    5.44665242e-3,
    -2.17808038e-3,
    4.0693162e-4,
)


def polynomial(x: Scalar, coefficients: tuple[float, ...]) -> Value:
    """The polynomial's value by Horner's rule, with two coefficients or more."""
    total = fma(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        total = fma(total, x, c)
    return total


def exp(x: Scalar) -> Value:
    """e^x: at most 2 ULP from correct where the result is a normal number; smaller results are 0."""
    n = floor(fma(minimum(maximum(x, EXP_LOW), EXP_HIGH), LOG2_E, 0.5))
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    y = fma(polynomial(r, EXP), r * r, r) + 1.0
    # 2^n in two factors: 2^128 is no float32
    half = floor(n * 0.5)
    y = y * power_of_two(half) * power_of_two(n - half)
    y = where(x < EXP_LOW, 0.0, y)
    return where(x > EXP_HIGH, float("inf"), where(x == x, y, x))


def power_of_two(n: Value) -> Value:
    """2^n for a whole float32 n from -126 to 127: its exponent is written into the bits of a float32."""
    return bitcast((cast(n, I32) + 127) << 23, F32)


def log(x: Scalar) -> Value:
    """ln x: at most 2 ULP from correct; -inf at 0 and below the smallest normal number, NaN below 0."""
    # x = 2^e m by the bits of x, m in [0.5, 1)
    bits = bitcast(maximum(x, SMALLEST_NORMAL), I32)
    e = cast((bits >> 23) - 126, F32)
    m = bitcast((bits & 0x007FFFFF) | 0x3F000000, F32)
    # m into [sqrt(1/2), sqrt 2), then less 1, which is exact
    small = m < SQRT_HALF
    e = where(small, e - 1.0, e)
    m = where(small, m + m, m) - 1.0
    # e ln 2 + m - m^2 / 2 + m^3 polynomial, the small terms first
    z = m * m
    y = fma(polynomial(m, LOG), m * z, e * LN2_LOW)
    y = fma(z, -0.5, y)
    y = fma(e, LN2_HIGH, m + y)
    y = where(x < SMALLEST_NORMAL, float("-inf"), y)
    y = where(x < 0.0, float("nan"), y)
    return where(x == float("inf"), x, where(x == x, y, x))


def log1p(x: Scalar) -> Value:
    """ln(1 + x) for x from 0 to 1: at most 2 ULP from correct.

    2 artanh(x / (2 + x)) as its series, which loses no digits near 0.
    """
    s = x / (x + 2.0)
    z = s * s
    p = polynomial(z, (2 / 17, 2 / 15, 2 / 13, 2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3))
    return fma(p * z, s, s + s)


def split_sign(x: Scalar) -> tuple[Value, Value]:
    """|x|, and the sign's bit alone, which `with_sign` puts back; NaN and -0 keep theirs."""
    bits = bitcast(x, I32)
    return bitcast(bits & 0x7FFFFFFF, F32), bits & 0x80000000


def with_sign(magnitude: Scalar, sign: Value) -> Value:
    """A number that is not negative, with the sign's bit that `split_sign` gave."""
    return bitcast(bitcast(magnitude, I32) | sign, F32)


def tanh(x: Scalar) -> Value:
    """tanh x: at most 2 ULP from correct, subnormal numbers included; 1 in magnitude from 9.0109 on.

    An odd polynomial below 0.625, 1 - 2 / (e^2x + 1) above.
    """
    t, sign = split_sign(x)
    z = minimum(t, 1.0) * minimum(t, 1.0)
    p = polynomial(z, TANH)
    near = fma(p * z, t, t)
    far = 1.0 - 2.0 / (exp(minimum(t + t, 2.0 * TANH_ONE)) + 1.0)
    far = where(t >= TANH_ONE, 1.0, far)
    return with_sign(where(t < TANH_NEAR, near, far), sign)


def erf(x: Scalar) -> Value:
    """2/sqrt(pi) times the integral of e^(-t^2) from 0 to x: at most 2 ULP from correct, subnormal numbers included.

    1 in magnitude from 3.9193 on. An odd polynomial below 1, 1 less a polynomial above: without e^x, so that gelu costs
    little more than reading its input.
    """
    t, sign = split_sign(x)
    z = minimum(t, 1.0) * minimum(t, 1.0)
    near = fma(polynomial(z, ERF), t, t)
    complement = polynomial(minimum(t, ERF_ONE) - ERF_MIDDLE, ERF_COMPLEMENT)
    far = where(t >= ERF_ONE, 1.0, 1.0 - complement)
    return with_sign(where(t < 1.0, near, far), sign)


def rsqrt(x: Scalar) -> Value:
    """1 / sqrt x: at most 2 ULP from correct, subnormal numbers included.

    Infinite at 0, with its sign; NaN below 0.
    """
    return 1.0 / sqrt(x)
