"""Exercises that check themselves: a function of one's own beside an answer, on sizes that are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveal.checking.gradients import gradcheck
from foveal.errors import ArgumentError, ShapeError
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
        raises, or returns nothing yet, has not passed, and the text says for which arguments.
        """
        cases = self.cases()
        for arguments, right in cases:
            called = f"{name_of(yours)}({', '.join(f'{name}={shown(value)}' for name, value in arguments.items())})"
            try:
                own = yours(*copied(arguments).values())
            except Exception as error:
                return Checked(False, f"Not yet: {called} raises {type(error).__name__}: {error}")
            if own is None or own is ...:
                return Checked(
                    False, f"Not solved yet: {name_of(yours)} returns nothing. Write it and run the cell again."
                )
            if difference := differs(own, right):
                return Checked(False, f"Not yet: {called} {difference}")
        if backward is not None:
            return self.gradients(yours, backward, cases)
        return Checked(True, f"Solved: {name_of(yours)} agrees in all of {len(cases)} cases, whose sizes were drawn.")

    def gradients(self, yours: Callable[..., Any], backward: Callable[..., Any], cases: list[Any]) -> Checked:
        """Compare the gradients of the arrays of a few cases with differences in float64; the other arguments stay."""
        few = cases[:WITH_GRADIENTS]
        for arguments, _ in few:
            arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]

            def all_of(moved: Sequence[Ndarray], others: dict[str, Any] = arguments) -> list[Any]:
                left = iter(moved)
                return [next(left) if isinstance(value, np.ndarray) else value for value in others.values()]

            def forward(*moved: Ndarray, all_of: Callable[..., Any] = all_of) -> Any:
                return yours(*all_of(moved))

            def slopes(dy: Ndarray, *moved: Ndarray, all_of: Callable[..., Any] = all_of) -> Any:
                return backward(dy, *all_of(moved))

            try:
                report = gradcheck(forward, *arrays, backward=slopes)
            except Exception as error:
                return Checked(False, f"Not yet: {name_of(backward)} raises {type(error).__name__}: {error}")
            if not report:
                return Checked(False, f"Not yet: the values agree, the gradients do not.\n{report}")
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
        return f"returns {own!r}, which is no number and no array of numbers"
    if ours.shape != theirs.shape:
        return f"returns the shape {ours.shape}; {theirs.shape} is right"
    # Whole numbers and few of them are shown; of arrays the worst element.
    error = np.abs(ours - theirs)
    if not (error <= TOLERANCE * max(1.0, float(np.abs(theirs).max(initial=0.0)))).all():
        if theirs.size <= 4:
            return f"returns {own!r}; {right!r} is right"
        at = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
        place = ", ".join(str(int(i)) for i in at)
        return f"returns {ours[at]:.6g} at [{place}]; {theirs[at]:.6g} is right"
    return ""
