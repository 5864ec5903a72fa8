"""sin, cos and tan in the kernel language, and powers: beside the elementary functions of maths.py.

sin and cos follow the single-precision routines of Cephes (S. L. Moshier): x = n pi/2 + r with |r| <= pi/4, and
polynomials in r. pi/2 is taken in three parts, by Cody and Waite 1980, with fused multiply-adds.
"""

from foveal.kernel.lang import F32, I32, Scalar, Value, bitcast, cast, floor, fma, maximum, minimum, where
from foveal.kernel.maths import (
    LN2_HIGH,
    LN2_LOW,
    LOG,
    SMALLEST_NORMAL,
    SQRT_HALF,
    exp,
    polynomial,
    split_sign,
    with_sign,
)

TWO_OVER_PI = 0.63661977236758134
# pi/2 in parts of 24 bits each
HALF_PI = (1.5707963705062866, -4.371138828673793e-8, -1.7151245100058819e-15)
# Beyond this, a float32 has neighbours that are 1/8 apart, and n pi/2 too few digits: the result is NaN.
FARTHEST = 1048576.0
# (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 by r^2
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def quadrant(x: Scalar) -> tuple[Value, Value, Value]:
    """(n, sin r, cos r) with x = n pi/2 + r; n is an int32, of which two bits matter."""
    near = where((x <= FARTHEST) & (x >= -FARTHEST), x, 0.0)
    whole = floor(fma(near, TWO_OVER_PI, 0.5))
    r = fma(whole, -HALF_PI[0], near)
    r = fma(whole, -HALF_PI[2], fma(whole, -HALF_PI[1], r))
    z = r * r
    sine = fma(polynomial(z, SIN) * z, r, r)
    cosine = fma(polynomial(z, COS) * z, z, fma(z, -0.5, 1.0))
    return cast(whole, I32), sine, cosine


def known(x: Scalar, y: Value) -> Value:
    """y, or NaN where x is too far from 0, infinite or NaN."""
    return where((x <= FARTHEST) & (x >= -FARTHEST), y, float("nan"))


def turned(n: Value, sine: Value, cosine: Value) -> Value:
    """sin(n pi/2 + r): by turns sin r, cos r, -sin r, -cos r."""
    y = where((n & 1) == 1, cosine, sine)
    # bit 1 of n is the sign
    return bitcast(bitcast(y, I32) ^ ((n & 2) << 30), F32)


def sin(x: Scalar) -> Value:
    """sin x: at most 2 ULP of 1 from correct for |x| up to 2^20; NaN beyond."""
    n, sine, cosine = quadrant(x)
    return known(x, turned(n, sine, cosine))


def cos(x: Scalar) -> Value:
    """cos x: at most 2 ULP of 1 from correct for |x| up to 2^20; NaN beyond."""
    n, sine, cosine = quadrant(x)
    return known(x, turned(n + 1, sine, cosine))


def tan(x: Scalar) -> Value:
    """tan x: at most 4 ULP from correct for |x| up to 2^20; NaN beyond."""
    n, sine, cosine = quadrant(x)
    odd = (n & 1) == 1
    return known(x, where(odd, -cosine, sine) / where(odd, sine, cosine))


def log_in_parts(x: Scalar) -> tuple[Value, Value]:
    """(high, low): ln x as the sum of two numbers, for a normal number above 0. As maths.log, which adds them up."""
    bits = bitcast(x, I32)
    e = cast((bits >> 23) - 126, F32)
    m = bitcast((bits & 0x007FFFFF) | 0x3F000000, F32)
    small = m < SQRT_HALF
    e = where(small, e - 1.0, e)
    m = where(small, m + m, m) - 1.0
    z = m * m
    rest = fma(m, m, -z)
    # e ln 2 + m - z / 2 + the small terms; what each addition loses is added to these
    first = e * LN2_HIGH
    high = first + m
    lost = m - (high - first)
    total = fma(z, -0.5, high)
    lost = lost + fma(z, -0.5, high - total)
    low = fma(polynomial(m, LOG), m * z, fma(e, LN2_LOW, lost))
    low = fma(rest, -0.5, low)
    # the first holds all that a float32 can
    high = total + low
    return high, low - (high - total)


def power(a: Scalar, b: Scalar) -> Value:
    """a^b as IEEE 754's pow: a few ULP from correct; NaN for a below 0 unless b is whole.

    |a| below the smallest normal number counts as 0, and results below it are 0.
    """
    t, sign = split_sign(a)
    high, low = log_in_parts(minimum(maximum(t, SMALLEST_NORMAL), 3.0e38))
    product = b * high
    lost = fma(b, low, fma(b, high, -product))
    # where the result is 0 or infinite, what was lost does not matter, and it may be NaN
    lost = where((product < 100.0) & (product > -100.0), lost, 0.0)
    e = exp(product)
    y = where(e < float("inf"), fma(e, lost, e), e)
    y = where(t < SMALLEST_NORMAL, where(b > 0.0, 0.0, float("inf")), y)
    y = where(t == float("inf"), where(b > 0.0, float("inf"), 0.0), y)
    # a below 0: a whole power has a sign if it is odd; floats from 2^24 on are even
    half = b * 0.5
    fraction = (t != a) & (t > 0.0) & (t < float("inf")) & (floor(b) != b)
    y = where(fraction, float("nan"), y)
    y = where((floor(b) == b) & (floor(half) != half), with_sign(y, sign), y)
    # of b = 0 and a = 1 the power is 1 whatever the other is
    y = where((a == a) & (b == b), y, float("nan"))
    return where((b == 0.0) | (a == 1.0), 1.0, y)
