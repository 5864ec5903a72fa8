"""The kernel language in plain Python: the same bodies on NumPy scalars and small arrays, with index errors.

A vector is a one-dimensional array of its lanes; a scalar is a NumPy scalar. Used by tests and for debugging, not for
speed.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from foveal.kernel.target import LINE, STREAMS


class Box:
    """A register that can be assigned."""

    __array_priority__ = 1000

    def __init__(self, initial: Any, width: int) -> None:
        initial = plain(initial)
        initial = np.float32(initial) if isinstance(initial, int | float) else initial
        self.v: Any = splat(initial, width)

    def get(self) -> Any:
        return self.v

    def set(self, value: Any) -> None:
        value = plain(value)
        self.v = (
            np.asarray(value, self.v.dtype) * np.ones_like(self.v) if is_vector(self.v) else self.v.dtype.type(value)
        )

    def __iadd__(self, value: Any) -> "Box":
        self.set(self.v + plain(value))
        return self

    def fma(self, a: Any, b: Any) -> None:
        self.set(fma(a, b, self.v))

    def __add__(self, o: Any) -> Any:
        return self.v + plain(o)

    def __sub__(self, o: Any) -> Any:
        return self.v - plain(o)

    def __mul__(self, o: Any) -> Any:
        return self.v * plain(o)

    def __truediv__(self, o: Any) -> Any:
        return self.v / plain(o)

    def __radd__(self, o: Any) -> Any:
        return plain(o) + self.v

    def __rsub__(self, o: Any) -> Any:
        return plain(o) - self.v

    def __rmul__(self, o: Any) -> Any:
        return plain(o) * self.v

    def __neg__(self) -> Any:
        return -self.v

    def __lt__(self, o: Any) -> Any:
        return self.v < plain(o)

    def __gt__(self, o: Any) -> Any:
        return self.v > plain(o)

    def __le__(self, o: Any) -> Any:
        return self.v <= plain(o)

    def __ge__(self, o: Any) -> Any:
        return self.v >= plain(o)


def plain(value: Any) -> Any:
    return value.v if isinstance(value, Box) else value


class Array:
    """A NumPy array indexed as kernels do. An index outside of the shape raises IndexError."""

    def __init__(self, data: np.ndarray[Any, Any], origin: tuple[int, ...] | None = None, memory: Any = None) -> None:
        self.data, self.shape = data, data.shape
        self.strides = tuple(s // data.itemsize for s in data.strides)
        self.origin = origin or (0,) * data.ndim
        self.streamed = False
        self.kernel_dtype = np.dtype(np.uint32) if data.dtype == np.int32 else data.dtype
        self.memory = self.flat() if memory is None else memory

    def flat(self) -> np.ndarray[Any, Any]:
        """All of the array's memory, from its first element to its last, as the kernel sees its numbers."""
        size = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) + 1
        step = (self.data.itemsize,)
        memory = np.lib.stride_tricks.as_strided(self.data, (size,), step, writeable=True)
        return memory.view(self.kernel_dtype)

    def absolute(self, index: Any) -> tuple[int, ...]:
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.shape):
            raise IndexError(f"{len(index)} indices into an array of shape {self.shape}")
        return tuple([int(i) + o for i, o in zip(index, self.origin, strict=True)])

    def offset(self, index: Any, width: int) -> int:
        """Where the element lies in memory; it, and `width` lanes from it on, have to be inside."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != self.data.ndim:
            raise IndexError(f"{len(index)} indices into an array of shape {self.shape}")
        flat = 0
        for i, o, n, s in zip(index, self.origin, self.shape, self.strides, strict=True):
            at = int(i) + o
            if not 0 <= at < n:
                raise IndexError(f"index {self.absolute(index)} is outside of an array of shape {self.shape}")
            flat += at * s
        if flat + width > self.memory.size:
            raise IndexError(f"{width} lanes from {self.absolute(index)} end outside of an array of shape {self.shape}")
        return flat

    def at(self, *index: Any) -> "Array":
        return Array(self.data, self.absolute(index), self.memory)

    def permuted(self, *axes: int) -> "Array":
        return Array(self.data.transpose(axes), tuple(self.origin[a] for a in axes), self.memory)

    def row(self, *index: Any) -> "Array":
        rest = len(self.shape) - len(index)
        start = self.offset((*index, *[-o for o in self.origin[len(index) :]]), 1)
        size = math.prod(self.shape[len(index) :]) if rest else 1
        return Array(self.memory[start : start + size])

    def opaque(self) -> "Array":
        return self

    def neighbour(self, i: int) -> Any:
        flat = sum(o * s for o, s in zip(self.origin, self.strides, strict=True)) + i
        if not 0 <= flat < self.memory.size:
            raise IndexError(f"{i} places behind {self.origin} is outside of an array of shape {self.shape}")
        return self.memory[flat]

    def prefetch(self, index: Any) -> None:
        """Nothing: the element may even lie outside."""

    def load(self, index: Any, width: int) -> Any:
        start = self.offset(index, width)
        return self.memory[start] if width == 1 else self.memory[start : start + width].copy()

    def store(self, index: Any, value: Any, width: int = 1) -> None:
        value = plain(value)
        width = max(width, width_of(value))
        start = self.offset(index, width)
        self.memory[start : start + width] = value

    def store_past_cache(self, index: Any, value: Any, width: int) -> None:
        """Checks what stores past the cache rely on, wherever an array of these strides could have them."""
        whole = all(s % LINE == 0 for s in self.strides if s != 1)
        if whole and width in STREAMS and self.offset(index, width) % width:
            raise IndexError(f"{width} lanes from {index} on do not begin at a multiple of {width}")
        self.store(index, value, width)

    def __getitem__(self, index: Any) -> Any:
        return self.load(index, 1)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.store(index, value)


def parallel(ns: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield from itertools.product(*map(range, ns))


def is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def width_of(value: Any) -> int:
    value = plain(value)
    return value.shape[0] if is_vector(value) else 1


def splat(value: Any, width: int) -> Any:
    value = plain(value)
    value = np.float32(value) if isinstance(value, float) else value
    return value if is_vector(value) or width == 1 else np.full(width, value)


def fma(a: Any, b: Any, c: Any) -> Any:
    a, b, c = plain(a), plain(b), plain(c)
    if not is_vector(a) and not is_vector(b) and not is_vector(c):
        return np.float32(float(a) * float(b) + float(c))
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)
    return exact.astype(np.float32)[()]


def where(condition: Any, a: Any, b: Any) -> Any:
    a, b = plain(a), plain(b)
    if not is_vector(condition) and not is_vector(a) and not is_vector(b):
        chosen = a if condition else b
        return np.float32(chosen) if isinstance(chosen, float) else chosen
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return np.where(condition, np.float32(a) if numbers else a, b)[()]


def maximum(a: Any, b: Any) -> Any:
    a, b = plain(a), plain(b)
    return where((b > a) | (b != b), b, a)


def minimum(a: Any, b: Any) -> Any:
    a, b = plain(a), plain(b)
    return where(b < a, b, a)


def sqrt(a: Any) -> Any:
    return np.sqrt(plain(a))


def floor(a: Any) -> Any:
    return np.floor(plain(a))


def cast(value: Any, dtype: Any) -> Any:
    value = np.asarray(plain(value))
    if value.dtype == np.float32 and dtype is np.uint32:
        return value.astype(np.int32).view(np.uint32)[()]
    if value.dtype == np.uint32 and dtype is np.float32:
        return value.view(np.int32).astype(np.float32)[()]
    return value.astype(dtype)[()]


def bitcast(value: Any, dtype: Any) -> Any:
    return np.asarray(plain(value)).view(dtype)[()]


def iota(width: int) -> Any:
    lanes = np.arange(width, dtype=np.uint32)
    return lanes if width > 1 else lanes[0]


def extract(value: Any, lane: int) -> Any:
    value = plain(value)
    return value[lane] if is_vector(value) else value


def pack(scalars: Sequence[Any]) -> Any:
    return np.array([plain(s) for s in scalars], dtype=np.asarray(plain(scalars[0])).dtype)


def transpose(rows: Sequence[Any]) -> list[Any]:
    return list(np.array([plain(row) for row in rows]).T)


def part(value: Any, start: int, width: int) -> Any:
    value = plain(value)
    if not is_vector(value):
        return value
    return value[start : start + width] if width > 1 else value[start]
