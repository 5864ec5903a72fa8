"""The text that the kernel language emits: known numbers, values that are computed once, registers without memory."""

import re

import checks
import numpy as np
import pytest

from foveal.kernel import compile as kernels
from foveal.kernel.builder import CONTRACT, Builder, build_in
from foveal.kernel.flow import StructuredCode
from foveal.kernel.lang import I32, I64, Value, constant, loop, loops, otherwise, parallel, var, when, where
from foveal.kernel.target import host


def spec(*shape, dtype="float32"):
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return kernels.ArraySpec(shape, strides, dtype)


def text(body, *specs):
    return kernels.build_ir(kernels.Kernel(body, specs or (spec(8), spec(8))), host(), "k")


def lines(function, instruction):
    """The lines with this instruction, by the block that they stand in."""
    found, label = [], "entry"
    for line in function.body().splitlines():
        if line.endswith(":"):
            label = re.sub(r"\d+:", "", line).rstrip(":")
        elif f" {instruction} " in line:
            found.append(label)
    return found


@pytest.mark.parametrize(
    ("name", "a", "b", "want"),
    [
        ("add", 3, 4, 7),
        ("sub", 3, 4, -1),
        ("mul", 2**31 - 1, 2, -2),
        ("shl", 1, 31, -(2**31)),
        ("udiv", 7, 2, 3),
        ("urem", 7, 2, 1),
        ("lshr", 8, 2, 2),
        ("add", "%x", 0, "%x"),
        ("mul", "%x", 1, "%x"),
        ("mul", "%x", 0, 0),
        ("and", "%x", 0, 0),
        ("udiv", "%x", 1, "%x"),
        ("urem", "%x", 1, 0),
    ],
)
def test_known_numbers_are_computed_while_a_kernel_is_built(name, a, b, want):
    function = StructuredCode()
    assert function.integer(name, "i32", a, b) == want
    assert not function.block.lines


@pytest.mark.parametrize(("name", "a", "b"), [("udiv", -8, 2), ("lshr", -8, 1), ("udiv", 8, 0), ("urem", "%x", 0)])
def test_what_depends_on_signs_or_divides_by_zero_is_left_to_the_machine(name, a, b):
    function = StructuredCode()
    assert function.integer(name, "i32", a, b) == "%a1"


def test_sums_and_products_of_indices_are_short():
    function = StructuredCode()
    assert (function.add(0, "%x"), function.add("%x", 0), function.add(2, 3)) == ("%x", "%x", 5)
    assert (function.multiply(1, "%x"), function.multiply("%x", 1), function.multiply("%x", 0)) == ("%x", "%x", 0)
    assert function.compare("<", "i64", -1, 0) == 1
    assert function.select("i1", "i64", 0, "%x", "%y") == "%y"
    assert function.element("float", "%p", 0) == "%p"
    assert not function.block.lines


def test_a_value_is_computed_once_where_it_is_seen():
    function = StructuredCode()
    product = function.multiply("%x", 3)
    scope = function.open_branch("%c")
    assert function.multiply("%x", 3) == product
    inside = function.multiply("%x", 5)
    assert function.multiply("%x", 5) == inside
    function.close_branch(scope)
    # the branch may not have run
    assert function.multiply("%x", 5) != inside
    assert function.multiply("%x", 3) == product


def test_the_two_ways_of_a_branch_share_nothing():
    function = StructuredCode()
    scope = function.open_branch("%c")
    first = function.add("%x", 1)
    function.close_branch(scope)
    scope = function.open_branch("%d")
    assert function.add("%x", 1) != first
    function.close_branch(scope)


def test_what_a_loop_does_not_change_stands_before_it():
    function = StructuredCode()
    outer = function.open_loop(0, 8)
    row = function.multiply(outer.index, 100)
    branch = function.open_branch("%c")
    inner = function.open_loop(0, 8)
    function.add(function.add(inner.index, function.multiply("%x", 7)), function.add(row, 1))
    # a division by what is not known stays where it is
    function.integer("udiv", "i64", "%x", "%y")
    function.integer("udiv", "i64", "%x", 3)
    function.close_loop(inner, 0, 8, 1)
    function.close_branch(branch)
    function.close_loop(outer, 0, 8, 1)
    function.block.end = "ret void"
    # by 100 in the outer loop, by 7 before both
    assert lines(function, "mul") == ["entry", "loop"]
    assert lines(function, "udiv") == ["entry", "loop"]
    # row + 1 in the branch around the inner loop, two sums in the inner loop; then each loop counts
    assert lines(function, "add") == ["then", "loop", "loop", "loop", "end"]


def test_loads_are_repeated():
    def body(y, x):
        y[0] = x[0] + x[0]

    assert text(body).count("= load float") == 2


def test_registers_need_no_memory():
    def body(y, x):
        for _ in parallel(1):
            total, unchanged = var(), var(2.0)
            for i in loop(8):
                total += x[i] * unchanged
            y[0] = total

    assert "alloca float" not in text(body)
    assert text(body).count("phi float") == 2


def collatz(y, x):
    """Registers through loops and branches, one in the other; y[n] = the number of steps from x[n] to 1."""
    for n in loop(y.shape[0]):
        value, steps = var(x[n]), var(x[n] - x[n])
        for _ in loop(20):
            now = value.get()
            odd = (now & 1) == 1
            for _ in when(now > 1):
                steps += 1
                for _ in when(odd):
                    value.set(now * 3 + 1)
                for _ in otherwise(odd):
                    value.set(now >> 1)
        y[n] = steps.get()


def triangles(y, x):
    """Registers that loops assign which may not run: sums of i < x[n], the last such i, and how often a loop ran."""
    zero = x[0] - x[0]
    before, count = var(zero), var(zero)
    for n in loop(y.shape[0]):
        total, last = var(zero), var(zero - 1)
        for i in loop(x[n]):
            total += i
            last.set(zero + i)
            for _ in loop(i):
                count += 1
        y[n] = total + before * 1000 + last * 1000000
        before.set(total)
    y[0] = y[0] + count * 100000000


def shared(y, x):
    """A register that lives around parallel loops: it holds what this thread did in them."""
    total = var(x[0] - x[0])
    for (i,) in parallel(x.shape[0]):
        total += x[i]
    for _ in range(2):
        for (i,) in parallel(1):
            total += i + 1
    for n in loop(y.shape[0]):
        y[n] = total.get()


@pytest.mark.parametrize("body", [collatz, triangles, shared], ids=lambda body: body.__name__)
@pytest.mark.parametrize("plain", [True, False])
def test_registers_hold_what_they_hold_in_plain_python(body, plain):
    x = np.array([6, 1, 0, 7, 3, 12, 2, 9], np.int64)
    want, got = np.zeros(8, np.int64), np.zeros(8, np.int64)
    kernels.Kernel(body, (spec(8, dtype="int64"),) * 2).interpret([want, x.copy()])
    checks.run_kernel(body, [got, x], plain=plain)
    assert got.tolist() == want.tolist()


def test_a_register_made_in_a_closed_loop_goes_on():
    def body(y, x):
        for i in loop(4):
            kept = var(x[i])
        for i in loop(4):
            kept += x[i]
        y[0] = kept

    x, y = np.arange(8, dtype=np.float32), np.zeros(8, np.float32)
    checks.run_kernel(body, [y, x], plain=False)
    assert y[0] == 3 + 0 + 1 + 2 + 3


def test_a_loop_whose_end_is_computed_while_the_kernel_is_built_may_not_run():
    def body(y, x):
        total = var(1.0)
        for i in parallel(8):
            for _ in loop(constant(3, I64) // 4):
                total.set(100.0)
            for _ in loop(constant(7, I64) // 3):
                total += x[i[0]]
        y[0] = total

    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    checks.run_kernel(body, [y, x], plain=False)
    assert y[0] == 17


def test_a_loop_from_an_index_to_itself_is_passed_by():
    function = StructuredCode()
    held = function.register("i64", 5)
    scope = function.open_loop(3, 3)
    function.assign(held, 6)
    function.close_loop(scope, 3, 3, 1)
    assert function.read(held) not in (5, 6)


def test_a_register_keeps_its_type():
    def body(y, x):
        total = var()
        total.set(Value("%thread", I64))

    with pytest.raises(kernels.KernelError, match=r"i64 assigned to a register of 1 lanes of f32.*cast\("):
        text(body)


def test_numbers_keep_their_bits():
    builder = Builder("k", host(), CONTRACT)
    with build_in(builder):
        assert [constant(n, kernels.KINDS[np.dtype("float32")]).base for n in (0.0, -0.0, 0.1, float("inf"))] == [
            "0x0000000000000000",
            "0x8000000000000000",
            "0x3fb99999a0000000",
            "0x7ff0000000000000",
        ]
        assert constant(0xFFFFFFFF, I32).base == -1
        assert constant(3, I32, 4).base == "splat (i32 3)"


def test_indices_in_outer_loops_are_added_there():
    def body(y, x):
        for i, j, k in loops(4, 5, 6):
            y[i, j, k] = where(x[i, j, k] > 0.0, x[i, j, k], 0.0)

    shape = spec(4, 5, 6)
    ir = text(body, shape, shape)
    # of each array one pointer for each loop; the factors are shared by the two
    assert ir.count("getelementptr inbounds float") == 6
    assert ir.count("mul nsw") == 2
