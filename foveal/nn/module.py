"""Parameter, Buffer and Module: networks as Python objects with PyTorch's names and layouts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from foveal.api import Compiled, as_argument, check_finite
from foveal.arguments import checked
from foveal.errors import DataError, ShapeError, StateError
from foveal.ops.op import Tensor
from foveal.strides import Ndarray
from foveal.trace import Symbol, current
from foveal.variable import Variable

if TYPE_CHECKING:
    from foveal.explain import Summary

# the class of the variables that Module.named_variables yields
Kind = TypeVar("Kind", bound=Variable)
# What a layer returns: one array, or several (MaxPool2d with its indices, GoogLeNet with its auxiliary classifiers).
Output = Tensor | tuple[Tensor, ...]


class Parameter(Variable):
    """A Variable that optimisers train. trainable = False freezes it.

    value: the starting values, an array of any shape; they are stored as float32.
    """

    def __init__(self, value: ArrayLike, name: str = "", trainable: bool = True) -> None:
        super().__init__(value, name)
        self.trainable = trainable


class Buffer(Variable):
    """A Variable that belongs to the state but is not trained, such as running statistics."""


class Counter(Buffer):
    """A whole number, such as the number of batches seen.

    Programs hold it as float32, which counts exactly up to 2^24; `data` gives it as int64.
    """

    def __init__(self) -> None:
        super().__init__(np.zeros(()))

    @property
    def data(self) -> Ndarray:
        return super().data.astype(np.int64)

    @data.setter
    def data(self, value: ArrayLike) -> None:
        self.assign(value)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Ndarray:
        return np.array(self.data, dtype=dtype)


class Module:
    """Base of layers and models. A subclass sets its parts as attributes and defines `forward(x)`.

    Called on a NumPy array, a module is compiled for the array's shape and returns NumPy arrays. Called on a Tensor,
    while a function is traced, it adds its operators to the trace.
    """

    training: bool = True

    def forward(self, x: Tensor) -> Output:
        """Compute the output with operators and other modules. Each subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x)")

    def __setattr__(self, name: str, value: object) -> None:
        # Programs were compiled for the parts that the model had; `training` is part of the
        # key under which they are stored.
        if name != "training":
            self.__dict__.pop("_programs", None)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take over: all attributes but the compiled programs."""
        return {name: value for name, value in self.__dict__.items() if name != "_programs"}

    def __call__(self, x: Tensor | ArrayLike) -> Any:
        """Return what `forward` computes of x: Tensors of a Tensor, NumPy arrays of an array [N, ...].

        Raises DataError for an empty array, NumericsError for NaN or infinity in it, ShapeError where the shape or the
        dtype does not fit.
        """
        if isinstance(x, Tensor):
            return self.traced(x)
        x = as_argument(x, f"the input of {type(self).__name__}")
        if x.size == 0:
            raise DataError(f"the input of {type(self).__name__} is empty (shape {x.shape}); give one image or more")
        check_finite(x, f"the input of {type(self).__name__}")
        # One Compiled for each combination of training and evaluation modes; it holds a program for each shape.
        programs: dict[tuple[bool, ...], Compiled] = self.__dict__.setdefault("_programs", {})
        modes = tuple(module.training for _, module in self.named_modules())
        if modes not in programs:
            self.name_parameters()
            programs[modes] = Compiled(self.keyed)
        # The key of random layers is (seed low, seed high, step low, step high), here with seed 0 and the number of
        # calls as step.
        calls = self.__dict__["_calls"] = self.__dict__.get("_calls", 0) + 1
        return programs[modes](x, np.array([0, 0, calls, 0], np.int32))

    def keyed(self, x: Tensor, key: Symbol) -> Output:
        """Trace `forward` with the key, int32 [4], of the random numbers of its layers; each call has another one."""
        current().key = key
        return self.traced(x)

    def traced(self, x: Tensor) -> Output:
        """Trace `forward` as a call of this layer; an error about shapes gets the layer's name."""
        try:
            with current().calling(self) as call:
                call.input = x
                call.result = self.forward(x)
            return call.result
        except ShapeError as error:
            # Only the innermost layer names itself: it is the one that the shapes do not fit.
            name = self.__dict__.get("_name")
            if not name or getattr(error, "layer", None):
                raise
            located = ShapeError(f"layer {name}, {self}: {error}")
            located.layer = name  # type: ignore[attr-defined]
            raise located from None

    def summary(self, input_shape: Sequence[int] | int, batch: int = 1) -> "Summary":
        """Layer by layer: shape, parameters, multiply-adds, receptive field, what strides never read (foveal.explain).

        input_shape: the shape of one image, (C, H, W). Nothing is computed; `print` it for a table.
        """
        from foveal.explain import explain

        return explain(self, input_shape, batch)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """Yield (name, module) of the direct parts, in the order in which they were set."""
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Yield (dotted name, module) of this module and all below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    @overload
    def named_variables(self) -> Iterator[tuple[str, Variable]]: ...

    @overload
    def named_variables(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]: ...

    def named_variables(self, kind: type[Variable] = Variable) -> Iterator[tuple[str, Variable]]:
        """Yield (dotted name, variable) of parameters and buffers, in PyTorch's order.

        kind: the class of the variables to yield, Parameter for instance.
        """
        for prefix, module in self.named_modules():
            for group in (Parameter, Buffer):
                for name, value in module.__dict__.items():
                    if isinstance(value, group) and isinstance(value, kind):
                        yield f"{prefix}.{name}" if prefix else name, value

    def name_parameters(self) -> None:
        """Give every variable and layer its dotted name, for messages and printed graphs."""
        for name, variable in self.named_variables():
            variable.name = name
        for name, module in self.named_modules():
            module.__dict__["_name"] = name

    def parameters(self) -> list[Parameter]:
        """Return all parameters, each once, also where layers share it."""
        self.name_parameters()
        return list(dict.fromkeys(variable for _, variable in self.named_variables(Parameter)))

    @checked
    def train(self, mode: bool = True) -> Self:
        """Switch this module and all below it to training behaviour (batch statistics, dropout), and return it."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch this module and all below it to inference behaviour, and return it."""
        return self.train(False)

    def state_dict(self) -> dict[str, Ndarray]:
        """Copies of all parameters and buffers by dotted name, C-contiguous, filters as [K, C, R, S]."""
        return {name: np.array(variable.data, order="C") for name, variable in self.named_variables()}

    @checked
    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy arrays in by name. Raises StateError that lists all that does not fit; then nothing is changed.

        strict: False leaves parameters that `state` lacks as they are, and ignores what the model does not have.
        """
        variables = dict(self.named_variables())
        missing = [name for name in variables if name not in state]
        unexpected = [name for name in state if name not in variables]
        misshaped = [
            f"{name}: the file has {list(np.shape(state[name]))}, the model {list(v.shape)}"
            for name, v in variables.items()
            if name in state and np.shape(state[name]) != v.shape
        ]
        # All problems go into one message, so that they can be solved at once.
        problems = [f"of another shape: {'; '.join(misshaped)}"] if misshaped else []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unknown to the model: {', '.join(unexpected)}")
        if problems:
            raise StateError(
                f"the stored parameters do not fit this {type(self).__name__}: {'. '.join(problems)}."
                " Build the model that they were stored from, or load what fits with strict=False"
            )
        for name, variable in variables.items():
            if name in state:
                variable.data = np.asarray(state[name])

    def __repr__(self) -> str:
        inner = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children()]
        head = f"{type(self).__name__}({self.describe()}"
        return "\n".join([head, *inner, ")"]) if inner else head + ")"

    def describe(self) -> str:
        """Return the hyper-parameters that are shown when the module is printed."""
        return ""
