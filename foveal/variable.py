"""Named memory that programs read and update in place."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from foveal.errors import StateError
from foveal.strides import Ndarray, Shape, contiguous, filters_last

_local = threading.local()


def shapes_only() -> bool:
    """Whether variables made now get no memory."""
    return getattr(_local, "shapes_only", False)


@contextmanager
def without_memory() -> Iterator[None]:
    """Variables made inside the block have a shape and nothing else; what is assigned to them there is dropped."""
    previous, _local.shapes_only = shapes_only(), True
    try:
        yield
    finally:
        _local.shapes_only = previous


class Variable:
    """Named memory that programs read and update in place: parameters, running statistics, an optimiser's state.

    `data` is a read-only NumPy view of logical shape ([K, C, R, S] for filters) on storage in the layout kernels use;
    assigning to it copies. All are float32. `version` counts the changes: what a program has prepared from a variable,
    such
    as packed filters, holds as long as it stays.
    """

    def __init__(self, value: Any, name: str = "") -> None:
        value = np.asarray(value)
        self.name = name
        self.strides = filters_last(value.shape) if value.ndim == 4 else contiguous(value.shape)
        self.version, self.empty = 0, shapes_only()
        self._storage = np.zeros(1 if self.empty else max(value.size, 1), np.float32)
        steps = [0 if self.empty else s * self._storage.itemsize for s in self.strides]
        self._data: Ndarray = np.lib.stride_tricks.as_strided(self._storage, value.shape, steps, writeable=True)
        if not self.empty:
            self._data[...] = value
        self._view = self._data.view()
        self._view.flags.writeable = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "Variable":
        """With storage of its own, which its data are views of."""
        self.check_filled()
        made = copy.copy(self)
        Variable.__init__(made, self._data, self.name)
        return made

    @property
    def storage(self) -> Ndarray:
        self.check_filled()
        return self._storage

    @property
    def data(self) -> Ndarray:
        self.check_filled()
        return self._view

    @data.setter
    def data(self, value: Any) -> None:
        self.check_filled()
        if not self.empty:
            self._data[...] = value
        self.version += 1

    def check_filled(self) -> None:
        """Outside of `without_memory` a variable made there has nothing to give."""
        if self.empty and not shapes_only():
            raise StateError(
                f"{self!r} was built without values (nn.init.without_values), to be looked at only;"
                " build the model again outside of that block to run it"
            )

    @property
    def shape(self) -> Shape:
        return self._data.shape

    @property
    def size(self) -> int:
        return self._data.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Ndarray:
        self.check_filled()
        return np.array(self._data, dtype=dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {list(self.shape)})"
