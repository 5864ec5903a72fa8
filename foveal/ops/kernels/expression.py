"""The straight-line program of a fused group of pointwise operators, and how a kernel runs it at an index.

A kernel body calls `load` for each input, `evaluate` for the steps and `store` for the results. All intermediate values
stay in registers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foveal.kernel.lang import F32, Array, Index, Scalar, Value, cast, lanes, pack, splat, store_lanes
from foveal.ops.op import KEYED
from foveal.view import View

# One step: the operator's name, its attributes as sorted (name, value) pairs, and the slots of its operands. Slots
# number the inputs first and then the results of the steps in their order.
Step = tuple[str, tuple[tuple[str, object], ...], tuple[int, ...]]

# Lanes of a kernel that waits for memory: 32 bytes at a time pass faster than 64. Adding two arrays of 16 MB takes
# 1.1 ms with 8 lanes and 1.4 ms with 16 on one core of Zen 4.
MAX_STREAMING_LANES = 8


def load(x: Array, index: tuple[Index, ...], width: int) -> Value:
    """`width` elements of x along the last axis, from `index` on.

    Neighbours in memory are one vector load. Where the last axis has stride 0 a single scalar is returned, which
    arithmetic broadcasts; with any other stride the lanes are gathered one by one.
    """
    # of a stride that the call gives nothing is known
    step: Index = x.strides[-1] if x.strides else 0
    if width == 1 or (isinstance(step, int) and step == 1):
        return x.load(index, width)
    if isinstance(step, int) and step == 0:
        return x.load(index, 1)
    return pack([x.load((*index[:-1], index[-1] + lane), 1) for lane in range(width)])


def store(y: Array, index: tuple[Index, ...], value: Scalar, width: int, aligned: bool = True) -> None:
    """Store `width` lanes along the last axis of y, from `index` on.

    aligned: True if the last index is a multiple of `width`. Only then may a large array be written past the cache.
    """
    value = splat(value, width)
    if width == 1:
        y.store(index, value, width)
    elif y.strides[-1] != 1:
        store_lanes(y, index, value)
    elif aligned:
        y.store_past_cache(index, value, width)
    else:
        y.store(index, value, width)


def evaluate(inputs: Sequence[Scalar], steps: tuple[Step, ...], results: tuple[int, ...]) -> list[Scalar]:
    """Run the steps on the inputs' values at one index, and return the values of the slots `results`."""
    slots = list(inputs)
    for name, attributes, operands in steps:
        slots.append(KEYED[name].scalar(*(slots[i] for i in operands), **dict(attributes)))
    return [slots[i] for i in results]


def streaming_lanes() -> int:
    """Lanes of the vectors of a kernel that waits for memory; see MAX_STREAMING_LANES."""
    return min(lanes(), MAX_STREAMING_LANES)


def float_lanes(n: Index, width: int) -> Scalar:
    """An index as float32 in each of `width` lanes; a Python number if n is one."""
    return float(n) if isinstance(n, int) else splat(cast(n, F32), width)


@dataclass(frozen=True)
class Prologue:
    """How an operator's input is computed, element by element, while the operator's kernel reads it.

    The default reads one array as it is.
    """

    #: the number of arrays that are read
    array_count: int = 1
    #: what is computed from their elements at one index
    steps: tuple[Step, ...] = ()
    #: the slot of the operator's input
    result: int = 0

    def load(self, arrays: Sequence[Array], index: tuple[Index, ...], width: int) -> Scalar:
        """`width` elements of the input along the last axis; `arrays` begins with those that are read."""
        loaded = [load(x, index, width) for x in arrays[: self.array_count]]
        (value,) = evaluate(loaded, self.steps, (self.result,))
        return splat(value, width)


@dataclass(frozen=True)
class FusedInput:
    """An operator's input together with the prologue that computes it."""

    #: the arrays that the prologue reads, each of the input's logical shape
    arrays: list[View]
    #: how the input is computed from them
    prologue: Prologue = Prologue()

    def each(self, change: Callable[[View], View]) -> "FusedInput":
        """The same with `change` applied to every array."""
        return replace(self, arrays=[change(x) for x in self.arrays])

    @classmethod
    def of(cls, x: "View | FusedInput") -> "FusedInput":
        """x itself, or an array in memory as an input that is read as it is."""
        return x if isinstance(x, FusedInput) else cls([x])
