"""The operator contract and its registry.

One class holds everything about an operator. Its instance is called on arrays, which computes with NumPy at once, or on
traced symbols, which records a node.

    shape(...)   the output shape, or a ShapeError that names the operator, the shapes and the way out
    numpy(...)   the equation in NumPy: the textbook and the oracle
    vjp(...)     the gradient, written with operators: (dy, y, *inputs) -> one gradient per input, None where there is
    none.
                 A composite may leave it out: then what it expands to is differentiated
    kernel(...)  the plain loop nest in the kernel language; `lower` may choose tuned ones instead, and `lower_results`
                 tuned ones that end with what follows pointwise
    expand(...)  for a composite, in place of a kernel: the same result from other operators
    cases        inputs with a safe domain; every generic test and benchmark is derived from them

The alphabet, everywhere: N batch, C input channels, H W input rows and columns, K output channels (filters), R S kernel
rows and columns, P Q output rows and columns, u stride, d dilation, G groups.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from foveal.errors import ShapeError
from foveal.ops.window import Window
from foveal.strides import Ndarray, Shape, channels_last, contiguous


@dataclass(frozen=True)
class Type:
    """Shape and dtype of a value."""

    shape: Shape
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        short = {"float32": "f32", "int32": "i32"}[self.dtype]
        return f"{short}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Case:
    """Sample inputs for the generic tests: their shapes, the attributes, and how each input is drawn.

    draw: per input a function (generator, shape) -> array; standard normal numbers where it is not given.
    smooth: whether finite differences are meaningful there.
    """

    shapes: tuple[Shape, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    draw: dict[int, Callable[[np.random.Generator, Shape], Ndarray]] = field(default_factory=dict)
    smooth: bool = True

    def arrays(self, seed: int) -> list[Ndarray]:
        """Fresh random inputs, float32 or integer."""
        rng = np.random.default_rng(seed)
        arrays = []
        for position, shape in enumerate(self.shapes):
            made = self.draw[position](rng, shape) if position in self.draw else rng.standard_normal(shape)
            arrays.append(made.astype(np.float32) if made.dtype.kind == "f" else made.astype(np.int32))
        return arrays


class HasShape(Protocol):
    """Anything with a shape: a Tensor, a Variable, a NumPy array."""

    @property
    def shape(self) -> Shape: ...


# What an operator is called on: traced values and variables while a function is traced, else NumPy arrays; or numbers.
Operand = HasShape | float


class Tensor:
    """An array in a function that is being traced: it has a shape and arithmetic, but no numbers yet.

    Gradients, composites, layers and updates of optimisers are written with Tensors. Each arithmetic operator records
    the operator of the same meaning.
    """

    __array_priority__ = 1000  # NumPy arrays leave `array + tensor` to __radd__

    @property
    def shape(self) -> Shape:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __bool__(self) -> bool:
        raise ShapeError("the truth of a traced value is not known; use where(condition, a, b)")

    def __add__(self, o: Operand) -> "Tensor":
        return OPS["add"](self, o)

    def __sub__(self, o: Operand) -> "Tensor":
        return OPS["subtract"](self, o)

    def __rsub__(self, o: Operand) -> "Tensor":
        return OPS["subtract"](o, self)

    def __mul__(self, o: Operand) -> "Tensor":
        return OPS["multiply"](self, o)

    def __truediv__(self, o: Operand) -> "Tensor":
        return OPS["divide"](self, o)

    def __rtruediv__(self, o: Operand) -> "Tensor":
        return OPS["divide"](o, self)

    def __neg__(self) -> "Tensor":
        return OPS["multiply"](self, -1.0)

    def __gt__(self, o: Operand) -> "Tensor":
        return OPS["greater"](self, o)

    def __getitem__(self, i: int) -> "Tensor":
        return OPS["index"](self, i=i)

    __radd__, __rmul__ = __add__, __mul__

    def reshape(self, *dims: int) -> "Tensor":
        return OPS["reshape"](self, shape=dims)

    def sum(self, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> "Tensor":
        return OPS["sum"](self, axes=axes, keepdims=keepdims)

    def mean(self, axes: int | Sequence[int] | None = None, keepdims: bool = False) -> "Tensor":
        return OPS["mean"](self, axes=axes, keepdims=keepdims)


class Lowering(Protocol):
    """What an operator may ask for while it is turned into kernel calls (lower.py implements it)."""

    def scratch(self, shape: Shape, *, per_thread: bool = False) -> Any: ...

    def call(
        self,
        body: Callable[..., None],
        outputs: Sequence[Any],
        inputs: Sequence[Any],
        /,
        plain: bool = False,
        **static: Any,
    ) -> None: ...


class Operator:
    """Base of all operators."""

    name: ClassVar[str]
    integers: ClassVar[tuple[int, ...]] = ()  # positions of int32 inputs
    dtype: ClassVar[str] = "float32"  # of the output
    arity: ClassVar[int | None] = None  # number of inputs, where it is fixed
    cases: ClassVar[Sequence[Case]] = ()
    composite: ClassVar[bool] = False
    view: ClassVar[bool] = False  # the output is the input's memory seen differently
    differentiable: ClassVar[bool] = True
    epilogues: ClassVar[bool] = False  # its kernel can end with pointwise steps (epilogue.py)

    def __init__(self) -> None:
        if self.name in OPS:
            raise ValueError(f"two operators are called {self.name}")
        OPS[self.name] = self

    def __call__(self, *inputs: Any, **attributes: Any) -> Any:
        attributes = self.normalise(*inputs, **attributes)
        if (record := getattr(_recorder, "record", None)) is not None:
            return record(self, inputs, attributes)
        arrays = [np.asarray(x) for x in inputs]
        self.shape(*(a.shape for a in arrays), **attributes)
        return self.numpy(*arrays, **attributes)

    def __repr__(self) -> str:
        return self.name

    def normalise(self, *inputs: Any, **attributes: Any) -> dict[str, Any]:
        """Attributes in their full form (hashable); an error for those that can mean nothing."""
        return attributes

    def arguments(self, *_: Any, **attributes: Any) -> dict[str, Any]:
        """The keyword arguments of a call with these attributes, as graphs print them: the inverse of normalise."""
        return attributes

    def window(self, *_: Any, **attributes: Any) -> Window | None:
        """The window through which each pixel of the output reads an image, the first input; None without one.

        Gradients have none: they read an output of such windows.
        """
        return None

    def type(self, *inputs: Type, **attributes: Any) -> Type:
        """The output's type, after checking number and dtypes of the inputs."""
        if self.arity is not None and len(inputs) != self.arity:
            raise ShapeError(f"{self.name}: takes {self.arity} inputs, got {len(inputs)}")
        for position, t in enumerate(inputs):
            wanted = "int32" if position in self.integers else "float32"
            if t.dtype != wanted:
                raise ShapeError(
                    f"{self.name}: input {position} is {t.dtype}, it has to be {wanted}; convert it with astype"
                )
        return Type(tuple(self.shape(*(t.shape for t in inputs), **attributes)), self.dtype)

    def shape(self, *shapes: Any, **attributes: Any) -> Shape:
        raise NotImplementedError

    def numpy(self, *inputs: Any, **attributes: Any) -> Ndarray:
        raise NotImplementedError

    def vjp(self, *arguments: Any, **attributes: Any) -> tuple[Any, ...]:
        raise NotImplementedError(f"{self.name} has no gradient")

    def kernel(self, *arrays: Any, **attributes: Any) -> None:
        raise NotImplementedError(f"{self.name} has no kernel")

    def expand(self, *inputs: Any, **attributes: Any) -> Any:
        raise NotImplementedError(f"{self.name} is no composite")

    def strides(self, shape: Shape, *inputs: Any) -> Shape:
        """How the output lies in memory: channels last for images, C order for all else."""
        return channels_last(shape) if len(shape) == 4 else contiguous(shape)

    def flops(self, y: Type, *inputs: Type, **attributes: Any) -> int:
        """Multiplications and additions of the equation, counted for operators whose time they decide; else 0."""
        return 0

    def problem(self, *shapes: Shape, **attributes: Any) -> Any:
        """What ops.choice decides about for inputs of these shapes; None where there is one way to compute."""
        return None

    def lower(self, to: Lowering, y: Any, /, *inputs: Any, **attributes: Any) -> None:
        """Choose kernels; unless overridden the plain one."""
        to.call(self.kernel, [y], inputs, plain=True, **attributes)

    def prologue(self, *_: Any, **attributes: Any) -> int | None:
        """The position of an input that lower_results takes as an expression.FusedInput as well."""
        return None

    def lower_results(self, to: Lowering, y: Any, /, *inputs: Any, **attributes: Any) -> None:
        """For an operator with `epilogues`: kernels that store `y`, an EpilogueOutputs, instead of the plain output."""
        raise NotImplementedError(f"{self.name} takes no epilogue")


OPS: dict[str, Operator] = {}


_recorder = threading.local()


@contextmanager
def recording_with(record: Callable[[Operator, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
    """Operators called inside the block, by this thread, are given to `record` instead of being computed."""
    previous = getattr(_recorder, "record", None)
    _recorder.record = record
    try:
        yield
    finally:
        _recorder.record = previous
