"""What an exercise asks, and what it is worth: parts that call functions of a submission and compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from foveal.checking.gradients import gradcheck
from foveal.course.exercises import Exercise
from foveal.course.grading.compare import difference, shown
from foveal.course.grading.session import Failed, Session
from foveal.errors import FovealError
from foveal.strides import Ndarray

# Functions of a submission are called with arrays that the judge keeps; a call by name and arguments.
Call = Callable[..., Any]


class Case(NamedTuple):
    """A call and what it should return."""

    #: by the names of the function's parameters, in their order
    arguments: Mapping[str, Any]
    #: by name: one result, or the parts of a tuple
    right: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a part of an exercise has found, with all that a student needs to repeat it."""

    title: str
    points: float
    most: float
    #: what is wrong, as a sentence; empty if nothing is
    text: str = ""
    #: code that repeats the call
    code: str = ""
    #: results by name, as code: what is right, and what was returned
    right: tuple[tuple[str, str], ...] = ()
    returned: tuple[tuple[str, str], ...] = ()
    #: lines of the submission that led to an error
    where: tuple[str, ...] = ()
    #: True if the function is not written yet
    blank: bool = False


@dataclass(frozen=True)
class Part:
    """Base of what can be asked of an exercise."""

    title: str

    def most(self) -> float:
        """Return the points that it is worth."""
        raise NotImplementedError

    def verdicts(self, session: Session, module: str) -> list[Verdict]:
        """Return what is found. Failed is let through where the process has ended."""
        raise NotImplementedError

    def failed(self, text: str, **more: Any) -> Verdict:
        """Return the verdict of no points."""
        return Verdict(self.title, 0.0, self.most(), text, **more)

    def without_result(self, error: Failed, **more: Any) -> Verdict:
        """Return the verdict of a call that gave no result. Raises the error where the process has ended."""
        if error.ended:
            raise error
        return self.failed(str(error), where=error.where, blank=error.blank, **more)


@dataclass(frozen=True)
class Values(Part):
    """Results beside what is right, in cases that are drawn: small ones first, so that they are what is shown."""

    function: str
    #: draws arguments; its answer is a Case
    drawn: Exercise
    #: of each result; a result is worth them if it is right in all cases
    points: Mapping[str, float]
    #: of the right shapes of all results
    shapes: float = 0.0
    #: made when they are first needed, for all submissions
    made: list[Case] = field(default_factory=list)

    def most(self) -> float:
        return sum(self.points.values()) + self.shapes

    def cases(self) -> list[Case]:
        """Return the cases, small ones first."""
        if not self.made:
            found = [case for _, case in self.drawn.cases()]
            self.made.extend(sorted(found, key=lambda case: sum(np.size(value) for value in case.arguments.values())))
        return self.made

    def verdicts(self, session: Session, module: str) -> list[Verdict]:
        found: dict[str, Verdict] = {}
        for case in self.cases():
            code = repeated(module, self.function, case.arguments)
            right = tuple((name, shown(value, name)) for name, value in case.right.items())
            more: dict[str, Any] = {"code": code, "right": right}
            try:
                result = session.call(module, self.function, list(case.arguments.values()))
            except Failed as error:
                error.code = code
                # What raises has no result in any case.
                for name in ("shapes", *self.points):
                    found.setdefault(name, self.without_result(error, **more))
                break
            parts = [result] if len(case.right) == 1 else result
            if not isinstance(parts, tuple | list) or len(parts) != len(case.right):
                text = f"It returns {shown(result)}; the tuple ({', '.join(case.right)}) is right."
                found = {name: self.failed(text, **more) for name in ("shapes", *self.points)}
                break
            own = dict(zip(case.right, parts, strict=True))
            more["returned"] = tuple((name, shown(value, name)) for name, value in own.items())
            for name, value in case.right.items():
                differs = difference(name, own[name], value)
                if differs.of_shape:
                    found.setdefault("shapes", self.failed(differs.text, **more))
                if differs.text:
                    found.setdefault(name, self.failed(differs.text, **more))
        return self.summed(found)

    def summed(self, found: Mapping[str, Verdict]) -> list[Verdict]:
        """Return a verdict for each result, from what was found wrong first of each."""
        worth = {"shapes": self.shapes, **self.points} if self.shapes else dict(self.points)
        verdicts = []
        for name, most in worth.items():
            title = self.title if len(worth) == 1 else f"{self.title}: {name}"
            wrong = found.get(name)
            verdicts.append(replace(wrong, title=title, most=most) if wrong else Verdict(title, most, most))
        return verdicts


@dataclass(frozen=True)
class Gradients(Part):
    """Whether a function's own gradients are those of the function itself, right or wrong: `foveal.gradcheck`."""

    points: float
    arrays: tuple[Ndarray, ...]
    #: forward(call, *arrays) returns the result, backward(call, dy, *arrays) the gradients in the arrays
    forward: Call
    backward: Call

    def most(self) -> float:
        return self.points

    def verdicts(self, session: Session, module: str) -> list[Verdict]:
        def call(function: str, *arguments: object) -> Any:
            return session.call(module, function, arguments)

        def forward(*arrays: Ndarray) -> Any:
            return self.forward(call, *arrays)

        def backward(dy: Ndarray, *arrays: Ndarray) -> Any:
            return self.backward(call, dy, *arrays)

        # The report names the arguments as the student's function does.
        names = list(signature(self.forward).parameters.values())[1:]
        forward.__signature__ = signature(forward).replace(parameters=names)  # type: ignore[attr-defined]
        # Each difference takes calls; that every element is right has been compared before.
        try:
            report = gradcheck(forward, *self.arrays, backward=backward, elements=8, directions=0)
            # A constant has gradients of zero, which are right and worth nothing.
            constant = np.array_equal(forward(*self.arrays), forward(*(1.5 * x for x in self.arrays)))
        except Failed as error:
            return [self.without_result(error)]
        # What is returned is of any kind, and gradcheck says what it cannot check.
        except (FovealError, TypeError, ValueError, IndexError) as error:
            return [self.failed(f"The gradients cannot be compared: {error}")]
        if constant:
            return [self.failed("Your forward function returns the same for other arrays.")]
        if report:
            return [Verdict(self.title, self.points, self.points)]
        return [self.failed("The gradients are not those of your own forward function.\n" + str(report))]


@dataclass(frozen=True)
class Speed(Part):
    """How many times as fast as another function one is, on the same arguments, with the right results."""

    function: str
    #: points by how many times as fast
    steps: tuple[tuple[float, float], ...]
    #: of each call, of the same sizes, of which the shortest time counts; what was returned before is of no use in any
    arguments: tuple[Mapping[str, Any], ...]
    #: what it is compared with, which runs here
    slow: Call
    #: what the title calls that
    called: str

    def most(self) -> float:
        return sum(points for _, points in self.steps)

    def verdicts(self, session: Session, module: str) -> list[Verdict]:
        slow, seconds = [], []
        for arguments in self.arguments:
            given = list(arguments.values())
            right, slowly = self.slowly(given)
            slow.append(slowly)
            try:
                own, taken = session.timed(module, self.function, given)
            except Failed as error:
                return [self.without_result(error)]
            seconds.append(taken)
            if differs := difference("y", own, right).text:
                return [self.failed(f"What is timed is wrong. {differs}")]
        times = min(slow) / min(seconds)
        took = f"{self.function} took {min(seconds) * 1e3:.2f} ms, {self.called} {min(slow) * 1e3:.2f} ms"
        return self.by_step(times, took)

    def slowly(self, given: list[Any]) -> tuple[Any, float]:
        """Return the result of what is compared with, and the seconds that it takes."""
        start = time.perf_counter()
        result = self.slow(*given)
        return result, time.perf_counter() - start

    def by_step(self, times: float, took: str) -> list[Verdict]:
        """Return a verdict for each number of times as fast."""
        text = f"It is {times:.1f} times as fast as {self.called} ({took})."
        return by_steps(self.steps, times, lambda least: f"{self.title}: {least:g} times as fast", text)


@dataclass(frozen=True)
class Accuracy(Part):
    """The share of test images that a network, which the submission trains, classifies right."""

    function: str
    #: points by the accuracy
    steps: tuple[tuple[float, float], ...]
    #: images and labels, of which the last are the test images
    data: Callable[[], tuple[Ndarray, Ndarray]]
    train: int
    seed: int

    def most(self) -> float:
        return sum(points for _, points in self.steps)

    def verdicts(self, session: Session, module: str) -> list[Verdict]:
        (x, labels), n = self.data(), self.train
        try:
            own = session.call(module, self.function, [x[:n], labels[:n], x[n:], self.seed])
        except Failed as error:
            return [self.without_result(error)]
        differs = difference("the result", own, labels[n:])
        if differs.of_shape:
            return [self.failed(differs.text)]
        accuracy = float(np.mean(np.asarray(own) == labels[n:]))
        text = f"Of {len(labels) - n} test images, {accuracy:.2%} are classified right."
        return by_steps(self.steps, accuracy, lambda least: f"{self.title}: {least:.0%} right", text)


def by_steps(
    steps: tuple[tuple[float, float], ...], reached: float, title: Callable[[float], str], text: str
) -> list[Verdict]:
    """Return a verdict for each step, a least number with its points; text: what is said where it is not reached."""
    return [
        Verdict(title(least), points, points, "") if reached >= least else Verdict(title(least), 0.0, points, text)
        for least, points in steps
    ]


@dataclass(frozen=True)
class Task:
    """An exercise: functions in one file of a submission."""

    name: str
    title: str
    #: the file, without .py
    module: str
    parts: tuple[Part, ...]
    #: how many times the usual limit of time it has
    times: int = 1

    def most(self) -> float:
        """Return the points that it is worth."""
        return sum(part.most() for part in self.parts)

    def prepare(self) -> None:
        """Make what is compared with, which is no time of a submission's."""
        for part in self.parts:
            if isinstance(part, Values):
                part.cases()
            elif isinstance(part, Accuracy):
                part.data()

    def grade(self, session: Session) -> list[Verdict]:
        """Return the verdicts of all parts. If the process ends, or ends wrongly, none of them has points."""
        verdicts: list[Verdict] = []
        code = ""
        try:
            with session:
                for part in self.parts:
                    verdicts += part.verdicts(session, self.module)
                reason = session.end().text
        except Failed as error:
            reason, code = str(error), error.code
        if not reason:
            return verdicts
        return [Verdict("all parts", 0.0, self.most(), reason, code)]


def repeated(module: str, function: str, arguments: Mapping[str, Any]) -> str:
    """Return code that repeats a call."""
    lines = ["import numpy as np", f"from {module} import {function}", ""]
    lines += [f"{name} = {shown(value, name)}" for name, value in arguments.items()]
    return "\n".join([*lines, f"print({function}({', '.join(arguments)}))"])
