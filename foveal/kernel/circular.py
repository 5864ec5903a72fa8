"""sin, cos and tan in the kernel language, and powers: beside the elementary functions of maths.py.

sin and cos follow the single-precision routines of Cephes (S. L. Moshier): x = n pi/2 + r with |r| <= pi/4, and
polynomials in r.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from foveal.kernel import interpret
from foveal.kernel.lang import F32, I32, I64, Scalar, Value, bitcast, cast, floor, fma, maximum, minimum, where
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
from foveal.kernel.values import in_plain_python

# 2/pi in words of 32 bits, after one of zeros
TWO_OVER_PI = (0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041, 0xFE5163AB)
# a quarter turn in units of 2^-62
UNIT = 2 * math.pi / 2**64
QUARTER_PI = 0.78539816
# (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 by r^2
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)


def plain_reduced(x: interpret.Plain) -> tuple[np.ndarray, np.ndarray]:
    """`reduced` where a body runs in plain Python, n on uint32, as its int32 are there."""
    a = np.abs(np.asarray(x, np.float32))
    bits = a.view(np.uint32).astype(np.uint64)
    m, e = (bits & np.uint64(0x7FFFFF)) | np.uint64(0x800000), (bits >> np.uint64(23)).astype(np.int64)
    start = np.maximum(e - 120, 0)
    table, shift = np.array(TWO_OVER_PI, np.uint64), (start & 31).astype(np.uint64)
    words = [table[(start >> 5) + i] for i in range(4)]
    a0, a1, a2 = ((((u << np.uint64(32)) | v) << shift) >> np.uint64(32) for u, v in pairwise(words))
    with np.errstate(over="ignore"):
        turns = ((m * a0) << np.uint64(32)) + m * a1 + ((m * a2) >> np.uint64(32))
        n = ((turns >> np.uint64(61)) + np.uint64(1)) >> np.uint64(1)
        rest = (turns - (n << np.uint64(62))).view(np.int64)
    near = a <= np.float32(QUARTER_PI)
    return np.where(near, 0, n).astype(np.uint32), np.where(near, a, rest.astype(np.float32) * np.float32(UNIT))


@in_plain_python(plain_reduced)
def reduced(x: Scalar) -> tuple[Value, Value]:
    """(n, r) with |x| = n pi/2 + r and |r| <= pi/4, up to whole turns: n is an int32, of which two bits matter.

    By Payne and Hanek 1983, for any float32: |x| = m 2^(e - 150), m of 24 bits, and of the product with 2/pi only those
    bits are needed that are below four quarter turns. With the e - 120 bits left out that only add whole turns, 96 bits
    of 2/pi leave the fraction of a turn right in 64 bits, so that r is right where it is as small as 2^-30.
    """
    magnitude, _ = split_sign(x)
    bits = bitcast(magnitude, I32)
    e, m = bits >> 23, cast((bits & 0x7FFFFF) | 0x800000, I64)
    start = where(e > 120, e - 120, e & 0)
    place, shift = start >> 5, cast(start & 31, I64)
    words = [chosen(place, TWO_OVER_PI[i : i + 5]) for i in range(4)]
    a0, a1, a2 = ((((u << 32) | v) << shift) >> 32 for u, v in pairwise(words))
    turns = ((m * a0) << 32) + m * a1 + ((m * a2) >> 32)
    n = ((turns >> 61) + 1) >> 1
    rest = cast(turns - (n << 62), F32) * UNIT
    near = magnitude <= QUARTER_PI
    quarter = cast(n, I32)
    return where(near, quarter & 0, quarter), where(near, magnitude, rest)


def chosen(place: Value, words: Sequence[int]) -> Value:
    """The word at a place, as an int64."""
    found = where(place == 0, words[0], words[-1])
    for i in range(1, len(words) - 1):
        found = where(place == i, words[i], found)
    return found


def quadrant(x: Scalar) -> tuple[Value, Value, Value]:
    """(n, sin r, cos r) with |x| = n pi/2 + r."""
    n, r = reduced(x)
    z = r * r
    sine = fma(polynomial(z, SIN) * z, r, r)
    cosine = fma(polynomial(z, COS) * z, z, fma(z, -0.5, 1.0))
    return n, sine, cosine


def known(x: Scalar, y: Value) -> Value:
    """y, or NaN where x is infinite or NaN."""
    return where((x < float("inf")) & (x > -float("inf")), y, float("nan"))


def turned(n: Value, sine: Value, cosine: Value) -> Value:
    """sin(n pi/2 + r): by turns sin r, cos r, -sin r, -cos r."""
    y = where((n & 1) == 1, cosine, sine)
    # bit 1 of n is the sign
    return bitcast(bitcast(y, I32) ^ ((n & 2) << 30), F32)


def opposite(x: Scalar, y: Value) -> Value:
    """y with its sign changed where x is below 0."""
    return bitcast(bitcast(y, I32) ^ split_sign(x)[1], F32)


def sin(x: Scalar) -> Value:
    """sin x: at most 2 ULP of 1 from correct."""
    n, sine, cosine = quadrant(x)
    return known(x, opposite(x, turned(n, sine, cosine)))


def cos(x: Scalar) -> Value:
    """cos x: at most 2 ULP of 1 from correct."""
    n, sine, cosine = quadrant(x)
    return known(x, turned(n + 1, sine, cosine))


def tan(x: Scalar) -> Value:
    """tan x: at most 4 ULP from correct."""
    n, sine, cosine = quadrant(x)
    odd = (n & 1) == 1
    return known(x, opposite(x, where(odd, -cosine, sine) / where(odd, sine, cosine)))


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
