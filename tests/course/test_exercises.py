"""Exercises that check themselves: what passes, what does not, and what the reader is told."""

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
