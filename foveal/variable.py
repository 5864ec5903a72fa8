"""Named memory that programs read and update in place."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from foveal.arguments import checked
from foveal.errors import ArgumentError, StateError
from foveal.kinds import as_float32, shown
from foveal.strides import Ndarray, Shape, contiguous, filters_last

# the attributes of a Variable that describe its memory, and not what it holds
MEMORY_ATTRIBUTES = ("strides", "version", "empty", "_storage", "_data", "_view")
ATTRIBUTES = frozenset(("name", *MEMORY_ATTRIBUTES))

# shapes_only: see without_memory. Per thread, so that a model can be inspected while another thread trains.
_local = threading.local()


def shapes_only() -> bool:
    """True if variables that are made now get no memory."""
    return getattr(_local, "shapes_only", False)


@contextmanager
def without_memory() -> Iterator[None]:
    """Variables made inside the block have a shape and no memory. What is assigned to them there is dropped."""
    previous, _local.shapes_only = shapes_only(), True
    try:
        yield
    finally:
        _local.shapes_only = previous


class Variable:
    """Named memory that programs read and update in place: parameters, running statistics, an optimiser's state.

    All are float32. `data` is a read-only NumPy view of logical shape ([K, C, R, S] for filters) on `storage`, which
    lies as kernels use it; assigning to `data` copies. `version` counts the changes: what a program has prepared from a
    variable, such as packed filters, is valid as long as the version stays the same.
    """

    @checked
    def __init__(self, value: ArrayLike, name: str = "") -> None:
        value = as_float32(np.asarray(value), f"the value of {name or 'a variable'}")
        self.name = name
        self.strides = filters_last(value.shape) if value.ndim == 4 else contiguous(value.shape)
        self.version, self.empty = 0, shapes_only()
        self._storage = np.zeros(1 if self.empty else max(value.size, 1), np.float32)
        steps = [0 if self.empty else s * self._storage.itemsize for s in self.strides]
        self._data: Ndarray = np.ndarray(value.shape, np.float32, self._storage, 0, steps)
        if not self.empty:
            self._data[...] = value
        self._view = self._data.view()
        self._view.flags.writeable = False

    def __setattr__(self, name: str, value: object) -> None:
        # A class of the user's own may have more attributes than those here.
        if name not in ATTRIBUTES and not hasattr(type(self), name) and type(self).__module__.startswith("foveal."):
            known = [n for n, held in vars(type(self)).items() if isinstance(held, property)]
            raise ArgumentError(
                f"{type(self).__name__} has no attribute {name!r} that could be set; it has"
                f" {', '.join(dict.fromkeys(('data', 'name', *known)))}. Notes of your own go into a dictionary by"
                f" variable, notes[p] = ..., or into a class of your own, class Noted(nn.{type(self).__name__})"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, object]:
        """What copies and pickles take over: the values, the name, and what a subclass adds; memory is made anew."""
        self.check_filled()
        kept = {name: value for name, value in self.__dict__.items() if name not in MEMORY_ATTRIBUTES}
        return kept | {"value": np.array(self._data, order="C")}

    def __setstate__(self, state: dict[str, object]) -> None:
        kept = dict(state)
        Variable.__init__(self, np.asarray(kept.pop("value")), str(kept.pop("name")))
        self.__dict__.update(kept)

    @property
    def storage(self) -> Ndarray:
        self.check_filled()
        return self._storage

    @property
    def data(self) -> Ndarray:
        self.check_filled()
        return self._view

    @data.setter
    def data(self, value: ArrayLike) -> None:
        self.assign(value)

    def assign(self, value: ArrayLike) -> None:
        """Copy `value` into the memory; the same as setting `data`."""
        self.check_filled()
        if not self.empty:
            try:
                self._data[...] = value
            except (TypeError, ValueError):
                raise StateError(
                    f"{self!r} cannot hold {shown(value)}; give numbers of shape {list(self.shape)}"
                ) from None
        self.touch()

    def touch(self) -> None:
        """Count a change of the values in memory."""
        # Programs do this for everything that they update, in each run, so it goes by the shortest way.
        self.__dict__["version"] += 1

    def check_filled(self) -> None:
        """Raise StateError if the variable was made without memory and is used outside of `without_memory`."""
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

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Ndarray:
        self.check_filled()
        return np.array(self._data, dtype=dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {list(self.shape)})"
