"""Parameter, Buffer and Module: networks as Python objects with PyTorch's names and layouts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foveal.api import Compiled, as_argument, check_finite
from foveal.errors import DataError, ShapeError, StateError
from foveal.strides import Ndarray
from foveal.trace import Symbol, current
from foveal.variable import Variable

if TYPE_CHECKING:
    from foveal.explain import Summary


class Parameter(Variable):
    """A Variable that is trained. trainable = False freezes it."""

    def __init__(self, value: Any, name: str = "", trainable: bool = True) -> None:
        super().__init__(value, name)
        self.trainable = trainable


class Buffer(Variable):
    """A Variable that belongs to the state but is not trained, such as running statistics."""


class Counter(Buffer):
    """A whole number, such as of the batches seen. Programs count in float32, exactly up to 2^24; outside it is
    int64.
    """

    def __init__(self) -> None:
        super().__init__(np.zeros(()))

    @property
    def data(self) -> Ndarray:
        return super().data.astype(np.int64)

    @data.setter
    def data(self, value: Any) -> None:
        Variable.data.fset(self, value)  # type: ignore[attr-defined]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Ndarray:
        return np.array(self.data, dtype=dtype)


class Module:
    """Base of layers and models. A subclass sets its parts as attributes and defines `forward(x)`.

    Called on a NumPy array it is compiled for that shape and returns NumPy; called on a symbol it adds to the trace.
    """

    training: bool = True

    def forward(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(x)")

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "training":  # what was compiled may not be what the model is now
            self.__dict__.pop("_programs", None)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """What copies take over: all but what was compiled."""
        return {name: value for name, value in self.__dict__.items() if name != "_programs"}

    def __call__(self, x: Any) -> Any:
        if isinstance(x, Symbol):
            return self.traced(x)
        x = as_argument(x, f"the input of {type(self).__name__}")
        if x.size == 0:
            raise DataError(f"the input of {type(self).__name__} is empty (shape {x.shape})")
        check_finite(x, f"the input of {type(self).__name__}")
        programs: dict[Any, Compiled] = self.__dict__.setdefault("_programs", {})
        modes = tuple(module.training for _, module in self.named_modules())
        if modes not in programs:
            self.name_parameters()
            programs[modes] = Compiled(self.keyed)
        calls = self.__dict__["_calls"] = self.__dict__.get("_calls", 0) + 1
        return programs[modes](x, np.array([0, 0, calls, 0], np.int32))

    def keyed(self, x: Any, key: Any) -> Any:
        """forward, with the numbers that random layers draw from: they change from call to call."""
        current().key = key
        return self.traced(x)

    def traced(self, x: Any) -> Any:
        """forward, with this layer's name added to an error about shapes."""
        try:
            with current().calling(self) as call:
                call.result = self.forward(x)
            return call.result
        except ShapeError as error:
            name = self.__dict__.get("_name")
            if not name or getattr(error, "layer", None):
                raise
            located = ShapeError(f"layer {name}, {self}: {error}")
            located.layer = name  # type: ignore[attr-defined]
            raise located from None

    def summary(self, input_shape: Sequence[int] | int, batch: int = 1) -> "Summary":
        """Layer by layer: shape, parameters, multiply-adds, receptive field, what strides never read (foveal.explain).

        input_shape: of one image, (C, H, W). Nothing is computed; `print` it for a table.
        """
        from foveal.explain import explain

        return explain(self, input_shape, batch)

    def children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, module) of the direct parts, in the order they were set."""
        for name, value in self.__dict__.items():
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """(dotted name, module) of this module and all below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_variables(self, kind: type[Variable] = Variable) -> Iterator[tuple[str, Any]]:
        """(dotted name, variable) of parameters and buffers, in PyTorch's order."""
        for prefix, module in self.named_modules():
            for of in (Parameter, Buffer):
                for name, value in module.__dict__.items():
                    if isinstance(value, of) and isinstance(value, kind):
                        yield f"{prefix}.{name}" if prefix else name, value

    def name_parameters(self) -> None:
        """Give every variable and layer its dotted name, for messages and printed graphs."""
        for name, variable in self.named_variables():
            variable.name = name
        for name, module in self.named_modules():
            module.__dict__["_name"] = name

    def parameters(self) -> list[Parameter]:
        """All parameters, each once."""
        self.name_parameters()
        return list(dict.fromkeys(variable for _, variable in self.named_variables(Parameter)))

    def train(self, mode: bool = True) -> "Module":
        """Training behaviour (batch statistics, dropout), for this module and all below it."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Inference behaviour."""
        return self.train(False)

    def state_dict(self) -> dict[str, Ndarray]:
        """Copies of all parameters and buffers by dotted name, C-contiguous, filters as [K, C, R, S]."""
        return {name: np.array(variable.data, order="C") for name, variable in self.named_variables()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays in by name. Raises StateError that lists all that does not fit; then nothing is changed.

        strict: off to leave parameters that `state` lacks as they are, and to ignore what the model does not have.
        """
        own = dict(self.named_variables())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        misshaped = [
            f"{name}: the file has {list(np.shape(state[name]))}, the model {list(v.shape)}"
            for name, v in own.items()
            if name in state and np.shape(state[name]) != v.shape
        ]
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
        for name, variable in own.items():
            if name in state:
                variable.data = np.asarray(state[name])

    def __repr__(self) -> str:
        inner = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.children()]
        head = f"{type(self).__name__}({self.describe()}"
        return "\n".join([head, *inner, ")"]) if inner else head + ")"

    def describe(self) -> str:
        """The hyper-parameters shown when the module is printed."""
        return ""


def check_positive(layer: str, **values: int) -> None:
    """Sizes have to be whole numbers of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ShapeError(f"{layer}: {name} is {value!r}, it has to be a whole number of 1 or more")
