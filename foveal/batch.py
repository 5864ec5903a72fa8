"""What a training step is given: the arrays of a batch, nested, as they are and while a step is traced."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from foveal.api import as_argument
from foveal.errors import DataError, ShapeError
from foveal.ops.op import Type
from foveal.strides import Ndarray
from foveal.structure import PLACE, Form, is_nested, take_apart
from foveal.trace import Symbol, Trace


class Given(NamedTuple):
    """The inputs or the targets of a batch: arrays with their names, and how they are nested; None for one array."""

    arrays: list[Ndarray]
    names: list[str]
    form: Form | None

    @classmethod
    def of(cls, value: Any, what: str, labels: bool = False, wide: bool = False) -> "Given":
        """Take inputs or targets apart. labels and wide: as of as_argument, which says what is raised."""
        if not is_nested(value):
            return cls([as_argument(value, what, labels, wide)], [what], None)
        found, form = take_apart(value, what)
        return cls([as_argument(x, name, labels, wide) for name, x in found], [name for name, _ in found], form)

    def types(self) -> tuple[Type, ...]:
        """Return shapes and dtypes."""
        return tuple([Type.of(array) for array in self.arrays])

    def nested(self, values: Iterable[Any]) -> Any:
        """Return values nested as the arrays are."""
        return (self.form or PLACE).build(iter(values))

    def rows(self, rows: slice) -> Any:
        """Return these rows of all arrays, nested as they are."""
        return self.nested(array[rows] for array in self.arrays)


def rows_of(given: Given, targets: Given) -> int:
    """Return the number of rows of a batch. Raises ShapeError unless all arrays have as many: none is cut off."""
    names, arrays = [*given.names, *targets.names], [*given.arrays, *targets.arrays]
    for name, array in zip(names, arrays, strict=True):
        if array.shape[:1] != arrays[0].shape[:1] or array.ndim == 0:
            raise ShapeError(
                f"{name} has shape {array.shape} and {names[0]} {arrays[0].shape}: a batch that is taken in shards has"
                " a row of each array for each image"
            )
    return len(arrays[0])


def placeholders(recording: Trace, kinds: Any, name: str) -> tuple[Any, list[Symbol]]:
    """Return arguments of these types, nested as the types are, and in order."""
    found, form = take_apart(kinds, name)
    symbols = [recording.argument(kind, place) for place, kind in found]
    return form.build(iter(symbols)), symbols


def check_labels(labels: Ndarray, classes: int, ignored: int | None = None) -> None:
    """Raise DataError if a label is not one of 0 .. classes - 1, nor the one that is ignored."""
    # without a sign, negative labels are large ones
    wrong = labels.view(np.uint32) >= classes
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        position = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"label {int(labels.flat[position])} at position {position} is not one of the model's {classes} classes (0"
            f" to {classes - 1}); correct the labels, or build the model with more classes"
        )
