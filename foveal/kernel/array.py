"""Arrays as kernel bodies see them: a pointer with a shape and strides, indexed logically."""

import math

from foveal.errors import KernelError
from foveal.kernel.builder import BOOL, F32, F64, I32, I64, POINTER, Kind, active, vector_type
from foveal.kernel.ir import Operand
from foveal.kernel.target import LINE, STREAMS
from foveal.kernel.values import Index, Scalar, Value, constant, read
from foveal.kernel.vector import extract, width_of


class Array:
    """A buffer of static shape, seen through logical indices: x[n, c, h, w] is the same element in every layout.

    In a kernel that is built for sizes which the call gives (compile.Size) some of `extents`, which are then the shape,
    and of the strides are values. Strides are in elements. `x.load(index, width)` reads `width` neighbours in memory;
    `x.at(*index)` is the same array with its origin moved there, for tight loops over a few constant offsets. Natively
    no index is checked: an array's double in plain Python, interpret.Array, does that.

    streamed: the array begins on a cache line, and what is stored to it is not needed in the cache soon.
    """

    __slots__ = ("kind", "pointer", "shape", "streamed", "strides")

    def __init__(
        self, pointer: str, shape: tuple[int, ...], strides: tuple[int, ...], kind: Kind, streamed: bool = False
    ) -> None:
        self.pointer, self.shape, self.strides, self.kind = pointer, shape, strides, kind
        self.streamed = streamed

    @property
    def extents(self) -> tuple[Index, ...]:
        """The shape, where some of it may be known only when the kernel runs."""
        return self.shape

    def address(self, index: Index | tuple[Index, ...]) -> str:
        """A pointer to the element. KernelError if there are not as many indices as axes."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.shape):
            raise KernelError(f"{len(index)} indices into an array of shape {self.shape}")
        b, displacement = active().b, 0
        # the sum of index * stride: what is known now in `displacement`, the rest in `terms`
        terms: list[tuple[Operand, int]] = []
        strides: tuple[Index, ...] = self.strides
        for i, stride in zip(index, strides, strict=True):
            if isinstance(stride, Value):
                # what is added to an index is multiplied apart, so that neighbours share the other product
                parts = (Value(i.base, I64), i.plus) if isinstance(i, Value) else (i,)
                terms += [((stride * part).ir, 1) for part in parts if not isinstance(part, int) or part]
            elif isinstance(i, Value):
                displacement += i.plus * stride
                if isinstance(i.base, int):
                    displacement += i.base * stride
                elif stride:
                    terms.append((i.base, stride))
            else:
                displacement += int(i) * stride
        pointer = b.sum_of_products(self.kind.ir, self.pointer, terms) if terms else self.pointer
        # the constant is added last: it becomes the displacement of an address whose register neighbours share
        return b.element(self.kind.ir, pointer, displacement)

    def at(self, *index: Index) -> "Array":
        """The same array with its origin moved to `index`."""
        return Array(self.address(index), self.shape, self.strides, self.kind)

    def permuted(self, *axes: int) -> "Array":
        """The same memory with its axes in another order."""
        shape, strides = (tuple(values[a] for a in axes) for values in (self.shape, self.strides))
        return Array(self.pointer, shape, strides, self.kind, self.streamed)

    def row(self, *index: Index) -> "Array":
        """From the element at (*index, 0, 0, ...) on, as one flat range; the axes left out are contiguous."""
        rest = len(self.shape) - len(index)
        size = math.prod(self.shape[len(index) :])
        return Array(self.address((*index, *[0] * rest)), (size,), (1,), self.kind)

    def opaque(self) -> "Array":
        """The same array through a pointer that LLVM cannot see through.

        Loads of neighbouring pixels are then not merged across filter columns: merging keeps them alive in registers
        until the accumulators spill. For other architectures than this machine's it is the same pointer, since inline
        assembly for another architecture ends the process.
        """
        if not active().target.native:
            return self
        pointer = active().b.compute(f'call ptr asm "", "=r,0"(ptr {self.pointer})')
        return Array(pointer, self.shape, self.strides, self.kind)

    def neighbour(self, i: Index) -> Value:
        """The element `i` places after the origin in memory, whichever axes that crosses."""
        return Array(self.pointer, (1,), (1,), self.kind)[i]

    def prefetch(self, index: Index | tuple[Index, ...]) -> None:
        """Start to bring the element's cache line into the second-level cache. No element has to be there.

        Not into the first level: rows a power of two apart fall into one set of it, and would evict what is in use.
        """
        read_only, second_level, data = 0, 2, 1
        kinds = (POINTER, I32.ir, I32.ir, I32.ir)
        active().b.perform("llvm.prefetch.p0", kinds, self.address(index), read_only, second_level, data)

    def load(self, index: Index | tuple[Index, ...], width: int) -> Value:
        """`width` neighbours in memory, from the element on; they need no alignment but an element's."""
        kind, b = vector_type(self.kind, width), active().b
        loaded = b.load(kind, self.address(index), 4)
        if self.kind is F64:
            # rounded to the nearest float32, infinity if that is too large
            return Value(b.compute(f"fptrunc {kind} {loaded} to {vector_type(F32, width)}"), F32, width)
        return Value(loaded, self.kind, width)

    def store(self, index: Index | tuple[Index, ...], value: Scalar, width: int = 1) -> None:
        """Write the lanes of `value` to neighbours in memory; a number is written `width` times."""
        write(self.as_stored(value, width), self.address(index), 4)

    def store_past_cache(self, index: Index | tuple[Index, ...], value: Scalar, width: int) -> None:
        """Store `width` lanes at a multiple of `width` in a row; in a streamed array, past the cache.

        A line that is written whole then is not read from memory before, and evicts no other one.
        """
        # strides that the call gives are whole lines where an array is streamed
        strides: tuple[Index, ...] = self.strides
        whole = all(isinstance(stride, Value) or stride == 1 or stride % LINE == 0 for stride in strides)
        if not (self.streamed and whole and width in STREAMS):
            return self.store(index, value, width)
        write(self.as_stored(value, width), self.address(index), 4 * width, ", !nontemporal !0")
        active().streams = True

    def as_stored(self, value: Scalar, width: int) -> Value:
        """What a store writes for `value`: of a number, `width` constants of the array's kind."""
        value = read(value)
        return value if isinstance(value, Value) else constant(value, self.kind, width)

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Value:
        return self.load(index, 1)

    def __setitem__(self, index: Index | tuple[Index, ...], value: Scalar) -> None:
        self.store(index, value)


def write(value: Value, pointer: str, align: int, note: str = "") -> None:
    """Write the lanes of a value to memory; `align`: of the address, in bytes. note: LLVM's metadata."""
    active().b.store(vector_type(value.kind, value.width), value.ir, pointer, align, note)


def choose(condition: Scalar, a: Array, b: Array) -> Array:
    """Array a if the condition, one truth value, holds, else b; both of the same strides."""
    if not isinstance(condition, Value):
        return a if condition else b
    pointer = active().b.select(BOOL.ir, POINTER, condition.ir, a.pointer, b.pointer)
    return Array(str(pointer), a.shape, a.strides, a.kind)


def store_lanes(y: Array, index: tuple[Index, ...], value: Scalar) -> None:
    """Store each lane at its own index along the last axis, where neighbours there are not neighbours in memory."""
    for lane in range(width_of(value)):
        y.store((*index[:-1], index[-1] + lane), extract(value, lane))
