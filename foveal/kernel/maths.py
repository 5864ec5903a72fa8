"""Elementary functions in the kernel language, on scalars or lanes: polynomials, no calls into a C library.

exp and log follow the single-precision routines of Cephes (S. L. Moshier): exp by x = n ln 2 + r, log by x = 2^e m. The
polynomials of erf are minimax fits, by Lawson's algorithm: near 0 to the relative error, further out to the absolute
error; so are the quotients of polynomials in gelu and its slope. Coefficients stand with the highest power's first.

A function that is applied to large arrays has to take about as few instructions as memory takes time: two cores of Zen
3, with 8 lanes, read a vector and write one in the time of some 25 instructions of each core.
"""

import numpy as np

from foveal.kernel.lang import F32, I32, Scalar, Value, bitcast, cast, floor, fma, maximum, minimum, sqrt, where

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

# below EXP_LOW e^x is under the smallest normal number, above EXP_HIGH it is infinity
EXP_LOW, EXP_HIGH = -87.33654, 88.72283
# -127 ln 2, where 2^-127 is written as 0, and a number whose last bit counts 1 and whose last bits are the bias of a
# float32's exponent
EXP_ZERO, SHIFT = -88.029693, 1.5 * 2.0**23 + 127.0
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

# from here down e^x - 1 rounds to -1
EXPM1_FLAT = -18.0

# from here on tanh rounds to 1
TANH_ONE = 9.0109

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

# (Phi(t) - 1/2) / t by t^2, as a quotient, for t up to GELU_FLAT, from where on Phi rounds to 1
GELU_FLAT = 5.543
GELU = (3.58375587e-8, 1.0124756e-5, 2.72423873e-4, 7.47463992e-3, 5.43060862e-2, 6.35847092e-1)
GELU_DIVISOR = (1.89639422e-6, 1.18338226e-4, 3.02245677e-3, 4.58532311e-2, 4.01762605e-1, 1.59383249)
# (gelu'(t) - 1/2) / t by t^2, as a quotient, for t up to SLOPE_FLAT, from where on gelu' rounds to 1
SLOPE_FLAT = 6.03
SLOPE = (2.65838125e-8, 1.46381581e-6, 5.24973366e-5, 3.28386988e-4, 2.12990735e-2, -3.35412435e-2, 1.22837567)
SLOPE_DIVISOR = (
    2.034936e-9,
    5.33967352e-7,
    1.6083588e-5,
    3.81789519e-4,
    6.16076076e-3,
    6.82779476e-2,
    4.71141905e-1,
    1.53954065,
)


def polynomial(x: Scalar, coefficients: tuple[float, ...]) -> Value:
    """The polynomial's value by Horner's rule, with two coefficients or more."""
    total = fma(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        total = fma(total, x, c)
    return total


def reduced(x: Scalar) -> tuple[Value, Value]:
    """A whole n, and e^r - 1, where x = n ln 2 + r and |r| is at most ln 2 / 2."""
    n = floor(fma(x, LOG2_E, 0.5))
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    return n, fma(polynomial(r, EXP), r * r, r)


def scaled(y: Scalar, n: Value) -> Value:
    """y 2^n for a whole n, where y and the result are normal numbers above 0: n is added to the exponent's bits."""
    return bitcast(bitcast(y, I32) + (cast(n, I32) << 23), F32)


def exp(x: Scalar) -> Value:
    """e^x: at most 2 ULP from correct where the result is a normal number; smaller results are 0."""
    n, p = reduced(minimum(maximum(x, EXP_LOW), EXP_HIGH))
    y = where(x < EXP_LOW, 0.0, scaled(p + 1.0, n))
    # infinity above EXP_HIGH, and NaN for NaN
    return where(x <= EXP_HIGH, y, x + float("inf"))


def exp_to_zero(x: Scalar) -> Value:
    """e^x for x up to 0: at most 2 ULP from correct where the result is a normal number; NaN for NaN.

    x = n ln 2 + r as in `exp`, without its upper end. Added to a number whose last bit counts 1, x / ln 2 is rounded to
    n, and the last bits of the sum are n and the bias of a float32's exponent: shifted, they are 2^n, or 0 for the
    lowest n.
    """
    least = maximum(x, EXP_ZERO)
    shifted = fma(least, LOG2_E, SHIFT)
    power = bitcast(bitcast(shifted, I32) << 23, F32)
    n = shifted - SHIFT
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, least))
    return fma(fma(polynomial(r, EXP), r * r, r), power, power)


def power_of_two(n: Value) -> Value:
    """2^n for a whole float32 n from -126 to 127: its exponent is written into the bits of a float32."""
    return bitcast((cast(n, I32) + 127) << 23, F32)


def expm1(x: Scalar) -> Value:
    """e^x - 1 for x up to 80: at most 2 ULP from correct, subnormal numbers included."""
    n, p = reduced(maximum(x, EXPM1_FLAT))
    power = power_of_two(n)
    return fma(power, p, power - 1.0)


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

    q = e / (e + 2) with e = e^2t - 1; for small e as e/2 - e/2 q, where q's rounding counts little.
    """
    t, sign = split_sign(x)
    e = expm1(minimum(t + t, 2.0 * TANH_ONE))
    q, half = e / (e + 2.0), e * 0.5
    y = where(half < 0.5, fma(-half, q, half), q)
    return with_sign(where(t >= TANH_ONE, 1.0, y), sign)


def erf(x: Scalar) -> Value:
    """2/sqrt(pi) times the integral of e^(-t^2) from 0 to x: at most 2 ULP from correct, subnormal numbers included.

    1 in magnitude from 3.9193 on. An odd polynomial below 1, 1 less a polynomial above.
    """
    t, sign = split_sign(x)
    z = minimum(t, 1.0) * minimum(t, 1.0)
    near = fma(polynomial(z, ERF), t, t)
    complement = polynomial(minimum(t, ERF_ONE) - ERF_MIDDLE, ERF_COMPLEMENT)
    far = where(t >= ERF_ONE, 1.0, 1.0 - complement)
    return with_sign(where(t < 1.0, near, far), sign)


def by_squares(z: Scalar, coefficients: tuple[float, ...]) -> Value:
    """The polynomial's value as that of even powers and z times that of odd ones, by Horner's rule each.

    Half as many operations wait for each other as in `polynomial`, and half as many roundings add up.
    """
    squared, last = z * z, len(coefficients) - 1
    odd, even = coefficients[(last + 1) % 2 :: 2], coefficients[last % 2 :: 2]
    return fma(polynomial(squared, odd), z, polynomial(squared, even))


def gelu(x: Scalar) -> Value:
    """x Phi(x), Phi the distribution function of N(0, 1), which has an error of at most 2e-7.

    |Phi(x) - 1/2| is a quotient of polynomials, and 1/2 from 5.543 on, where it rounds to that: with one division and
    without e^x it waits for memory rather than for operations.
    """
    t, _ = split_sign(x)
    near = minimum(t, GELU_FLAT)
    z = near * near
    beyond = near * by_squares(z, GELU) / by_squares(z, GELU_DIVISOR)
    return fma(t, where(t >= GELU_FLAT, 0.5, beyond), x * 0.5)


def gelu_slope(x: Scalar) -> Value:
    """The derivative of gelu, Phi(x) + x e^(-x^2/2) / sqrt(2 pi), with an error of at most 2.5e-7.

    1/2, and a quotient of polynomials with the sign of x.
    """
    t, sign = split_sign(x)
    near = minimum(t, SLOPE_FLAT)
    z = near * near
    beyond = near * by_squares(z, SLOPE) / by_squares(z, SLOPE_DIVISOR)
    return with_sign(where(t >= SLOPE_FLAT, 0.5, beyond), sign) + 0.5


def rsqrt(x: Scalar) -> Value:
    """1 / sqrt x: at most 2 ULP from correct, subnormal numbers included.

    Infinite at 0, with its sign; NaN below 0.
    """
    return 1.0 / sqrt(x)
