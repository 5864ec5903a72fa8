"""Exercises that check themselves: what passes, what does not, and what the reader is told."""

import re

import numpy as np
import pytest

from foveal import course, ops
from foveal.errors import ArgumentError, ShapeError

POOL = {"x": "H W", "H": (2, 7), "W": (2, 7), "R": (1, 3), "u": (1, 3)}
exercise = course.Exercise(lambda x, R, u: ops.max_pool2d(x[None, None], kernel_size=R, stride=u)[0, 0], **POOL)


def pool(x, R, u):
    return np.lib.stride_tricks.sliding_window_view(x, (R, R))[::u, ::u].max((2, 3))


def backward(dy, x, R, u):
    dx = np.zeros_like(x)
    for p, q in np.ndindex(dy.shape):
        r, s = divmod(x[p * u : p * u + R, q * u : q * u + R].argmax(), R)
        dx[p * u + r, q * u + s] += dy[p, q]
    return dx


def test_a_right_function_passes_and_its_gradients_too():
    assert exercise.check(pool)
    found = exercise.check(pool, backward)
    assert found
    assert str(found) == "Solved: pool agrees in all of 30 cases, and its gradients with differences in 5."


@pytest.mark.parametrize(
    ("yours", "told"),
    [
        (lambda x, R, u: None, "Not solved yet: <lambda> returns nothing"),
        (lambda x, R, u: x, r"\(x=array\(\d, \d\), R=\d, u=\d\) returns the shape"),
        (lambda x, R, u: pool(x, R, u) + 0.1, r"returns .* at \[\d, \d\]; .* is right"),
        (lambda x, R, u: pool(x, R, u) * np.nan, r"returns nan at \[\d, \d\]; .* is right"),
        (lambda x, R, u: "no", "returns 'no', which is no number"),
        (lambda x, R, u: 1 / 0, "raises ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_function_is_told_for_which_arguments(yours, told):
    found = exercise.check(yours)
    assert not found
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(str(found))


def test_a_wrong_gradient_is_told_by_its_element():
    found = exercise.check(pool, lambda dy, x, R, u: 1.01 * backward(dy, x, R, u))
    assert not found
    assert "the gradients do not" in str(found)
    assert "WRONG" in str(found)
    assert "raises IndexError" in str(exercise.check(pool, lambda dy, x, R, u: x[99]))


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda *_: None, "case 0: slopes returns nothing. Write it, end it with return"),
        (lambda dx: (dx, dx), r"case 0: slopes returned 2 gradient\(s\), but there are 1 arrays of floats \(x\)"),
        (lambda dx: dx[1:], "case 0: slopes returned an array .* as the gradient in x"),
        (lambda dx: dx.astype(int), r"case 0: slopes returned whole numbers \(int64\)"),
        (lambda dx: -dx, r"(?s)do not: slopes\(dy, x=.*, R=.*\) with random dy.*gradients of pool: .*\nx .*WRONG"),
    ],
)
def test_a_wrong_gradient_is_told_in_words_of_the_exercise(returned, told):
    def slopes(dy, x, R, u):
        return returned(backward(dy, x, R, u))

    found = exercise.check(pool, slopes)
    assert not found
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(str(found))


def test_the_gradient_of_a_number_needs_dy():
    total = course.Exercise(lambda x: ops.sum(x * x), x="D", D=(1, 4), tries=5)
    assert total.check(lambda x: (x * x).sum(), lambda dy, x: dy * 2 * x)
    assert "with dy = 3" in str(total.check(lambda x: (x * x).sum(), lambda dy, x: 2 * x))


def test_a_case_is_told_by_its_number_and_an_error_by_its_line():
    def once(x, R, u):
        return pool(x, R, u) if x.shape == exercise.cases()[0][0]["x"].shape else None

    assert re.search(r"Not yet, in case [1-9]\d*: once\(.*\) returns nothing", str(exercise.check(once)))

    def fails(x, R, u):
        y = pool(x, R, u)
        return y @ np.ones(99)

    line = fails.__code__.co_firstlineno + 2
    assert str(exercise.check(fails)).endswith(f"(line {line})")
    assert str(exercise.check(pool, lambda dy, x, R, u: fails(x, R, u))).endswith(f"(line {line})")


def test_counts_are_exact_and_numbers_short():
    counts = course.Exercise(lambda K: [K, 10**6], K=(5, 5), tries=1)
    assert counts.check(lambda K: (K, 1e6))
    assert "returns [6, 1000000]; [5, 1000000] is right" in str(counts.check(lambda K: [K + 1, 10**6]))
    thirds = course.Exercise(lambda K: np.float32(K / 3), K=(5, 5), tries=1)
    assert "returns 0.5; 1.66667 is right" in str(thirds.check(lambda K: np.float64(0.5)))
    assert "yours are int64, whole numbers only" in str(exercise.check(lambda *a: pool(*a).astype(int)))


def test_a_function_that_writes_to_its_arguments_spoils_nothing():
    def writes(x, R, u):
        result = pool(x, R, u)
        x[:] = 0
        return result

    assert exercise.check(writes)
    assert exercise.check(pool)


def test_what_the_answer_refuses_is_drawn_again():
    cases = exercise.cases()
    assert len(cases) == 30
    assert all(min(arguments["x"].shape) >= arguments["R"] for arguments, _ in cases)
    # The same in each check, so that a reader can go on with the case that failed.
    again = exercise.cases()
    assert all(np.array_equal(a["x"], b["x"]) for (a, _), (b, _) in zip(cases, again, strict=True))


def test_arguments_that_cannot_be_drawn_are_an_error():
    with pytest.raises(ArgumentError, match="a shape has the letter W, which is no argument"):
        course.Exercise(len, x="H W", H=(1, 2))

    def refuses(R):
        raise ShapeError("too large")

    with pytest.raises(ArgumentError, match="the answer refuses 1501, the last with: too large"):
        course.Exercise(refuses, R=(1, 2)).check(len)


def test_a_grid_marks_and_crosses_cells():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    course.grid(axes, np.eye(3), "$", marked=np.eye(3) > 0, crossed=np.eye(3) == 0)
    assert [text.get_text() for text in axes.texts] == ["1", "0", "0", "0", "1", "0", "0", "0", "1"]
    assert len(axes.patches) == 3
    assert len(axes.lines) == 2 * 6
    with pytest.raises(ShapeError, match=r"values have shape \(3,\)"):
        course.grid(axes, np.zeros(3))
    with pytest.raises(ShapeError, match=r"a mask has shape \(2, 2\)"):
        course.grid(axes, np.eye(3), marked=np.eye(2))
