"""Exercises that check themselves: a function of one's own beside an answer, on sizes that are drawn."""

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.checking.gradients import gradcheck
from foveal.errors import ArgumentError, FovealError, ShapeError
from foveal.strides import Ndarray

# A range of whole numbers, both ends included; a shape, whose letters are other arguments; or a list of values to
# choose from.
Drawn = tuple[int, int] | str | Sequence[object]

# An answer may refuse what is drawn, such as a window larger than its image; then another case takes its place, this
# many times for each that is wanted.
REDRAWN = 50
# Cases whose gradients are compared, which takes many calls each.
WITH_GRADIENTS = 5
# Of values in float32, relative to the largest one: 1000 roundings.
TOLERANCE = 1e-4
# The gradient that arrives for a result that is a number; with 1, a backward that forgets it would be right.
OF_A_NUMBER = 3.0
# What is said of a function whose `...` is still there, or which computes and gives nothing back.
NOTHING = "returns nothing. Write it, end it with return, and run the cell again."


@dataclass(frozen=True)
class Checked:
    """What a check has found; true if all cases agree. It prints as a sentence."""

    #: True if a function of one's own gave the answer each time.
    passed: bool
    #: What was found, for the reader.
    text: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return self.text


class Exercise:
    """A function that a reader is to write, given by an answer to compare with and the arguments to try.

    answer: the function that is right, often an operator of Foveal's; where it raises a ShapeError, as for a
    window that does not fit, other arguments are drawn. arguments: by the names of the function's parameters, in their
    order, each a range (first, last) of whole numbers, a list of values, or the shape of an array of normal random
    numbers in letters, as "N C H W". Letters stand for other arguments, which are then not passed on themselves. tries:
    how many cases are compared. seed: of what is drawn, the same in each check.

        pooled = course.Exercise(lambda x, u: ops.max_pool2d(x, kernel_size=2, stride=u),
                                 x="N C H W", N=(1, 2), C=(1, 3), H=(2, 9), W=(2, 9), u=(1, 3))
        pooled.check(my_pooling)  # shows the first case that differs, or that all agree

    Raises ArgumentError for a letter of a shape that is no argument, and for what cannot be drawn.
    """

    def __init__(self, answer: Callable[..., Any], *, tries: int = 30, seed: int = 0, **arguments: Any) -> None:
        self.answer, self.tries, self.seed = answer, tries, seed
        self.shapes = {name: drawn.split() for name, drawn in arguments.items() if isinstance(drawn, str)}
        letters = {letter for shape in self.shapes.values() for letter in shape}
        if missing := sorted(letters - arguments.keys()):
            raise ArgumentError(
                f"Exercise: a shape has the letter {missing[0]}, which is no argument; say how large it is, such as"
                f" {missing[0]}=(1, 4)"
            )
        self.ranges = {name: drawn for name, drawn in arguments.items() if not isinstance(drawn, str)}
        # What the function is called with, in the order of its parameters.
        self.passed_on = [name for name in arguments if name not in letters]

    def case(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return arguments for one call, by name."""
        values: dict[str, Any] = {}
        for name, drawn in self.ranges.items():
            if isinstance(drawn, tuple):
                first, last = drawn
                values[name] = int(rng.integers(first, last + 1))
            else:
                values[name] = drawn[int(rng.integers(len(drawn)))]
        for name, shape in self.shapes.items():
            values[name] = rng.standard_normal([values[letter] for letter in shape]).astype(np.float32)
        return {name: values[name] for name in self.passed_on}

    def cases(self) -> list[tuple[dict[str, Any], Any]]:
        """Return the arguments of all cases, and what the answer gives for them."""
        rng, refused = np.random.default_rng(self.seed), 0
        found: list[tuple[dict[str, Any], Any]] = []
        while len(found) < self.tries:
            arguments = self.case(rng)
            try:
                found.append((arguments, self.answer(*copied(arguments).values())))
            except ShapeError as error:
                refused += 1
                if refused > REDRAWN * self.tries:
                    raise ArgumentError(
                        f"Exercise: of {refused + len(found)} cases that were drawn the answer refuses {refused}, the"
                        f" last with: {error}; give other ranges"
                    ) from error
        return found

    def check(self, yours: Callable[..., Any], backward: Callable[..., Any] | None = None) -> Checked:
        """Compare a function with the answer on all cases; then, if `backward` is given, its gradients with
        differences.

        backward(dy, *arrays) returns the gradient of each array, as `foveal.gradcheck` takes it. A function that
        raises, or returns nothing yet, has not passed, and the text says for which arguments; those of case 3 are
        `cases()[3][0]`.
        """
        cases = self.cases()
        for number, (arguments, right) in enumerate(cases):
            case = f"Not yet, in case {number}: {called(yours, arguments)}"
            try:
                own = yours(*copied(arguments).values())
            except Exception as error:
                return Checked(False, f"{case} raises {raised(error, yours)}")
            if own is None or own is ...:
                return Checked(False, f"{case if number else 'Not solved yet: ' + name_of(yours)} {NOTHING}")
            if difference := differs(own, right):
                return Checked(False, f"{case} {difference}")
        if backward is not None:
            return self.gradients(yours, backward, cases)
        return Checked(True, f"Solved: {name_of(yours)} agrees in all of {len(cases)} cases, whose sizes were drawn.")

    def gradients(self, yours: Callable[..., Any], backward: Callable[..., Any], cases: list[Any]) -> Checked:
        """Compare the gradients of the arrays of a few cases with differences in float64; the other arguments stay."""
        few = cases[:WITH_GRADIENTS]
        for number, (arguments, right) in enumerate(few):
            forward, slopes = pair(yours, backward, arguments, 1.0 if np.ndim(right) else OF_A_NUMBER)
            case, with_dy = f"Not yet, in case {number}:", "random dy" if np.ndim(right) else f"dy = {OF_A_NUMBER:g}"
            arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
            try:
                report = gradcheck(forward, *arrays, backward=slopes)
            except Exception as error:
                if line_of(error, backward) or not isinstance(error, FovealError):
                    return Checked(
                        False, f"{case} {called(backward, arguments, 'dy')} raises {raised(error, backward)}"
                    )
                return Checked(False, f"{case} {str(error).removeprefix('gradcheck: ')}")
            if not report:
                return Checked(
                    False,
                    f"{case} the values agree, the gradients do not: {called(backward, arguments, 'dy')} with"
                    f" {with_dy}. In the table, analytic is what it returned, numeric what differences of"
                    f" {name_of(yours)} give.\n"
                    f"{report}",
                )
        return Checked(
            True,
            f"Solved: {name_of(yours)} agrees in all of {len(cases)} cases, and its gradients with differences in"
            f" {len(few)}.",
        )

    def __repr__(self) -> str:
        return f"Exercise: a function of {', '.join(self.passed_on)}, compared in {self.tries} cases"


def copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with arrays of their own, which a function may write to."""
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in arguments.items()}


def pair(
    yours: Callable[..., Any], backward: Callable[..., Any], arguments: dict[str, Any], scale: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return both as functions of the arrays among the arguments alone, times a number, with the names that a report
    shows. What the second one returns is refused where it can be no gradient.
    """
    names = [name for name, value in arguments.items() if isinstance(value, np.ndarray)]

    def all_of(moved: Sequence[Ndarray]) -> list[Any]:
        left = iter(moved)
        return [next(left) if isinstance(value, np.ndarray) else value for value in arguments.values()]

    def forward(*moved: Ndarray) -> Any:
        own = yours(*all_of(moved))
        return own if scale == 1 else scale * own

    def slopes(dy: Any, *moved: Ndarray) -> Any:
        found = backward(scale * dy, *all_of(moved))
        if found is None or found is ...:
            raise ArgumentError(f"{name_of(backward)} {NOTHING}")
        for array in found if isinstance(found, tuple | list) else [found]:
            if isinstance(array, np.ndarray) and whole(array):
                raise ArgumentError(
                    f"{name_of(backward)} returned whole numbers ({array.dtype}), which cut off what comes after the"
                    " point; make the gradient an array of floats, as np.zeros(x.shape) does"
                )
        return found

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    forward.__qualname__, slopes.__qualname__ = name_of(yours), name_of(backward)
    return forward, slopes


def called(function: Callable[..., Any], arguments: dict[str, Any], *before: str) -> str:
    """Return a call as a text shows it."""
    return f"{name_of(function)}({', '.join([*before, *(f'{name}={shown(x)}' for name, x in arguments.items())])})"


def raised(error: Exception, function: Callable[..., Any]) -> str:
    """Return an error as a text shows it, with the line of the function's cell or file that it comes from."""
    line = line_of(error, function)
    return f"{type(error).__name__}: {error}" + (f" (line {line})" if line else "")


def line_of(error: Exception, function: Callable[..., Any]) -> int:
    """Return the last line of the function's cell or file that an error has passed; 0 if none."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    return next(
        (at.lineno or 0 for at in reversed(traceback.extract_tb(error.__traceback__)) if at.filename == file), 0
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return what a function is called in a text."""
    return str(getattr(function, "__name__", type(function).__name__))


def shown(value: Any) -> str:
    """Return a value as a text shows it: an array by its shape."""
    return f"array{value.shape}" if isinstance(value, np.ndarray) else repr(value)


def differs(own: Any, right: Any) -> str:
    """Return in which way a result differs from the answer; empty if it does not."""
    try:
        ours, theirs = np.asarray(own, float), np.asarray(right, float)
    except (TypeError, ValueError):
        what = f"a {type(own).__name__}" if isinstance(own, tuple | list) else repr(own)
        return f"returns {what}, which is no number and no array of numbers"
    if ours.shape != theirs.shape:
        return f"returns the shape {ours.shape}; {theirs.shape} is right"
    # Counts have to be right to the last one, however large the others are.
    largest = 1.0 if whole(right) else max(1.0, float(np.abs(theirs).max(initial=0.0)))
    # Whole numbers and few of them are shown; of arrays the worst element.
    error = np.abs(ours - theirs)
    if not (error <= TOLERANCE * largest).all():
        cut = (
            f"; yours are {np.asarray(own).dtype}, whole numbers only"
            if np.ndim(own) and whole(own) and not whole(right)
            else ""
        )
        if theirs.size <= 4:
            return f"returns {numbers(ours)}; {numbers(theirs)} is right{cut}"
        at = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
        place = ", ".join(str(int(i)) for i in at)
        return f"returns {numbers(ours[at])} at [{place}]; {numbers(theirs[at])} is right{cut}"
    return ""


def whole(value: Any) -> bool:
    """Return true for what counts: integers, and arrays of integers."""
    return np.asarray(value).dtype.kind in "biu"


def numbers(array: Any) -> str:
    """Return a few numbers as a text shows them."""
    options: Any = {"float_kind": number}
    return np.array2string(np.asarray(array), separator=", ", formatter=options)


def number(value: float) -> str:
    """Return a number as a text shows it: all digits of a whole one, six of another."""
    return f"{value:.0f}" if abs(value) < 1e15 and value == round(value) else f"{value:.6g}"
