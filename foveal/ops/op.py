"""The operator contract and its registry.

One class holds everything about an operator. Its instance is called on arrays, and computes with NumPy at once, or on
tensors of a function that is being traced, and records a node.

    normalise    the signature: what a call takes, by name and with defaults, brought into its full form
    shape        the output shape, or a ShapeError that names the operator, the shapes and the way out
    numpy        the equation in NumPy: the textbook and the oracle
    vjp          the gradient, written with operators: (dy, y, *inputs) -> one gradient per input, None where there is
                 none. A composite may leave it out: then what it expands to is differentiated. A pointwise operator's
                 gradients have the shape of y; autodiff.py sums them over the axes along which an input was repeated
    kernel       the plain loop nest in the kernel language; `lower` may choose tuned kernels instead, and
                 `lower_results` tuned kernels that end with the pointwise steps that follow
    scalar       for a pointwise operator, in place of a kernel: one element in the kernel language
    expand       for a composite, in place of a kernel: the same result from other operators
    cases        sample inputs with a safe domain; every generic test and benchmark is derived from them

The alphabet, everywhere: N images of a batch, C input channels, H W rows and columns of the input, K output channels
(filters), R S rows and columns of the window, P Q rows and columns of the output, u stride, d dilation, G groups. Small
letters are indices: n, c, k, (r, s) of a tap, (p, q) of an output, and (h, v) for the row and column of an input pixel
(v, since w are weights). C and K count all channels and filters; a group has C/G (`c_group`) and K/G (`k_group`).
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal, ParamSpec, Protocol, cast

import numpy as np

from foveal.arguments import checked, wrong_call
from foveal.arrays.calls import CALLS, RECORDED
from foveal.arrays.calls import HasShape as HasShape
from foveal.arrays.calls import Operand as Operand
from foveal.arrays.tensor import Tensor as Tensor
from foveal.errors import ArgumentError, ShapeError
from foveal.kernel.compile import ArraySpec, Kernel
from foveal.kernel.lang import Scalar
from foveal.kernel.sources import is_outside, module_digest
from foveal.kinds import Refused, kinds_of, numbers_array, refusal, shown
from foveal.ops.own import as_method, as_shape, checked_result, derived_shape
from foveal.ops.values import Case as Case
from foveal.ops.values import Type as Type
from foveal.ops.window import Window
from foveal.strides import Ndarray, Shape, usual
from foveal.view import View

# The elements of an array of 4 TiB: a larger one comes from a number that was not meant.
MOST_ELEMENTS = 1 << 40

# Output types that are remembered: those of some of the largest networks.
MOST_TYPES = 1 << 14


class Lowering(Protocol):
    """What an operator may ask for while it is lowered to kernel calls (lower.py implements it)."""

    def scratch(self, shape: Shape, *, per_thread: bool = False) -> View:
        """Memory in C order that holds what earlier kernels of the same operator hand to later ones."""

    def prepared_bytes(self, view: View) -> int:
        """Bytes of all that a run reads and is the same in every run, as parameters at inference; 0 if view is not."""

    def call(
        self,
        body: Callable[..., None],
        outputs: Sequence[View],
        inputs: Sequence[View],
        /,
        plain: bool = False,
        specs: Sequence[ArraySpec] | None = None,
        sizes: Sequence[int] = (),
        numbers: Sequence[float] = (),
        functions: Sequence[Kernel] = (),
        **static: Any,
    ) -> None:
        """Add a call of a kernel: body(*outputs, *inputs, **static). plain: as an operator's plain kernel.

        specs, sizes: numbers that the call gives, where kernels of other sizes are to share one code; see
        kernel.compile.Size. Where a value of `static` is a `Size`, the body gets that size. numbers: float32 numbers
        that the call gives, as the body's keyword argument `numbers`. functions: what the body calls by address, as
        its keyword argument `functions`.
        """


P = ParamSpec("P")


class Normalises(Protocol[P]):
    """An operator as type checkers see it when it is called: a call has the parameters of `normalise`."""

    def normalise(self, *inputs: P.args, **attributes: P.kwargs) -> dict[str, Any]: ...


class Operator:
    """What is computed: one class with the equation, the shape rule, the gradient and the kernel.

    One of your own needs `numpy`, and `vjp` for a gradient; the instance is what is called:

        class Cube(ops.Operator):
            def numpy(self, x):
                return x**3

            def vjp(self, dy, y, x):
                return (dy * 3.0 * x * x,)

        cube = Cube()
        slope = foveal.grad(lambda x: ops.sum(cube(x)))(np.ones((2, 3), "float32"))
        print(foveal.gradcheck(cube, np.random.randn(2, 3)))

    numpy(self, *inputs, **attributes): the output from arrays, in their precision; programs give copies. vjp(self, dy,
    y, *inputs, **attributes): a tuple with the gradient in each input, of its shape, None where there is none, computed
    from Tensors by operators. shape(self, *shapes, **attributes): the output's shape; without it numpy() is called once
    on zeros. normalise(self, x, *, power=2): the signature, where there are attributes (keywords); returns a dict of
    them. Class attributes: `name`, that of the class if not given; `integers`, the positions of inputs that are int32;
    `dtype`, of the output.

    Without a kernel, programs call its numpy(), and a warning says once what that takes; what numpy() raises, the call
    of the program or the step raises, and nothing is updated. It gets a kernel by `scalar` (see ops.Pointwise) or
    `kernel` (a loop nest, examples/own_kernel.py), in the language of foveal.kernel.lang. A class that is defined again
    under the same name, as in a notebook, replaces the one before; functions that hold that one's instance go on with
    it. `cases`, a tuple of ops.Case, is what the tests of this package derive from.

    Methods of the base take any arguments, so that each operator can name its own.
    """

    name: ClassVar[str]

    # Names this definition in kernels, also when the operator is defined again.
    key: str

    # sample inputs, for all tests and benchmarks
    cases: ClassVar[Sequence[Case]] = ()

    # the number of inputs, where it is fixed, and the positions of those that are int32
    arity: ClassVar[int | None] = None
    integers: ClassVar[tuple[int, ...]] = ()

    # of the output
    dtype: ClassVar[str] = "float32"

    # True if it is computed by the operators that `expand` calls
    composite: ClassVar[bool] = False

    # True if the output is the input's memory, seen with another shape or other strides
    view: ClassVar[bool] = False

    # True for a view that leaves out elements along an axis, so that gaps may remain between those it keeps
    slices: ClassVar[bool] = False

    # True if its kernels take inputs in any layout without gaps
    any_layout: ClassVar[bool] = False

    # what an epilogue can accumulate for it while its input is computed: sums or moments over N, H and W
    channel_reduction: ClassVar[Literal["sum", "moments"] | None] = None

    differentiable: ClassVar[bool] = True

    # True for a message between the shards of a batch: a program pauses for it (Program.parts), and numpy() computes
    # what it is for one shard alone
    between_shards: ClassVar[bool] = False

    # True if its kernels can end with the pointwise steps that follow (kernels/epilogue.py)
    epilogues: ClassVar[bool] = False

    # the parameters of a call, for inspect.signature and help
    __signature__: ClassVar[inspect.Signature]

    # those of them that are inputs
    input_names: ClassVar[frozenset[str]]

    # and those that are attributes without a default
    required: ClassVar[frozenset[str]]

    # True for operators of this package, False for those that users write
    of_package: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        # the module's source as it is now, while it is imported; its digest is a part of the names of kernels
        cls.of_package = not is_outside(cls.__module__)
        if not cls.of_package:
            module_digest(cls.__module__)
            if not hasattr(cls, "name"):
                cls.name = cls.__name__
        cls.__signature__ = signature(cls)
        parameters = cls.__signature__.parameters.values()
        cls.input_names = frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        cls.required = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)

    def __init__(self) -> None:
        before = OPS.get(self.name)
        if before is not None and (before.of_package or self.of_package):
            raise ArgumentError(
                f"two operators are called {self.name}, of which Foveal has one; give the new one another name, also"
                " where it is to replace that"
            )
        self.key = self.name
        if self.name in KEYED:
            REDEFINED.append(self.name)
            self.key = f"{self.name}#{REDEFINED.count(self.name) + 1}"
        OPS[self.name] = KEYED[self.key] = self

    def __call__(self: Normalises[P], *inputs: P.args, **attributes: P.kwargs) -> Tensor:
        """The output: a Tensor while a function is traced; else a NumPy array, computed at once.

        Takes what `normalise` takes. Raises ArgumentError for arguments that are missing or that it does not have, and
        ShapeError for values or shapes that do not fit together.
        """
        # type checkers take the parameters from `normalise`, and for the result a Tensor: it is what models are written
        # with, and what arrays can do as well
        assert isinstance(self, Operator)
        return self.apply(inputs, attributes)

    def apply(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> Any:
        """`__call__`, with the arguments as a tuple and a dictionary."""
        recording = current_recording()
        for x in inputs:
            if isinstance(x, Tensor):
                continue
            # NumPy would stack them into one array, which nobody means here.
            if isinstance(x, list | tuple) and any(getattr(part, "shape", ()) for part in x):
                raise ArgumentError(
                    f"{self.name}: an input is a {type(x).__name__} of arrays; pass the arrays one by one"
                )
        named = attributes and attributes.keys() & self.input_names
        if named or (self.arity is not None and len(inputs) != self.arity):
            # An input that is given by its name goes to its place; a wrong number of inputs is an error here.
            self.check_arguments(inputs, attributes)
            bound = self.__signature__.bind(*inputs, **attributes)
            inputs, attributes = bound.args, bound.kwargs
        lifted = [self.operand(x, i) if recording is None else recording.lift(x) for i, x in enumerate(inputs)]
        operands = tuple(lifted)
        full = self.normalise(*operands, **self.taken(inputs, attributes))
        if recording is not None:
            return recording.record(self, operands, full)
        known = self.of_package or type(self).shape is not Operator.shape
        shape = self.checked_shape(*(x.shape for x in operands), **full) if known else None
        if shape and 0 in shape:
            # Nothing is computed, and not every formula in NumPy can be asked to.
            floats = [np.asarray(x).dtype for x in operands if np.asarray(x).dtype.kind == "f"]
            return np.empty(shape, np.result_type(*floats) if floats and self.dtype == "float32" else self.dtype)
        try:
            # What cannot be computed is NaN or infinite, as in programs.
            with np.errstate(all="ignore"):
                found = self.numpy(*operands, **full)
            return found if self.of_package else checked_result(self, found, shape, operands)
        except MemoryError:
            raise ShapeError(f"{self.name}: there is not enough memory for a result of shape {shape}") from None

    def checked_shape(self, *shapes: Shape, **attributes: Any) -> Shape:
        """`shape`, with a ShapeError for results that no memory holds."""
        found = self.shape(*shapes, **attributes)
        shape = tuple(found) if self.of_package else as_shape(self.name, found)
        if math.prod(shape) > MOST_ELEMENTS:
            raise ShapeError(
                f"{self.name}: the result would have shape {shape}, which no memory holds; use smaller sizes"
            )
        return shape

    def taken(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> dict[str, Any]:
        """The attributes of a call, each of which has to be what its annotation in `normalise` says."""
        if not self.required <= attributes.keys() <= self.__signature__.parameters.keys():
            self.check_arguments(inputs, attributes)
        if not attributes:
            return {}
        kinds, taken = attribute_kinds(type(self).normalise), {}
        for name, value in attributes.items():
            kind = kinds.get(name)
            try:
                taken[name] = kind.take(value) if kind else value
            except Refused as reason:
                assert kind is not None
                raise refusal(self.name, name, value, kind, reason) from None
        return taken

    def operand(self, x: object, position: int) -> Ndarray:
        """An input that is computed with at once, as an array. Raises ArgumentError for what is no array of numbers."""
        try:
            array: Ndarray = numbers_array(x)
        except Refused:
            raise ArgumentError(
                f"{self.name}: input {position} is {shown(x)}, it has to be an array of numbers"
            ) from None
        if position in self.integers and array.dtype.kind not in "iu":
            raise ShapeError(
                f"{self.name}: input {position} is {array.dtype}, it has to be int32; convert it with astype"
            )
        if array.dtype.kind == "b":
            # Truth values are 1 and 0, as the operators that compare give them.
            return array.astype(np.float32)
        # Sums and products of small integers leave their range.
        return array.astype(np.int32) if array.dtype.kind in "iu" and array.dtype.itemsize < 4 else array

    def check_arguments(self, inputs: Sequence[object], attributes: Mapping[str, object]) -> None:
        """Raise ArgumentError where a call lacks an argument, or has one that the operator does not take."""
        try:
            self.__signature__.bind(*inputs, **attributes)
        except TypeError as error:
            # what users write; their own operators have no place in foveal.ops
            place = "ops." if self.of_package else ""
            raise wrong_call(f"{place}{self.name}", self.__signature__, error, attributes) from None

    def __repr__(self) -> str:
        return self.name

    def normalise(self, *inputs: Any, **attributes: Any) -> dict[str, Any]:
        """Attributes in their full form (hashable), from those of a call; an error for those that can mean nothing.

        Inputs have a shape here: numbers and variables are Tensors or arrays already.
        """
        self.check_arguments(inputs, attributes)
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
        """The output's type; ShapeError where the number of inputs, their dtypes or their shapes do not fit."""
        if self.arity is not None and len(inputs) != self.arity:
            raise ShapeError(f"{self.name}: takes {self.arity} inputs, got {len(inputs)}")
        for position, t in enumerate(inputs):
            expected = "int32" if position in self.integers else "float32"
            if t.dtype != expected:
                raise ShapeError(
                    f"{self.name}: input {position} is {t.dtype}, it has to be {expected}; convert it with astype"
                )
        return Type(self.checked_shape(*(t.shape for t in inputs), **attributes), self.dtype)

    def type_of(self, inputs: tuple[Type, ...], attributes: Mapping[str, Any]) -> Type:
        """`type`, computed once for equal inputs and attributes, on which alone it depends.

        Operators that users write may also read what changes, such as an attribute of their own; theirs is computed
        each time. Raises ArgumentError for one of their attributes that cannot be hashed.
        """
        if self.of_package:
            return known_type(self, inputs, tuple(attributes.items()))
        for name, value in attributes.items():
            try:
                hash(value)
            except TypeError:
                raise ArgumentError(
                    f"{self.name}: {name} is {shown(value)}, which cannot be hashed; let normalise return a number,"
                    " a text or a tuple of such"
                ) from None
        return self.type(*inputs, **attributes)

    def shape(self, *shapes: Any, **attributes: Any) -> Shape:
        """The output's shape, from the inputs' shapes; unless overridden that of what numpy() returns for zeros."""
        return derived_shape(self, shapes, attributes)

    def numpy(self, *inputs: Any, **attributes: Any) -> Ndarray:
        """The output, in the precision of the inputs."""
        raise NotImplementedError(f"{self.name} computes nothing: define numpy(self, *inputs), which returns an array")

    def vjp(self, *arguments: Any, **attributes: Any) -> tuple[Tensor | None, ...]:
        """(dy, y, *inputs) -> the gradient in each input, None where there is none."""
        raise NotImplementedError(
            f"{self.name} has no gradient: define vjp(self, dy, y, *inputs), or set differentiable = False"
        )

    def kernel(self, *arrays: Any, **attributes: Any) -> None:
        """(y, *inputs): a loop nest in the kernel language that writes y, the output."""
        raise NotImplementedError(f"{self.name} has no kernel")

    def scalar(self, *values: Any, **attributes: Any) -> Scalar:
        """One element of the output, or lanes of elements, from the inputs at the same index."""
        raise NotImplementedError(f"{self.name} is not pointwise")

    def expand(self, *inputs: Any, **attributes: Any) -> Tensor:
        """The output, computed by other operators."""
        raise NotImplementedError(f"{self.name} is no composite")

    @property
    def has_kernel(self) -> bool:
        """False for messages, and for operators outside of this package whose numpy() programs have to call."""
        own = type(self)
        written = own.kernel is not Operator.kernel or own.lower is not Operator.lower
        return not self.between_shards and (self.of_package or self.composite or self.view or written)

    def strides(self, shape: Shape) -> Shape:
        """The strides of the output in memory: channels last for images, C order for all else."""
        return usual(shape)

    def view_strides(self, *arguments: Any, **attributes: Any) -> Shape | None:
        """For a `view`, called with an input's shape and strides: the output's strides in the input's memory.

        None if the input has to be copied into C order first.
        """
        raise NotImplementedError(f"{self.name} is not a view")

    def view_offset(self, *strides: Any, **attributes: Any) -> int:
        """For a `view`, called with an input's strides: where the output begins in the input's memory, in elements."""
        return 0

    def flops(self, y: Type, *inputs: Any, **attributes: Any) -> int:
        """Multiplications and additions of the equation, counted for operators whose time they decide; else 0."""
        return 0

    def problem(self, *shapes: Any, **attributes: Any) -> Any:
        """What an algorithm is chosen by, for inputs of these shapes; None where there is one way to compute."""
        return None

    def lower(self, lowering: Lowering, y: View, /, *inputs: Any, **attributes: Any) -> None:
        """Add the calls of the kernels that compute the output; unless overridden the plain one."""
        lowering.call(self.kernel, [y], inputs, plain=True, **attributes)

    def prologue(self, *shapes: Any, **attributes: Any) -> int | None:
        """The position of an input, of these shapes, that lower_results takes as an expression.FusedInput, if any."""
        return None

    def lower_results(self, lowering: Lowering, y: Any, /, *inputs: Any, **attributes: Any) -> None:
        """For an operator with `epilogues`: as `lower`, with an EpilogueOutputs in place of the output."""
        raise NotImplementedError(f"{self.name} takes no epilogue")


@checked
def operator(
    numpy: Callable[..., Ndarray],
    vjp: Callable[..., Any] | None = None,
    shape: Callable[..., Shape] | None = None,
    name: str = "",
) -> Operator:
    """Return an operator of your own from functions: the methods of `Operator` without self.

        cube = ops.operator(lambda x: x**3, vjp=lambda dy, y, x: dy * 3.0 * x * x, name="cube")

    name: that of `numpy` if not given. Like any operator without a kernel, it runs in Python.
    """
    given = {"numpy": numpy, "vjp": vjp, "shape": shape}
    methods = {kind: as_method(function) for kind, function in given.items() if function is not None}
    called = name or getattr(numpy, "__name__", "operator")
    body = {"name": called, "differentiable": vjp is not None, "__doc__": numpy.__doc__, **methods}
    made = type(called, (Operator,), body | {"__module__": getattr(numpy, "__module__", None) or "__main__"})
    return cast(Operator, made())


@lru_cache(maxsize=MOST_TYPES)
def known_type(operator: Operator, inputs: tuple[Type, ...], attributes: tuple[tuple[str, Any], ...]) -> Type:
    """The type of an operator's output. A graph is recorded, simplified and verified, with the same types each time."""
    return operator.type(*inputs, **dict(attributes))


def signature(operator: type[Operator]) -> inspect.Signature:
    """The parameters of a call, without their types: those of `normalise`, or of `numpy` where there is none."""
    method = operator.numpy if operator.normalise is Operator.normalise else operator.normalise
    _, *parameters = inspect.signature(method).parameters.values()
    return inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters])


# by name
OPS: dict[str, Operator] = cast("dict[str, Operator]", CALLS)

# Every definition by its key. Kernels name operators by keys, so that one that is defined again changes nothing that is
# compiled with the one before.
KEYED: dict[str, Operator] = {}

# The names of those that were defined again, in order. Where it has grown, functions may look up another operator now.
REDEFINED: list[str] = []


# What the arguments of a call have to be, by name, as an operator's `normalise` says.
attribute_kinds = cache(kinds_of)


class Recording(Protocol):
    """What operators are recorded by while a function is traced (trace.py, passes/simplify.py)."""

    def lift(self, value: Any, /) -> Tensor:
        """A Tensor of this recording for a Tensor, a variable or a number."""

    def record(self, op: Operator, inputs: tuple[Any, ...], attributes: dict[str, Any], /) -> Tensor:
        """The output of an operator with attributes in full form."""


def current_recording() -> Recording | None:
    """The recording that this thread is in; None where operators compute at once."""
    recording: Recording | None = RECORDED.recording
    return recording


@contextmanager
def recording_with(recording: Recording) -> Iterator[None]:
    """Inside of the block this thread's operators are recorded by `recording` instead of being computed."""
    previous, RECORDED.recording = current_recording(), recording
    try:
        yield
    finally:
        RECORDED.recording = previous
