"""Arrays as kernel bodies see them: a pointer with a shape and strides, indexed logically."""

import math

from llvmlite import ir

from foveal.errors import KernelError
from foveal.kernel.builder import I32, I64, POINTER, Kind, active, vector_type
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
        self, pointer: ir.Value, shape: tuple[int, ...], strides: tuple[int, ...], kind: Kind, streamed: bool = False
    ) -> None:
        self.pointer, self.shape, self.strides, self.kind = pointer, shape, strides, kind
        self.streamed = streamed

    @property
    def extents(self) -> tuple[Index, ...]:
        """The shape, where some of it may be known only when the kernel runs."""
        return self.shape

    def address(self, index: Index | tuple[Index, ...]) -> ir.Value:
        """A pointer to the element. KernelError if there are not as many indices as axes."""
        index = index if isinstance(index, tuple) else (index,)
        if len(index) != len(self.shape):
            raise KernelError(f"{len(index)} indices into an array of shape {self.shape}")
        b, constant_part, pointer = active().b, 0, self.pointer
        # the sum of index * stride: what is known now in `constant_part`, the rest in `offset`
        offset = None
        strides: tuple[Index, ...] = self.strides
        for i, stride in zip(index, strides, strict=True):
            if isinstance(stride, Value):
                scaled = (stride * i).ir
                offset = scaled if offset is None else b.add(offset, scaled, flags=["nsw"])
            elif isinstance(i, Value):
                constant_part += i.plus * stride
                scaled = i.base
                if stride != 1:
                    scaled = b.mul(i.base, ir.Constant(I64.ir, stride), flags=["nsw"])
                offset = scaled if offset is None else b.add(offset, scaled, flags=["nsw"])
            else:
                constant_part += int(i) * stride
        # the constant is added last: it becomes the displacement of an address whose register neighbours share
        if offset is not None:
            pointer = b.gep(pointer, [offset], inbounds=True, source_etype=self.kind.ir)
        if constant_part:
            pointer = b.gep(pointer, [ir.Constant(I64.ir, constant_part)], inbounds=True, source_etype=self.kind.ir)
        return pointer

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
        asm = ir.InlineAsm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", False)
        return Array(active().b.call(asm, [self.pointer]), self.shape, self.strides, self.kind)

    def neighbour(self, i: Index) -> Value:
        """The element `i` places after the origin in memory, whichever axes that crosses."""
        return Array(self.pointer, (1,), (1,), self.kind)[i]

    def prefetch(self, index: Index | tuple[Index, ...]) -> None:
        """Start to bring the element's cache line into the second-level cache. No element has to be there.

        Not into the first level: rows a power of two apart fall into one set of it, and would evict what is in use.
        """
        function = active().intrinsic("llvm.prefetch.p0", ir.VoidType(), [POINTER, I32.ir, I32.ir, I32.ir])
        read_only, second_level, data = (ir.Constant(I32.ir, n) for n in (0, 2, 1))
        active().b.call(function, [self.address(index), read_only, second_level, data])

    def load(self, index: Index | tuple[Index, ...], width: int) -> Value:
        """`width` neighbours in memory, from the element on; they need no alignment but an element's."""
        kind = vector_type(self.kind, width)
        return Value(active().b.load(self.address(index), typ=kind, align=4), self.kind, width)

    def store(self, index: Index | tuple[Index, ...], value: Scalar, width: int = 1) -> None:
        """Write the lanes of `value` to neighbours in memory; a number is written `width` times."""
        active().b.store(self.as_stored(value, width).ir, self.address(index), align=4)

    def store_past_cache(self, index: Index | tuple[Index, ...], value: Scalar, width: int) -> None:
        """Store `width` lanes at a multiple of `width` in a row; in a streamed array, past the cache.

        A line that is written whole then is not read from memory before, and evicts no other one.
        """
        # strides that the call gives are whole lines where an array is streamed
        strides: tuple[Index, ...] = self.strides
        whole = all(isinstance(stride, Value) or stride == 1 or stride % LINE == 0 for stride in strides)
        if not (self.streamed and whole and width in STREAMS):
            return self.store(index, value, width)
        builder = active()
        instruction = builder.b.store(self.as_stored(value, width).ir, self.address(index), align=4 * width)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([I32.ir(1)]))
        builder.streams = True

    def as_stored(self, value: Scalar, width: int) -> Value:
        """What a store writes for `value`: of a number, `width` constants of the array's kind."""
        value = read(value)
        return value if isinstance(value, Value) else constant(value, self.kind, width)

    def __getitem__(self, index: Index | tuple[Index, ...]) -> Value:
        return self.load(index, 1)

    def __setitem__(self, index: Index | tuple[Index, ...], value: Scalar) -> None:
        self.store(index, value)


def choose(condition: Scalar, a: Array, b: Array) -> Array:
    """Array a if the condition, one truth value, holds, else b; both of the same strides."""
    if not isinstance(condition, Value):
        return a if condition else b
    pointer = active().b.select(condition.ir, a.pointer, b.pointer)
    return Array(pointer, a.shape, a.strides, a.kind)


def store_lanes(y: Array, index: tuple[Index, ...], value: Scalar) -> None:
    """Store each lane at its own index along the last axis, where neighbours there are not neighbours in memory."""
    for lane in range(width_of(value)):
        y.store((*index[:-1], index[-1] + lane), extract(value, lane))
