"""The kernel language in plain Python: the same bodies on NumPy's scalars and small arrays, with index errors.

Each name of the language has a double here, and a body that runs without a builder gets the doubles: `Array` for
array.Array, `Box` for values.Var. In place of a traced Value there is NumPy's: a scalar is a NumPy scalar, a vector is
a one-dimensional array of its lanes. This is for tests and for finding faults, and slow.

To find what is wrong in a kernel:

1. `Kernel(body, specs).interpret(arrays)`, or `Program.interpret(*inputs)` for all kernels of a program, runs the body
   here. An index outside of an array raises IndexError with the index and the shape. `print` and `breakpoint()` in the
   body show values, where machine code would end the process or write over something else.
2. If the result is wrong here too, the body's arithmetic is wrong: compare it with the operator's `numpy`, which states
   the equation.
3. If it is right here and wrong natively, the fault lies in what this file does not do: threads that write to the same
   place, a second parallel loop that needs what the first has done, or what the traced half of the language emits.
   Compare one thread with two, then read the IR, which `kernel.compile.build_ir` and `DEBUG=5` show.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from foveal.kernel.target import LINE, STREAMS

# what a body computes with in plain Python: a vector of lanes, one lane, or a Python number
Plain = np.ndarray | np.generic | float
# a place along one axis
Place = int | np.integer


def operators(
    function: Callable[[Any, Any], Any],
) -> "tuple[Callable[[Box, Operand], Any], Callable[[Box, Operand], Any]]":
    """A box's methods for `box op other` and for `other op box`, where `function` is op."""

    def box_first(box: "Box", other: "Operand") -> Any:
        return function(box.v, plain(other))

    def box_second(box: "Box", other: "Operand") -> Any:
        return function(plain(other), box.v)

    return box_first, box_second


class Box:
    """A register that can be assigned: the double of values.Var. `v` is what it holds."""

    # above NumPy's own, so that `array op box` is left to the box
    __array_priority__ = 1000

    def __init__(self, initial: "Operand", width: int) -> None:
        initial = plain(initial)
        initial = np.float32(initial) if isinstance(initial, int | float) else initial
        self.v: Any = splat(initial, width)

    def get(self) -> Any:
        """The value that it holds now."""
        return self.v

    def set(self, value: "Operand") -> None:
        """Hold another value, of the same type and width: a scalar goes to each lane."""
        given, kind = plain(value), type(self.v)
        if kind is np.ndarray:
            # a body may go on and write `+=` on its own vector
            alike = type(given) is kind and given.dtype == self.v.dtype and given.shape == self.v.shape
            self.v = given.copy() if alike else np.asarray(given, self.v.dtype) * np.ones_like(self.v)
        else:
            self.v = given if type(given) is kind else kind(given)

    def __iadd__(self, value: "Operand") -> "Box":
        self.set(self.v + plain(value))
        return self

    def fma(self, a: "Operand", b: "Operand") -> None:
        """self += a * b, rounded once."""
        self.set(fma(a, b, self.v))

    def __neg__(self) -> Any:
        return -self.v

    __add__, __radd__ = operators(operator.add)
    __sub__, __rsub__ = operators(operator.sub)
    __mul__, __rmul__ = operators(operator.mul)
    __truediv__, __rtruediv__ = operators(operator.truediv)
    __floordiv__, __rfloordiv__ = operators(operator.floordiv)
    __mod__, __rmod__ = operators(operator.mod)
    __and__, __rand__ = operators(operator.and_)
    __or__, __ror__ = operators(operator.or_)
    __xor__, __rxor__ = operators(operator.xor)
    __lshift__ = operators(operator.lshift)[0]
    __rshift__ = operators(operator.rshift)[0]
    __lt__, __gt__ = operators(operator.lt)
    __le__, __ge__ = operators(operator.le)
    __eq__ = operators(operator.eq)[0]  # type: ignore[assignment]
    __ne__ = operators(operator.ne)[0]  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


# what the functions below are called on
Operand = Plain | Box


def plain(value: Operand) -> Any:
    """What a box holds; any other value as it is. Any, since NumPy computes with every mixture of these."""
    return value.v if isinstance(value, Box) else value


class Array:
    """A NumPy array indexed as kernels do: the double of array.Array.

    An index outside of the shape raises IndexError.
    """

    def __init__(
        self, data: np.ndarray, origin: tuple[int, ...] | None = None, memory: np.ndarray | None = None
    ) -> None:
        """origin: the index in `data` that this array's (0, 0, ...) stands for; memory: `flat()`, where it is known."""
        self.data, self.shape = data, data.shape
        self.strides = tuple(s // data.itemsize for s in data.strides)
        self.origin = origin or (0,) * data.ndim
        # of each axis: what `offset` needs, which is called for every element
        self.axes = tuple(zip(self.origin, self.shape, self.strides, strict=True))
        self.streamed = False
        # the language's int32 are bits without a sign
        self.kernel_dtype = np.dtype(np.uint32) if data.dtype == np.int32 else data.dtype
        self.memory = self.flat() if memory is None else memory

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape."""
        return self.shape

    def flat(self) -> np.ndarray:
        """All of the array's memory, from its first element to its last, as the kernel sees its numbers."""
        size = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) + 1
        step = (self.data.itemsize,)
        memory = np.lib.stride_tricks.as_strided(self.data, (size,), step, writeable=True)
        return memory.view(self.kernel_dtype)

    def absolute(self, index: Place | tuple[Place, ...]) -> tuple[int, ...]:
        """The index counted from the first element of `data`, which need not be inside."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.shape):
            raise IndexError(f"{len(index)} indices into an array of shape {self.shape}")
        return tuple([int(i) + o for i, o in zip(index, self.origin, strict=True)])

    def offset(self, index: Place | tuple[Place, ...], width: int) -> int:
        """The element's place in `memory`.

        IndexError if the index is outside of the shape, or if `width` lanes from it on end outside of the memory.
        """
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.axes):
            raise IndexError(f"{len(index)} indices into an array of shape {self.shape}")
        flat = 0
        for i, (o, n, s) in zip(index, self.axes):  # noqa: B905
            position = (i if type(i) is int else int(i)) + o
            if not 0 <= position < n:
                raise IndexError(f"index {self.absolute(index)} is outside of an array of shape {self.shape}")
            flat += position * s
        if flat + width > self.memory.size:
            raise IndexError(f"{width} lanes from {self.absolute(index)} end outside of an array of shape {self.shape}")
        return flat

    def at(self, *index: Place) -> "Array":
        """The same array with its origin moved to `index`."""
        return Array(self.data, self.absolute(index), self.memory)

    def permuted(self, *axes: int) -> "Array":
        """The same memory with its axes in another order."""
        return Array(self.data.transpose(axes), tuple(self.origin[a] for a in axes), self.memory)

    def row(self, *index: Place) -> "Array":
        """From the element at (*index, 0, 0, ...) on, as one flat range; the axes left out are contiguous."""
        rest = len(self.shape) - len(index)
        # an axis left out starts at its first element, wherever the origin is
        start = self.offset((*index, *[-o for o in self.origin[len(index) :]]), 1)
        size = math.prod(self.shape[len(index) :]) if rest else 1
        return Array(self.memory[start : start + size])

    def opaque(self) -> "Array":
        """The array itself: there is no optimiser here that a pointer could be hidden from."""
        return self

    def neighbour(self, i: Place) -> Any:
        """The element `i` places after the origin in memory, whichever axes that crosses."""
        flat = sum(o * s for o, s in zip(self.origin, self.strides, strict=True)) + int(i)
        if not 0 <= flat < self.memory.size:
            raise IndexError(f"{i} places after {self.origin} is outside of an array of shape {self.shape}")
        return self.memory[flat]

    def prefetch(self, index: Place | tuple[Place, ...]) -> None:
        """Do nothing: the element may even lie outside."""

    def load(self, index: Place | tuple[Place, ...], width: int) -> Any:
        """`width` neighbours in memory as a vector; one element as a scalar."""
        start = self.offset(index, width)
        loaded = self.memory[start] if width == 1 else self.memory[start : start + width].copy()
        if loaded.dtype != np.float64:
            return loaded
        with np.errstate(over="ignore"):
            return loaded.astype(np.float32)

    def store(self, index: Place | tuple[Place, ...], value: Operand, width: int = 1) -> None:
        """Write the lanes of `value` to neighbours in memory; a number is written `width` times."""
        value = plain(value)
        width = max(width, width_of(value))
        start = self.offset(index, width)
        self.memory[start : start + width] = value

    def store_past_cache(self, index: Place | tuple[Place, ...], value: Operand, width: int) -> None:
        """Store as `store` does.

        IndexError where a store past the cache would need another alignment: natively that would end the process, in
        those programs that have such an array streamed.
        """
        whole = all(s % LINE == 0 for s in self.strides if s != 1)
        if whole and width in STREAMS and self.offset(index, width) % width:
            raise IndexError(f"{width} lanes from {index} on do not begin at a multiple of {width}")
        self.store(index, value, width)

    def __getitem__(self, index: Place | tuple[Place, ...]) -> Any:
        return self.memory[self.offset(index, 1)]

    def __setitem__(self, index: Place | tuple[Place, ...], value: Operand) -> None:
        self.store(index, value)


# The functions of values.py and vector.py, where their docstrings are. They return Any: to a kernel body the result
# stands for a Value.


def parallel(ns: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All indices of a box of shape `ns`, in C order, by one thread."""
    yield from itertools.product(*map(range, ns))


def is_vector(value: Operand) -> bool:
    """True for more than one lane. Arrays of no dimension do not occur: every result of one lane is made a scalar."""
    return isinstance(value, np.ndarray)


def width_of(value: Operand) -> int:
    content = plain(value)
    return len(content) if is_vector(content) else 1


def splat(value: Operand, width: int) -> Any:
    lane = plain(value)
    lane = np.float32(lane) if isinstance(lane, float) else lane
    return lane if is_vector(lane) or width == 1 else np.full(width, lane)


def fma(a: Operand, b: Operand, c: Operand) -> Any:
    x, y, z = plain(a), plain(b), plain(c)
    # float64 holds the product of two float32 exactly
    if not isinstance(x, np.ndarray) and not isinstance(y, np.ndarray) and not isinstance(z, np.ndarray):
        return np.float32(float(x) * float(y) + float(z))
    return np.add(np.multiply(x, y, dtype=np.float64), z, dtype=np.float64).astype(np.float32)


def where(condition: Operand, a: Operand, b: Operand) -> Any:
    choice, x, y = plain(condition), plain(a), plain(b)
    if not isinstance(choice, np.ndarray) and not isinstance(x, np.ndarray) and not isinstance(y, np.ndarray):
        chosen = x if choice else y
        return np.float32(chosen) if isinstance(chosen, float) else chosen
    # NumPy would make float64 of two Python numbers
    numbers = isinstance(x, int | float) and isinstance(y, int | float)
    return np.where(choice, np.float32(x) if numbers else x, y)[()]


def maximum(a: Operand, b: Operand) -> Any:
    x, y = plain(a), plain(b)
    return where((y > x) | (y != y), y, x)


def minimum(a: Operand, b: Operand) -> Any:
    x, y = plain(a), plain(b)
    return where(y < x, y, x)


def sqrt(a: Operand) -> Any:
    return np.sqrt(plain(a))


def floor(a: Operand) -> Any:
    return np.floor(plain(a))


def cast(value: Operand, dtype: type[np.generic]) -> Any:
    lanes = np.asarray(plain(value))
    # int32 is kept as bits without a sign, and converted to float32 and back as if it had one
    if lanes.dtype == np.float32 and dtype is np.uint32:
        return lanes.astype(np.int32).view(np.uint32)[()]
    if lanes.dtype == np.uint32 and dtype is np.float32:
        return lanes.view(np.int32).astype(np.float32)[()]
    return lanes.astype(dtype)[()]


def bitcast(value: Operand, dtype: type[np.generic]) -> Any:
    return np.asarray(plain(value)).view(dtype)[()]


def iota(width: int) -> Any:
    lanes = np.arange(width, dtype=np.uint32)
    return lanes if width > 1 else lanes[0]


def extract(value: Operand, lane: int) -> Any:
    content = plain(value)
    return content[lane] if is_vector(content) else content


def pack(scalars: Sequence[Operand]) -> Any:
    return np.array([plain(s) for s in scalars], dtype=np.asarray(plain(scalars[0])).dtype)


def transpose(rows: Sequence[Operand]) -> list[Any]:
    return list(np.array([plain(row) for row in rows]).T)


def interleave(rows: Sequence[Operand]) -> list[Any]:
    return list(np.stack([plain(row) for row in rows], axis=1).reshape(len(rows), -1))


def separate(vectors: Sequence[Operand]) -> list[Any]:
    return list(np.concatenate([plain(vector) for vector in vectors]).reshape(-1, len(vectors)).T)


def part(value: Operand, start: int, width: int) -> Any:
    content = plain(value)
    if not is_vector(content):
        return content
    return content[start : start + width] if width > 1 else content[start]
