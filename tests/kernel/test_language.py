"""The kernel language: what it means, what it refuses, its elementary functions and its random numbers."""

import math

import checks
import numpy as np
import pytest

from foveal.errors import KernelError
from foveal.kernel import compile as kernels
from foveal.kernel import interpret, lang, maths, random, values
from foveal.kernel.lang import (
    F32,
    I32,
    I64,
    cast,
    lanes,
    loop,
    loops,
    otherwise,
    parallel,
    parallel_vectors,
    splat,
    var,
    vectors,
    when,
    where,
)
from foveal.kernel.target import host


def spec(*shape, dtype="float32"):
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return kernels.ArraySpec(shape, strides, dtype)


def ir(body, *specs):
    return kernels.build_ir(kernels.Kernel(body, specs or (spec(8), spec(8))), host(), "k")


def both_ways(body, y, *xs):
    """The kernel's output as machine code leaves it, and as plain Python does."""
    native, plain = y.copy(), y.copy()
    checks.run_kernel(body, [native, *xs], plain=False)
    specs = tuple(spec(*a.shape, dtype=str(a.dtype)) for a in (y, *xs))
    kernels.Kernel(body, specs).interpret([plain, *xs])
    return native, plain


# bodies that say what the language cannot mean


def branches(y, x):
    if x[0] > 0.0:
        y[0] = 1.0


def conjunction(y, x):
    y[0] = where(x[0] > 0.0 and x[1] > 0.0, 1.0, 0.0)


def repeats(y, x):
    while x[0] > 0.0:
        y[0] = 1.0


def unrolls_a_traced_count(y, x):
    for i in loop(8):
        for j in range(i):
            y[j] = 1.0


def leaves_by_break(y, x):
    for i in loop(8):
        y[i] = x[i]
        break


def leaves_by_return(y, x):
    for i in loop(8):
        y[i] = x[i]
        return


def leaves_the_inner_loop(y, x):
    for i in loop(8):
        for j in loop(4):
            y[i] = x[j]
            break


def adds_index_to_value(y, x):
    for i in loop(8):
        y[i] = x[i] + i


def shifts_a_float(y, x):
    y[0] = x[0] << 1


def divides_integers(y, x):
    for i in loop(8):
        y[i] = cast(i / 2, F32)


def takes_a_remainder_of_floats(y, x):
    y[0] = x[0] % 2.0


def mixes_widths(y, x):
    y.store((0,), x.load((0,), 4) + x.load((0,), 3), 4)


def too_many_indices(y, x):
    y[0, 0] = 1.0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (branches, r"truth of a traced value.*where\("),
        (conjunction, r"truth of a traced value.*where\("),
        (repeats, r"truth of a traced value.*where\("),
        (unrolls_a_traced_count, r"range\(\) unrolls, loop\(\) runs"),
        (leaves_by_break, "left by break or return.*where"),
        (leaves_by_return, "left by break or return.*where"),
        (leaves_the_inner_loop, "left by break or return.*where"),
        (adds_index_to_value, r"kind f32 and i64.*cast\("),
        (shifts_a_float, "for integers"),
        (divides_integers, "for float32"),
        (takes_a_remainder_of_floats, "for integers"),
        (mixes_widths, "4 and 3 lanes"),
        (too_many_indices, r"2 indices into an array of shape \(8,\)"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_cannot_be_meant_is_refused(body, words):
    with pytest.raises(KernelError, match=words):
        ir(body)


# loops


def looped(y, x):
    for i in loop(8):
        y[i] = x[i]


def unrolled(y, x):
    for i in range(8):
        y[i] = x[i]


def nested(y, x):
    for i, j in loops(2, 4):
        y[i * 4 + j] = x[i * 4 + j]


def test_loop_loops_and_range_unrolls():
    blocks = {body: ir(body).count("\nloop") for body in (looped, unrolled, nested)}
    assert blocks == {looped: 1, unrolled: 0, nested: 2}
    assert ir(unrolled).count("store float") == 8
    assert ir(looped).count("store float") == 1


def test_the_docstrings_example_becomes_what_is_said_there():
    """One loop with three multiply-adds in it; and it computes what it says, both ways."""
    lines = lang.__doc__.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    def "))
    source = "\n".join(line[4:] for line in lines[start : lines.index("", start)])
    names = dict(vars(lang))
    exec(source, names)
    text = ir(names["smooth"], spec(1000), spec(1002), spec(3))
    assert (text.count("\nloop"), text.count("call float @")) == (1, 3)
    x, w = np.arange(12, dtype=np.float32), np.array([1, 2, 4], np.float32)
    for got in both_ways(names["smooth"], np.zeros(10, np.float32), x, w):
        assert got.tolist() == np.convolve(x, w[::-1], "valid").tolist()


# methods that the language calls, and bodies do not
INTERNAL = {"address", "as_stored", "__bool__", "__index__"}


@pytest.mark.parametrize(
    ("kinds", "double"), [([lang.Array], interpret.Array), ([lang.Var, values.Traced], interpret.Box)]
)
def test_a_double_has_every_method_that_bodies_call(kinds, double):
    methods = {name for kind in kinds for name, value in vars(kind).items() if callable(value)}
    assert methods - INTERNAL <= vars(double).keys()


def test_registers_compute_as_values_do():
    def body(y, x):
        for i, width in vectors(12):
            r, v = var(x.load((i,), width), width), x.load((i,), width)
            r += 1.0
            r.fma(v, 2.0)
            y.store((0, i), r + v - (v - r) * r / 2.0 + 3.0 / -r, width)
            y.store((1, i), where((r > v) & (r >= 2.0) & (r != 7.0), r, v), width)
            y.store((2, i), where((r > 2.0) | (r == 1.0) | (r < v) | (r <= -4.0), r, v), width)
        for i in loop(12):
            word = var(cast(i, I64))
            mixed = (
                ((word << 3) ^ (5 & word) | (word >> 1)) + 100 // (word + 1) + word // 3 * (word % 4) + 7 % (word + 1)
            )
            y[3, i] = cast(mixed, F32)

    x = np.array([0, 1, 2, -1, -2, 3, 0.5, 7, -3, 4, 5, 6], np.float32)
    i = np.arange(12)
    r = x + 1 + x * 2
    with np.errstate(divide="ignore"):
        sums = r + x - (x - r) * r / 2 + 3 / -r
    want = [
        sums,
        np.where((r > x) & (r >= 2) & (r != 7), r, x),
        np.where((r > 2) | (r == 1) | (r < x) | (r <= -4), r, x),
        ((i << 3) ^ (5 & i) | (i >> 1)) + 100 // (i + 1) + i // 3 * (i % 4) + 7 % (i + 1),
    ]
    for got in both_ways(body, np.zeros((4, 12), np.float32), x):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_loop_of_one_iteration_is_none():
    def once(y, x):
        for i in loop(1):
            y[i] = x[i]

    assert "loop" not in ir(once)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 33, 67])
def test_vectors_cover_everything_once(n):
    def count(y, x):
        for i, width in vectors(n):
            y.store((i,), y.load((i,), width) + 1.0, width)

    x = np.zeros(1, np.float32)
    for got in both_ways(count, np.zeros(n + 1, np.float32), x):
        assert got.tolist() == [1.0] * n + [0.0]


def test_parallel_covers_everything_once_on_any_number_of_threads():
    def count(y, x):
        for i, j, k in parallel(3, 5, 7):
            y[i, j, k] = y[i, j, k] + 1.0

    y, x = np.zeros((3, 5, 7), np.float32), np.zeros(1, np.float32)
    for threads in (1, 2, 5, 200):
        # all come, or the last one alone
        for come in (range(threads), (threads - 1,)):
            y[:] = 0
            checks.run_kernel(count, [y, x], come=come, threads=threads)
            assert (y == 1).all()


@pytest.mark.parametrize("come", [(0,), (2,), (0, 1, 2), (2, 0, 1)], ids=str)
def test_a_kernel_of_many_parallel_loops_covers_each_once_whoever_comes(come):
    sizes = [1, 2, 40, 0, 3, 100, 5, 7, 24, 1, 60, 0, 90]

    def count(y, x, n):
        for row, size in enumerate([*sizes, n.shape[0]]):
            for (i,) in parallel(size):
                y[row, i] = y[row, i] + 1.0

    y, x = np.zeros((len(sizes) + 1, 100), np.float32), np.zeros(1, np.float32)
    checks.run_kernel(count, [y, x, np.zeros(11, np.float32)], come=come, threads=3)
    assert [row.sum() for row in y] == [*sizes, 11]
    assert y.max() == 1


def in_a_loop(y, x):
    for i in loop(4):
        for (j,) in parallel(6):
            y[i, j] = x[j]


def in_a_condition(y, x):
    for _ in when(x[0] > 0.0):
        for (j,) in parallel(6):
            y[0, j] = x[j]


def in_another_one(y, x):
    for (i,) in parallel(4):
        for (j,) in parallel(6):
            y[i, j] = x[j]


@pytest.mark.parametrize("body", [in_a_loop, in_a_condition, in_another_one])
def test_a_parallel_loop_is_in_no_other_loop_or_condition(body):
    with pytest.raises(KernelError, match=f"kernel {body.__name__}: parallel\\(\\) inside of a loop or a condition"):
        checks.run_kernel(body, [np.zeros((4, 6), np.float32), np.ones(6, np.float32)])


@pytest.mark.parametrize("counts", [(0,), (3, 0), (0, 3)], ids=str)
def test_a_parallel_loop_of_no_iterations_emits_nothing(counts):
    def nothing(y, x):
        for _ in parallel(*counts):
            y[0] = 1.0

    def empty(y, x):
        pass

    assert ir(nothing) == ir(empty)
    for got in both_ways(nothing, np.zeros(1, np.float32), np.zeros(1, np.float32)):
        assert got.tolist() == [0.0]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 33, 67])
def test_parallel_vectors_cover_everything_once_on_any_number_of_threads(n):
    def count(y, x):
        for i, width in parallel_vectors(n):
            y.store((i,), y.load((i,), width) + 1.0, width)

    x = np.zeros(1, np.float32)
    for got in both_ways(count, np.zeros(n + 1, np.float32), x):
        assert got.tolist() == [1.0] * n + [0.0]
    for threads in (2, 5):
        y = np.zeros(n + 1, np.float32)
        checks.run_kernel(count, [y, x], come=range(threads), threads=threads)
        assert y.tolist() == [1.0] * n + [0.0]


def test_otherwise_is_the_other_branch_of_when():
    def signs(y, x):
        for i in loop(8):
            for _ in when(x[i] > 0.0):
                y[i] = 1.0
            for _ in otherwise(x[i] > 0.0):
                y[i] = -1.0

    def known(y, x):
        for i in range(8):
            for _ in otherwise(i > 3):
                y[i] = 1.0

    x = np.array([1, -1, 0, 2, -3, np.nan, np.inf, 1], np.float32)
    for got in both_ways(signs, np.zeros(8, np.float32), x):
        assert got.tolist() == np.where(x > 0, 1, -1).tolist()
    for got in both_ways(known, np.zeros(8, np.float32), x):
        assert got.tolist() == [1] * 4 + [0] * 4


def test_an_integer_is_divided_by_a_traced_one():
    def body(y, x):
        for i in loop(9, start=1):
            y[i - 1] = cast(100 // i * 10 + 100 % i, F32)

    want = [float(100 // i * 10 + 100 % i) for i in range(1, 9)]
    for got in both_ways(body, np.zeros(8, np.float32), np.zeros(1, np.float32)):
        assert got.tolist() == want


def test_loops_with_traced_bounds_start_and_step():
    def triangle(y, x):
        for i in loop(6):
            total = var()
            for j in loop(i, start=1, step=2):
                total += cast(j, F32)
            y[i] = total

    for got in both_ways(triangle, np.zeros(6, np.float32), np.zeros(1, np.float32)):
        assert got.tolist() == [0, 0, 1, 1, 4, 4]


def test_conditions_known_while_the_kernel_is_built_mix_with_others():
    def body(y, x):
        for at, width in vectors(20):
            positive = x.load((at,), width) > 0.0
            either = (True & positive) | (False & positive) | splat(False, width)
            y.store((at,), where(either, 1.0, 2.0))

    x = np.linspace(-1, 1, 20, dtype=np.float32)
    for got in both_ways(body, np.zeros(20, np.float32), x):
        assert got.tolist() == np.where(x > 0, 1, 2).tolist()


def test_comparisons_and_integers_agree_with_numpy():
    def body(y, x):
        for i in loop(8):
            word = cast(i, I32) * 2654435761
            mixed = ((word >> 7) ^ (word << 3)) & 0xFFFF | 1
            y[i] = where((x[i] >= 0.0) & (x[i] != 2.0), cast(mixed, F32), -x[i])

    x = np.array([0, -0.0, 1, 2, -3, np.inf, -np.inf, 0.5], np.float32)
    word = (np.arange(8, dtype=np.uint64) * 2654435761).astype(np.uint32)
    mixed = (((word >> 7) ^ (word << 3)) & 0xFFFF | 1).astype(np.float32)
    want = np.where((x >= 0) & (x != 2), mixed, -x)
    for got in both_ways(body, np.zeros(8, np.float32), x):
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    ("index", "words"),
    [((3, 0), "outside"), ((0, 4), "outside"), ((-1, 0), "outside"), ((0,), "1 indices"), ((2, 2), "lanes")],
)
def test_the_interpreter_checks_every_index(index, words):
    def reads(y, x):
        y.store((0,), x.load(index, 3 if words == "lanes" else 1))

    y, x = np.zeros(8, np.float32), np.zeros((3, 4), np.float32)
    with pytest.raises(IndexError, match=words):
        kernels.Kernel(reads, (spec(8), spec(3, 4))).interpret([y, x])


def test_a_small_kernel_keeps_its_vectors():
    def copy(y, x):
        for i, width in vectors(8 * lanes()):
            y.store((i,), x.load((i,), width), width)

    text = ir(copy)
    assert f"<{lanes()} x float>" in text


# elementary functions


def every_float(count):
    """float32 numbers spread evenly over all bit patterns, and the ones where something changes."""
    bits = np.linspace(0, 2**32 - 1, count).astype(np.uint64).astype(np.uint32)
    edges = np.array(
        [
            0,
            -0.0,
            1,
            -1,
            np.inf,
            -np.inf,
            np.nan,
            1e-45,
            -1e-45,
            1.1754944e-38,
            1.17549421e-38,
            3.4028235e38,
            88.72283,
            88.72284,
            -87.33654,
            -87.33655,
            -103.9,
            0.70710678,
            0.625,
            9.0109,
            3.9193,
        ],
        np.float32,
    )
    with np.errstate(over="ignore"):
        near = np.concatenate([np.nextafter(edges, d * np.float32(np.inf)) for d in (1, -1)])
    return np.concatenate([bits.view(np.float32), edges, near]).astype(np.float32)


def exponentials(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.exp(x.load((i,), width)), width)


def logarithms(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.log(x.load((i,), width)), width)


def hyperbolic_tangents(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.tanh(x.load((i,), width)), width)


def error_functions(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.erf(x.load((i,), width)), width)


def exponentials_less_one(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.expm1(x.load((i,), width)), width)


def gelus(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.gelu(x.load((i,), width)), width)


def gelu_slopes(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.gelu_slope(x.load((i,), width)), width)


def reciprocal_roots(y, x):
    for i, width in vectors(x.shape[0]):
        y.store((i,), maths.rsqrt(x.load((i,), width)), width)


def ulp(got, want):
    """The distance in units of the last place of the correct float32 result."""
    unit = np.spacing(abs(want).astype(np.float32)).astype(np.float64)
    return abs(got.astype(np.float64) - want) / unit


TINY = float(np.finfo(np.float32).tiny)


def check_exp(x, got):
    with np.errstate(all="ignore"):
        want = np.exp(x.astype(np.float64))
    assert np.isnan(got[np.isnan(x)]).all()
    assert (got[want > np.finfo(np.float32).max * (1 + 2**-25)] == np.inf).all()
    assert (got[want < TINY * (1 - 2**-22)] == 0).all()
    normal = (want >= TINY * (1 + 2**-22)) & (want <= np.finfo(np.float32).max * (1 - 2**-22))
    return ulp(got[normal], want[normal]).max()


def check_log(x, got):
    with np.errstate(all="ignore"):
        want = np.log(x.astype(np.float64))
    assert np.isnan(got[np.isnan(x) | (x < 0)]).all()
    assert (got[(x >= 0) & (x < TINY)] == -np.inf).all()
    assert (got[x == np.inf] == np.inf).all()
    normal = (x >= TINY) & (x < np.inf)
    return ulp(got[normal], want[normal]).max()


def check_odd(x, got, reference, one):
    """tanh or erf: nothing is flushed, and the magnitude is 1 from `one` on."""
    want = np.array([reference(v) for v in x.tolist()])
    assert np.isnan(got[np.isnan(x)]).all()
    assert (abs(got[abs(x) >= one]) == 1).all()
    number = ~np.isnan(x)
    assert (abs(got[number]) <= 1).all()
    assert (np.signbit(got[number]) == np.signbit(x[number])).all()
    return ulp(got[number], want[number]).max()


def check_tanh(x, got):
    return check_odd(x, got, math.tanh, 9.0109)


def check_erf(x, got):
    return check_odd(x, got, math.erf, 3.9193)


def check_expm1(x, got):
    assert np.isnan(got[np.isnan(x)]).all()
    within = x <= 80
    return ulp(got[within], np.expm1(x[within].astype(np.float64))).max()


def distribution(x):
    return np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in x.tolist()])


def check_gelu(x, got):
    """In units of 1e-7 x: the distribution's error."""
    assert np.isnan(got[np.isnan(x)]).all()
    assert (got[x <= -5.543][np.isfinite(x[x <= -5.543])] == 0).all()
    assert (got[x >= 5.543] == x[x >= 5.543]).all()
    number = np.isfinite(x) & (abs(x) >= TINY)
    x, got = x[number].astype(np.float64), got[number]
    return (abs(got - x * distribution(x)) / abs(1e-7 * x)).max()


def check_gelu_slope(x, got):
    """In units of 1.25e-7."""
    assert np.isnan(got[np.isnan(x)]).all()
    assert (got[x >= 6.03] == 1).all()
    assert (got[x <= -6.03] == 0).all()
    x, got = x[~np.isnan(x)].astype(np.float64), got[~np.isnan(x)]
    near = np.clip(x, -40, 40)
    want = distribution(x) + near * np.exp(near * near / -2) / math.sqrt(2 * math.pi)
    return abs(got - want).max() / 1.25e-7


def check_rsqrt(x, got):
    with np.errstate(all="ignore"):
        want = 1 / np.sqrt(x.astype(np.float64))
    assert np.isnan(got[np.isnan(want)]).all()
    assert (got[x == 0] == want[x == 0]).all()  # with the zero's sign
    assert (got[x == np.inf] == 0).all()
    positive = (x > 0) & (x < np.inf)
    return ulp(got[positive], want[positive]).max()


EVERY_SCALE = np.geomspace(1e-38, 3e38, 1 << 18)
FUNCTIONS = [  # where each bends, in dense steps, and the check, which gives the largest error in ULP
    (exponentials, np.linspace(-104, 89, 1 << 18), check_exp),
    (logarithms, EVERY_SCALE, check_log),
    (hyperbolic_tangents, np.linspace(-10, 10, 1 << 18), check_tanh),
    (error_functions, np.linspace(-4.5, 4.5, 1 << 18), check_erf),
    (exponentials_less_one, np.linspace(-20, 20, 1 << 18), check_expm1),
    (gelus, np.linspace(-7, 7, 1 << 18), check_gelu),
    (gelu_slopes, np.linspace(-7, 7, 1 << 18), check_gelu_slope),
    (reciprocal_roots, EVERY_SCALE, check_rsqrt),
]


@pytest.mark.parametrize(("body", "dense", "check"), FUNCTIONS)
def test_elementary_functions_over_every_kind_of_number(body, dense, check):
    """Within the bound that maths.py states, as machine code and in plain Python, in full vectors and in the tail."""
    dense, near_one = dense.astype(np.float32), np.linspace(0.5, 2, 1 << 16).astype(np.float32)
    x = np.concatenate([every_float((1 << 18) + 3), dense, near_one])
    got = np.full_like(x, 7)
    checks.run_kernel(body, [got, x], plain=False)
    assert check(x, got) <= 2.0
    x = np.concatenate([every_float(2001), dense[::100]])
    got = np.full_like(x, 7)
    with np.errstate(invalid="ignore", divide="ignore"):
        kernels.Kernel(body, (spec(x.size), spec(x.size))).interpret([got, x])
    assert check(x, got) <= 2.0


# random numbers

KNOWN = [  # Random123, kat_vectors: philox2x32 10; counter, key, result
    ((0x00000000, 0x00000000), 0x00000000, (0xFF1DAE59, 0x6CD10DF2)),
    ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
    ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
]


def philox2x32(counter, key, rounds=10):
    """Salmon, Moraes, Dror and Shaw 2011, section 3.3, on Python integers."""
    low, high = counter
    for _ in range(rounds):
        product = low * 0xD256D193
        low, high = product >> 32 ^ key ^ high, product & 0xFFFFFFFF
        key = (key + 0x9E3779B9) & 0xFFFFFFFF
    return low, high


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_numbers(counter, key, result):
    assert philox2x32(counter, key) == result
    low, high = random.numpy_rounds(*counter, key)
    assert (int(low[0]), int(high[0])) == result

    def body(y, x):
        y[0], y[1] = random.lane_rounds(x[0], x[1], x[2])

    words = np.array([*counter, key], np.uint32).view(np.int32)
    for got in both_ways(body, np.zeros(2, np.int32), words):
        assert tuple(got.view(np.uint32).tolist()) == result


@pytest.mark.parametrize("n", [1, 5, 16, 35])
def test_random_numbers_are_a_function_of_seed_step_stream_and_index(n):
    def body(y, key):
        words = random.mixed_key([key[i] for i in range(4)], 3)
        for i, width in vectors(n):
            y.store((i,), random.philox(random.counters(i, width), words), width)

    key = np.array([5, -6, 7, 2**31 - 1], np.int32)
    want = random.philox_numpy(np.arange(n, dtype=np.uint64), key, 3)
    for got in both_ways(body, np.zeros(n, np.int32), key):
        assert got.view(np.uint32).tolist() == want.tolist()
    for word in range(4):
        other = key.copy()
        other[word] ^= 1
        assert (random.philox_numpy(np.arange(n, dtype=np.uint64), other, 3) != want).all()
    assert (random.philox_numpy(np.arange(n, dtype=np.uint64), key, 4) != want).all()


def test_the_index_kind_is_64_bits():
    assert (I64.numpy, I32.numpy, F32.numpy) == (np.int64, np.uint32, np.float32)
