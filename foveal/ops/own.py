"""What operators that users write are given where they leave something out, and what they return, checked.

They are written without this package's tests behind them, so what they return is looked at where it is used.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from foveal.arrays.tensor import Tensor
from foveal.errors import ShapeError
from foveal.kinds import Refused, numbers_array, shown
from foveal.strides import Ndarray, Shape


class Own(Protocol):
    """What is needed of an operator here."""

    @property
    def name(self) -> str: ...
    @property
    def integers(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...

    def numpy(self, *inputs: Any, **attributes: Any) -> Ndarray: ...


# The shapes that were derived, by operator, what it has as attributes, and what it was asked for.
_known: "weakref.WeakKeyDictionary[Own, dict[object, Shape]]" = weakref.WeakKeyDictionary()


def derived_shape(operator: Own, shapes: Sequence[Shape], attributes: Mapping[str, object]) -> Shape:
    """The output's shape of an operator without a shape rule: that of what numpy() returns for zeros, called once.

    Raises ShapeError where numpy() cannot be called on zeros.
    """
    state = tuple((name, id(value)) for name, value in vars(operator).items())
    known, asked = _known.setdefault(operator, {}), (tuple(shapes), tuple(sorted(attributes.items())), state)
    if asked not in known:
        zeros = [np.zeros(s, np.int32 if i in operator.integers else np.float32) for i, s in enumerate(shapes)]
        try:
            with np.errstate(all="ignore"):
                known[asked] = np.shape(operator.numpy(*zeros, **attributes))
        except Exception as error:
            listed = " and ".join(map(str, shapes))
            raise ShapeError(
                f"{operator.name}: the output's shape for inputs of shape {listed} was to be found by calling numpy()"
                f" on zeros, which raised {type(error).__name__}: {error}. Define shape(self, *shapes) to return it"
            ) from error
    return known[asked]


def as_shape(name: str, found: object) -> Shape:
    """What `shape` returned. Raises ShapeError for what is none."""
    sizes = tuple(found) if isinstance(found, tuple | list) else None
    if sizes is None or not all(isinstance(n, int | np.integer) and n >= 0 for n in sizes):
        raise ShapeError(f"{name}: `shape` returned {shown(found)}, it has to return a tuple of whole numbers")
    return tuple(int(n) for n in sizes)


def checked_result(operator: Own, found: object, shape: Shape | None, inputs: Sequence[object]) -> Ndarray:
    """What numpy() returned, as an array of the right shape and kind. Raises ShapeError for anything else.

    shape: None for an operator without a shape rule, of which any shape is right.
    """
    if isinstance(found, tuple):
        raise ShapeError(
            f"{operator.name}: numpy() returned {len(found)} values in a tuple, and an operator has one output; return"
            " one array, such as np.stack of them, or define an operator for each"
        )
    try:
        array: Ndarray = numbers_array(found)
    except Refused:
        raise ShapeError(
            f"{operator.name}: numpy() returned {shown(found)}, it has to return an array of numbers"
        ) from None
    if shape is not None and array.shape != shape:
        raise ShapeError(
            f"{operator.name}: numpy() returned an array of shape {array.shape}, but the output's shape is {shape}, as"
            " its `shape` says; correct one of the two"
        )
    if operator.dtype == "int32" and array.dtype.kind not in "iub":
        raise ShapeError(
            f"{operator.name}: numpy() returned {array.dtype}, but the operator's dtype is int32; return integers"
        )
    return array.copy() if any(found is x for x in inputs) else array


def checked_slopes(operator: Own, found: object, shapes: Sequence[Shape | None]) -> tuple[Tensor | None, ...]:
    """What vjp() returned, as one gradient for each input. Raises ShapeError for another number or shape of them.

    shapes: of the gradients; None for any.
    """
    slopes: list[Any] = list(found) if isinstance(found, tuple | list) else [found]
    if len(slopes) != len(shapes):
        raise ShapeError(
            f"{operator.name}: vjp() returned {len(slopes)} gradient(s) for {len(shapes)} input(s); return a tuple with"
            " one for each, None where there is none"
        )
    for i, (slope, shape) in enumerate(zip(slopes, shapes, strict=True)):
        if slope is not None and not isinstance(slope, Tensor):
            raise ShapeError(
                f"{operator.name}: vjp() returned {shown(slope)} as the gradient in input {i}; it has to be computed"
                " from dy by foveal.ops, or None where there is none"
            )
        if slope is not None and shape is not None and slope.shape != shape:
            raise ShapeError(
                f"{operator.name}: vjp() returned a gradient of shape {slope.shape} for input {i}, which has shape"
                f" {shape}"
            )
    return tuple(slopes)


def as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a method, which takes `self` first."""

    @functools.wraps(function)
    def method(self: object, *arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = list(inspect.signature(function).parameters.values())
    # NumPy's functions take inputs by position, and much by name that is no attribute of an operator.
    if any(p.kind is p.POSITIONAL_ONLY for p in given):
        given = [p.replace(kind=place) for p in given if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    parameters = [inspect.Parameter("self", place), *given]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return method
