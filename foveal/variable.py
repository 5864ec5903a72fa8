"""Named memory that programs read and update in place."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from foveal.arguments import checked
from foveal.arrays.calls import is_recording
from foveal.arrays.tensor import ArrayMethods, Tensor
from foveal.errors import ArgumentError, ShapeError, StateError
from foveal.kinds import Around, as_float32, inside_of, no_array, shown
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


# Where NumPy's function is called otherwise than the operator.
IN_NUMPY: dict[str, Callable[..., Any]] = {
    "array_matmul": np.matmul,
    "stop_gradient": np.array,
    "permute": lambda x, order: np.transpose(x, order),
    "reshape": lambda x, shape: x.reshape(shape),
    "clip": lambda x, low, high: np.clip(x, low, high),
}


class Variable(ArrayMethods):
    """Named memory that programs read and update in place: parameters, running statistics, an optimiser's state.

    All are float32. `data` is a read-only NumPy view of logical shape ([K, C, R, S] for filters) on `storage`, which
    lies as kernels use it; assigning to `data` copies. `version` counts the changes: what a program has prepared from a
    variable, such as packed filters, is valid as long as the version stays the same.

    It has the operators and methods of arrays. While a function is traced they give Tensors, so that a loss may hold
    `(p ** 2).sum()`; elsewhere they are NumPy's and give NumPy arrays of the present values: `0.5 * p`,
    `p.mean(axis=0)`, `p[0]`, `np.abs(p)`. Parts and other shapes are copies, and read-only, as writing to them would
    change nothing. In place, `p += 1`, `p -= lr * g` and `p[...] = 0` change the values; while a function is traced
    they raise ShapeError. `==` compares elements; to look for a variable in a list, compare with `is`.
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
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return self._data.dtype

    def operate(self, name: str, *operands: Any, **attributes: Any) -> Tensor:
        if is_recording():
            return Tensor.operate(cast("Tensor", self), name, *operands, **attributes)
        values = in_numpy(operands)
        try:
            result = IN_NUMPY.get(name, getattr(np, name, None))(*values, **attributes)  # type: ignore[misc]
        except (TypeError, ValueError, IndexError) as error:
            asked = "; `is` asks for the same variable" if name in ("equal", "not_equal") else ""
            raise ShapeError(f"{name} of {self!r}: {error}{asked}") from None
        return cast("Tensor", apart(result, self._storage))

    def __array_function__(self, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if is_recording():
            return super().__array_function__(function, types, args, named)
        return apart(function(*in_numpy(args), **{name: in_numpy(x) for name, x in named.items()}), self._storage)

    def __pos__(self) -> Tensor:
        return self.operate("multiply", self, 1.0)

    def __getitem__(self, key: object) -> Tensor:
        """Part of the values, as NumPy takes it: a read-only copy. While a function is traced, see Tensor."""
        if is_recording():
            return super().__getitem__(key)
        try:
            part = self.data[key]  # type: ignore[call-overload]
        except IndexError as error:
            raise ShapeError(f"{self!r} has no part {shown(key)}: {error}") from None
        except ValueError:
            raise ShapeError(f"{self!r} has no part {shown(key)}, {no_array(key)}") from None
        return cast("Tensor", apart(part, self._storage))

    def __contains__(self, value: object) -> bool:
        if is_recording():
            return Tensor.__contains__(cast("Tensor", self), value)
        return value in self.data

    def __setitem__(self, key: object, value: ArrayLike) -> None:
        """Change part of the values."""
        self.check_writable()
        if not self.empty:
            try:
                self._data[key] = value  # type: ignore[call-overload]
            except (TypeError, ValueError, IndexError) as error:
                raise ShapeError(
                    f"{self!r}: {shown(value)} cannot be written to its part {shown(key)}: {error}"
                ) from None
        self.touch()

    def check_writable(self) -> None:
        """Raise ShapeError while a function is traced, in which nothing has a value that could be changed."""
        if is_recording():
            raise ShapeError(
                f"{self!r} is changed in place in a function that is traced; compute a new value from it, and assign"
                " it after the call, or let an optimiser do so in a training step"
            )
        self.check_filled()

    def changed(self, name: str, value: object) -> Self:
        """The variable after an operator in place: its values are the operator's result."""
        self.check_writable()
        self.assign(np.asarray(self.operate(name, self, value)))
        return self

    def __iadd__(self, value: object) -> Self:  # type: ignore[override]
        return self.changed("add", value)

    def __isub__(self, value: object) -> Self:  # type: ignore[override]
        return self.changed("subtract", value)

    def __imul__(self, value: object) -> Self:  # type: ignore[override]
        return self.changed("multiply", value)

    def __itruediv__(self, value: object) -> Self:  # type: ignore[override]
        return self.changed("divide", value)

    def __ipow__(self, value: object) -> Self:  # type: ignore[override]
        return self.changed("power", value)

    def __bool__(self) -> bool:
        """The truth of a single number. Raises ShapeError for more: `is not None` asks whether there is a variable."""
        return bool(self.item())

    def item(self) -> float:
        """The value of a variable of one element, as a number. Raises ShapeError for more, or while tracing."""
        if is_recording():
            raise ShapeError(f"{self!r} has no number while a function is traced; use ops.where for conditions")
        if self.size != 1:
            raise ShapeError(
                f"{self!r} has {self.size} elements, so it is not one number; to ask whether it is there, or whether it"
                " is another variable, use `is`"
            )
        return float(self.data.item())

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        return int(self.item())

    def tolist(self) -> list[Any]:
        """The values in nested lists."""
        values: list[Any] = self.data.tolist()
        return values

    def numpy(self) -> Ndarray:
        """A copy of the values."""
        return np.array(self.data)

    def astype(self, dtype: DTypeLike) -> Ndarray:
        """A copy of the values in another type."""
        return np.array(self.data, dtype)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Ndarray:
        self.check_filled()
        return np.array(self._data, dtype=dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {list(self.shape)})"


def in_numpy(value: Any, around: Around = ()) -> Any:
    """The value with arrays in place of variables, also inside of lists and tuples. around: what it lies in."""
    if isinstance(value, list | tuple):
        around = inside_of(value, around)
        return type(value)([in_numpy(x, around) for x in value])
    return value.data if isinstance(value, Variable) else value


def apart(result: Any, memory: Ndarray) -> Any:
    """A NumPy result; a read-only copy of it where it lies in the memory of a variable, which programs change."""
    if not isinstance(result, np.ndarray) or not np.may_share_memory(result, memory):
        return result
    copy = result.copy().view(Part)
    copy.flags.writeable = False
    return copy


class Part(np.ndarray[Any, Any]):
    """A read-only copy of part of a variable. `p[0] *= 2` makes a new array of it, which Python assigns to p[0]."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: Any, *inputs: Any, **options: Any) -> Any:
        # What is computed from it is an ordinary array; in place, NumPy names the part itself as `out`.
        if any(isinstance(x, Part) for x in options.get("out", ())):
            del options["out"]
        values = [np.asarray(x) if isinstance(x, Part) else x for x in inputs]
        return getattr(ufunc, method)(*values, **options)
